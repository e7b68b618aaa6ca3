package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// warmConns is how many connections are opened, used and closed before memory is measured, so that
// memory that a server needs once does not count for each connection.
const warmConns = 100

// memory measures the memory of connections that are subscribed and idle, and again after messages.
func (w *wire) memory(ctx context.Context) error {
	t := table{head: []string{
		"server", "connections", "resident memory of each, idle",
		fmt.Sprintf("after %d messages to all of them", loadMessages), "ratio",
		"the same, before it is freed",
	}}
	const fields = "id seq content createdAt"
	w.parley.fields, w.stock.fields = fields, fields
	if w.raw.frame == nil {
		const like = `{"id":"1","type":"next","payload":{"data":{"messageAdded":{%s0,%s%s"}}}}`
		frame := fmt.Sprintf(like, seqField, contentField, content)
		w.raw.frame = func() []byte { return []byte(frame) }
	}
	for _, target := range []target{w.parley, w.raw, w.stock} {
		w.note("over the wire: memory of %d connections, %s", w.idleConns, target.title())
		row, err := w.measureMemory(ctx, target)
		if err != nil {
			return fmt.Errorf("memory of %s: %w", target.title(), err)
		}
		t.add(append([]string{target.title(), fmt.Sprint(w.idleConns)}, row...)...)
	}
	w.printf("\n### Memory of a connection\n\n")
	w.printf(
		"By how much the resident memory (Rss in /proc/PID/smaps_rollup) of each server grows " +
			"with a connection that is\n")
	w.printf(
		"subscribed and idle, and after messages. Before each reading the server collects its " +
			"garbage and returns free memory\n")
	w.printf(
		"to the operating system (runtime/debug.FreeOSMemory), through a hook that all three " +
			"have; the last column is without.\n")
	w.printf(
		"The memory before is subtracted: that after %d connections were opened, received a "+
			"message and were closed. The\n",
		warmConns)
	w.printf("kernel's memory for sockets is not included.\n\n")
	t.print(w.out)
	return nil
}

func (w *wire) measureMemory(ctx context.Context, target target) ([]string, error) {
	warm := &side{target: target, traffic: traffic{topics: 1, followers: warmConns}}
	defer func() { warm.end() }()
	if err := warm.begin(ctx); err != nil {
		return nil, err
	}
	warm.listeners.close()
	before, err := freed(ctx, target)
	if err != nil {
		return nil, err
	}
	// Another topic than that of the warm connections, which are gone.
	s := &side{target: target, traffic: traffic{topics: 1, followers: w.idleConns, senders: 1}}
	const topic = 1
	conns := make([]*conn, w.idleConns)
	err = inParallel(ctx, len(conns), func(_ context.Context, i int) (err error) {
		conns[i], err = target.join(topic, i, target.last(topic))
		return err
	})
	if err != nil {
		closeAll(conns)
		return nil, err
	}
	begin := target.last(topic)
	if s.listeners, err = listen(conns, len(conns), func(int) int64 { return begin }); err != nil {
		return nil, err
	}
	defer s.listeners.close()
	idle, err := freed(ctx, target)
	if err != nil {
		return nil, err
	}
	if w.profiles != "" {
		file := filepath.Join(w.profiles, "heap-"+strings.Fields(target.title())[0]+".pprof")
		if err := target.debug(ctx, "/heap", file); err != nil {
			return nil, err
		}
	}
	for range loadMessages {
		s.listeners.arrivals.expect(len(conns))
		if err := s.send(ctx, topic); err != nil {
			return nil, err
		}
		if err := s.listeners.await(ctx); err != nil {
			return nil, err
		}
	}
	loaded, err := residentMemory(target.pid())
	if err != nil {
		return nil, err
	}
	after, err := freed(ctx, target)
	if err != nil {
		return nil, err
	}
	if err := total(s.listeners.histories, target.last(topic)).broken(); err != nil {
		return nil, err
	}
	each := func(bytes int64) string {
		return kilobytes(float64(bytes-before) / float64(len(conns)))
	}
	return []string{
		each(idle), each(after),
		fmt.Sprintf("%.2f", float64(after-before)/float64(idle-before)), each(loaded),
	}, nil
}

// loadMessages is how many messages each connection receives before its memory is measured again.
const loadMessages = 30

// idleTime is how long connections are idle before their memory is measured.
const idleTime = time.Second

// freed returns the resident memory of an idle server without garbage.
func freed(ctx context.Context, target target) (int64, error) {
	time.Sleep(idleTime)
	if err := target.debug(ctx, "/free", ""); err != nil {
		return 0, err
	}
	return residentMemory(target.pid())
}

func kilobytes(b float64) string { return fmt.Sprintf("%.1f KiB", b/1024) }

func megabytes(b int64) string { return fmt.Sprintf("%.1f MiB", float64(b)/(1<<20)) }
