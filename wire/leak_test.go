package wire

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"time"
	"weak"

	"parley/internal/race"
)

// sockets returns weak pointers to the open sockets.
func (f *fixture) sockets() []weak.Pointer[socket] {
	f.server.connections.mu.Lock()
	defer f.server.connections.mu.Unlock()
	var list []weak.Pointer[socket]
	for c := range f.server.connections.open {
		if s, ok := c.(*socket); ok {
			list = append(list, weak.Make(s))
		}
	}
	return list
}

// wantFreed waits until the garbage collector has freed all of them.
func wantFreed[T any](t *testing.T, what string, list []weak.Pointer[T]) {
	t.Helper()
	left := 0
	eventually(t, "all "+what+" are freed", func() bool {
		runtime.GC()
		left = 0
		for _, p := range list {
			if p.Value() != nil {
				left++
			}
		}
		return left == 0
	})
}

// burst is the number of subscriptions of fixture.burst.
const burst = 50

// burst sends subscriptions of each kind at once, and waits until all have ended: by the client, by
// the server, and with an error.
func (f *fixture) burst(c *client) (delegated []weak.Pointer[Operation]) {
	f.t.Helper()
	var b []byte
	add := func(text string) { b = append(b, frameOf(finBit|opText, text)...) }
	for i := range burst / 5 {
		id := itoa(i)
		add(subscribe("silent"+id, "subscription { silence }"))
		add(complete("silent" + id))
		add(subscribe("ticks"+id, "subscription { ticks(to: 1) }"))
		add(subscribe("refused"+id, "subscription { refused }"))
		add(subscribe("left"+id, "subscription { delegated }"))
		add(subscribe("ended"+id, "subscription { delegated }"))
	}
	c.raw(b)
	for range 2 * (burst / 5) {
		op := <-f.delegated
		delegated = append(delegated, weak.Make(op))
		if op.Next([]byte("1")); op.id[0] == 'e' {
			op.Complete()
		}
	}
	ends := 0
	for ends < 4*(burst/5) { // a next, or an end
		_, payload, err := c.read()
		if err != nil {
			f.t.Fatal(err)
		}
		switch {
		case bytes.HasPrefix(payload, []byte(`{"id":"left`)):
			c.send(`{"type":"complete",` + string(payload[1:bytes.IndexByte(payload, ',')]) + "}")
			ends++
		case !bytes.Contains(payload, []byte(`"type":"next"`)):
			ends++
		}
	}
	return delegated
}

// cycles is the number of subscriptions in a test for leaks.
const cycles = 100_000 / race.Slowness

// wantNothingLeft compares goroutines and memory after all cycles with those after a tenth of them:
// they must not grow with the number of cycles.
func wantNothingLeft(t *testing.T, cycle func(n int)) {
	t.Helper()
	cycle(cycles / 10)
	goroutinesBefore, heapBefore := goroutines(t), heap()
	cycle(cycles - cycles/10)
	if got := goroutines(t); got > goroutinesBefore {
		t.Errorf("%d goroutines more than before", got-goroutinesBefore)
	}
	const kept = 512 << 10 // by the clients of the tests
	if grown := int64(heap()) - int64(heapBefore); grown > kept+8*cycles {
		t.Errorf("the heap has grown by %d bytes with another %d", grown, cycles-cycles/10)
	}
}

// A hundred thousand subscriptions that start and end on one socket leak nothing while it is open.
// This test runs alone, because it counts goroutines.
func TestNothingIsLeftOfOperations(t *testing.T) { //nolint:paralleltest // see above
	f := mustServe(t, func(o *Options) { o.MaxOperations = 1 << 20 })
	c := f.open()
	_ = c.conn.SetDeadline(time.Time{}) // it takes a while
	wantNothingLeft(t, func(n int) {
		var operations []weak.Pointer[Operation]
		for done := 0; done < n; done += burst {
			operations = append(operations, f.burst(c)...)
		}
		wantFreed(t, "operations", operations)
	})
	c.send(`{"type":"ping"}`)
	c.want(`{"type":"pong"}`)
}

// The same on a thousand sockets that come and go. This test runs alone, because it counts
// goroutines.
func TestNothingIsLeftOfSockets(t *testing.T) { //nolint:paralleltest // see above
	f := mustServe(t, func(o *Options) { o.MaxOperations = 1 << 20 })
	wantNothingLeft(t, func(n int) {
		var sockets []weak.Pointer[socket]
		for done := 0; done < n; done += 2 * burst {
			c := f.open()
			sockets = append(sockets, f.sockets()...)
			f.burst(c)
			f.burst(c)
			c.leave(done / burst / 2)
		}
		eventually(t, "all sockets are closed", func() bool { return f.connections() == 0 })
		f.mu.Lock()
		f.ends = nil // they know their sockets
		f.mu.Unlock()
		wantFreed(t, "sockets", sockets)
	})
}

// leave ends a socket in one of three ways.
func (c *client) leave(way int) {
	c.t.Helper()
	switch way % 3 {
	case 0:
		c.raw(frameOf(finBit|opClose, string(closeFrame(1000, ""))))
		c.closed()
	case 1:
		c.send("hello")
		c.closed()
	}
	_ = c.conn.Close()
}

// halfOpen are clients that stop sending, each in another state.
var halfOpen = map[string]func(f *fixture) *client{
	"before the initialisation": func(f *fixture) *client { return f.dial() },
	"in the middle of it": func(f *fixture) *client {
		c := f.dial()
		c.raw(frameOf(finBit|opText, `{"type":"connection_init"}`)[:9])
		return c
	},
	"idle": func(f *fixture) *client { return f.open() },
	"in the middle of a frame": func(f *fixture) *client {
		c := f.open()
		c.raw(frameOf(finBit|opText, `{"type":"ping"}`)[:9])
		return c
	},
	"in the middle of a message": func(f *fixture) *client {
		c := f.open()
		c.raw(frameOf(opText, `{"type":`))
		return c
	},
	"with a subscription": func(f *fixture) *client {
		c := f.open()
		c.send(subscribe("s", "subscription { silence }"))
		return c
	},
	"with a subscription that waits for room": func(f *fixture) *client {
		c := f.open()
		c.send(subscribe("s", "subscription { ticks(to: 100000000) }"))
		return c
	},
	"with one that the executor does not run": func(f *fixture) *client {
		c := f.open()
		c.send(subscribe("s", "subscription { delegated }"))
		<-f.delegated
		return c
	},
}

// Thousands of half-open connections are detected and leak nothing: no goroutine, no memory, no
// result of OnConnect. A client that answers stays connected and is served. This test runs alone,
// because it counts goroutines.
func TestHalfOpenByTheThousand(t *testing.T) { //nolint:paralleltest // see above
	const each = 200
	f := mustServe(t, func(o *Options) {
		// Long enough for the client that answers, on a busy machine.
		o.InitTimeout, o.MessageTimeout, o.PingInterval = 3*time.Second, 3*time.Second,
			3*time.Second
		o.WriteTimeout, o.Linger, o.QueueItems = 3*time.Second, 100*time.Millisecond, 10
	})
	alive := f.open()
	if err := alive.conn.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	before := goroutines(t)
	served := make(chan error)
	stop := make(chan struct{})
	go func() { served <- alive.stayAlive(stop) }()
	held := 1 // by the one that stays
	var freed []weak.Pointer[socket]
	for name, leave := range halfOpen {
		n := each
		// Each takes megabytes until there is no room.
		if name == "with a subscription that waits for room" {
			n = each / 20
		}
		for range n {
			leave(f)
		}
		freed = append(freed, f.sockets()...)
		if name != "before the initialisation" && name != "in the middle of it" {
			held += n
		}
	}
	eventually(t, "the clients that do not answer are gone",
		func() bool { return f.connections() == 1 })
	f.mu.Lock()
	if len(f.ends) != held || f.release != held-1 {
		t.Errorf(
			"OnConnect was called %d times, and %d connections were released; want %d and one less",
			len(f.ends), f.release, held)
	}
	f.ends = nil // they know their sockets
	f.mu.Unlock()
	close(stop)
	if err := <-served; err != nil {
		t.Errorf("the client that answers was not served: %v", err)
	}
	if got := goroutines(t); got > before {
		t.Errorf("%d goroutines more than before", got-before)
	}
	_ = alive.conn.Close()
	eventually(t, "the last one is gone", func() bool { return f.connections() == 0 })
	wantFreed(t, "sockets", freed)
	f.open() // and others can connect
}

// stayAlive answers pings and sends queries until it is stopped.
func (c *client) stayAlive(stop <-chan struct{}) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-again.C:
		}
		if _, err := c.conn.Write(frameOf(finBit|opText, subscribe("q", "{ name }"))); err != nil {
			return err
		}
		for answered := false; !answered; {
			opcode, payload, err := c.read()
			if err != nil {
				return err
			}
			switch opcode {
			case opPing:
				_, err = c.conn.Write(frameOf(finBit|opPong, string(payload)))
			case opText:
				answered = string(payload) == complete("q")
			default:
				err = fmt.Errorf("got %d %q", opcode, payload)
			}
			if err != nil {
				return err
			}
		}
	}
}
