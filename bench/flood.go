package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"parley/internal/client"
)

const (
	// floodConns is how many connections send requests at the same time.
	floodConns = 50
	// floodRequests is how many requests each connection sends over HTTP, one after another.
	floodRequests = 4
	// floodOperations is how many operations each WebSocket carries.
	floodOperations = 100
	// floodTimeout is how long a WebSocket that does not read stays open.
	floodTimeout = 10 * time.Second
)

// flood is the load of many connections at the same time.
type flood struct {
	name string
	run  func(ctx context.Context, counts *outcomes) error
}

// outcomes counts answers by their description.
type outcomes struct {
	mu sync.Mutex // guards by
	by map[string]int
}

func (o *outcomes) add(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.by[what]++
}

// cutOff is the outcome of a request on a connection that the server closed.
const cutOff = "cut off"

func (o *outcomes) String() string {
	var b []string
	for what, n := range o.by {
		b = append(b, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(b)
	return strings.Join(b, ", ")
}

// floods returns the rows about many connections.
func (a *abuser) floods() []flood {
	var all []flood
	for _, r := range a.requests() {
		switch r.name {
		case "98 messages of 4,000 emoji", "nearly 12,000 fields", "introspection, as tools ask",
			"98 long messages of each of 8 conversations", "a list of 2,300 numbers",
			"255 KB of comments":
			all = append(all,
				flood{r.name + ", over HTTP", a.overHTTP(r)},
				flood{
					fmt.Sprintf("%s, %d on each WebSocket", r.name, floodOperations),
					a.overSockets(r.withComment, false),
				},
				flood{
					fmt.Sprintf("%s, %d on each WebSocket that reads nothing", r.name,
						floodOperations),
					a.overSockets(r.same, true),
				})
		}
	}
	return all
}

// floodRow measures one flood.
func (a *abuser) floodRow(ctx context.Context, f flood) ([]string, error) {
	before, err := a.resetMemory(ctx)
	if err != nil {
		return nil, err
	}
	counts := &outcomes{by: map[string]int{}}
	if err := f.run(ctx, counts); err != nil {
		return nil, err
	}
	peak, err := peakMemory(a.pid())
	if err != nil {
		return nil, err
	}
	return []string{f.name, megabytes(peak - before), counts.String()}, nil
}

func (a *abuser) overHTTP(r request) func(context.Context, *outcomes) error {
	return func(ctx context.Context, counts *outcomes) error {
		return allAtOnce(ctx, floodConns, func(ctx context.Context, i int) error {
			for n := range floodRequests {
				body, err := r.withComment(i*floodRequests + n).body()
				if err != nil {
					return err
				}
				_, answer, err := client.Post(ctx, httpClient, a.url, a.token(r), body)
				if err != nil {
					counts.add(cutOff)
					continue
				}
				counts.add(answeredWith(answer))
			}
			return nil
		})
	}
}

// overSockets sends requests over WebSockets. If stalls is true, they read no answers.
func (a *abuser) overSockets(
	request func(i int) request, stalls bool,
) func(context.Context, *outcomes) error {
	return func(ctx context.Context, counts *outcomes) error {
		return allAtOnce(ctx, floodConns, func(_ context.Context, i int) error {
			return a.overSocket(func(n int) client.Operation {
				return request(i*floodOperations + n).operation()
			}, a.token(request(0)), stalls, counts)
		})
	}
}

// overSocket sends operations over one WebSocket.
func (a *abuser) overSocket(
	operation func(n int) client.Operation, token string, stalls bool, counts *outcomes,
) error {
	buffer := 0
	if stalls {
		buffer = stallBuffer
	}
	c, err := dial(a.url, buffer)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.send(client.Init(token)); err != nil {
		return err
	}
	if _, err := c.message(); err != nil {
		return err
	}
	written := make(chan struct{})
	defer func() {
		_ = syscall.Shutdown(c.fd, syscall.SHUT_RDWR)
		<-written
	}()
	go func() {
		defer close(written)
		for n := range floodOperations {
			if c.send(client.Subscribe(fmt.Sprint(n), operation(n))) != nil {
				return
			}
		}
	}()
	if stalls {
		time.Sleep(floodTimeout)
		return nil
	}
	countAnswers(c, counts)
	return nil
}

// countAnswers counts the answers on a connection until all operations have ended, or it is closed.
func countAnswers(c *conn, counts *outcomes) {
	for left := floodOperations; left > 0; {
		payload, err := c.message()
		if err != nil {
			counts.add(cutOff)
			return
		}
		if len(payload) == 0 {
			continue // a ping frame
		}
		var m client.Message
		if json.Unmarshal(payload, &m) != nil {
			counts.add("closed")
			return
		}
		switch m.Type {
		case client.TypeNext:
			counts.add(answeredWith(m.Payload))
		case client.TypeError:
			counts.add(answeredWith([]byte(`{"errors":` + string(m.Payload) + `}`)))
			left--
		case client.TypeComplete:
			left--
		}
	}
}

// allAtOnce calls fn with every number below n, all at the same time.
func allAtOnce(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = fn(ctx, i) })
	}
	all.Wait()
	return errors.Join(errs...)
}
