package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// warmConns are opened, used and closed before memory is weighed, so that what a server has once is
// not counted for each.
const warmConns = 100

// memory weighs connections that are open, subscribed and idle; and once more after messages have
// flowed.
func (w *wire) memory(ctx context.Context) error {
	t := table{head: []string{
		"server", "connections", "resident memory of each, idle", fmt.Sprintf("after %d messages to all of them", loadMessages), "ratio",
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
		row, err := w.weigh(ctx, target)
		if err != nil {
			return fmt.Errorf("memory of %s: %w", target.title(), err)
		}
		t.add(append([]string{target.title(), fmt.Sprint(w.idleConns)}, row...)...)
	}
	w.printf("\n### Memory of a connection\n\n")
	w.printf("By how much the resident memory (Rss in /proc/PID/smaps_rollup) of each server grows with a connection that is\n")
	w.printf("subscribed and idle, and what is left of it after messages. Before it is read the server is asked to collect its\n")
	w.printf("garbage and to give free memory back to the operating system (runtime/debug.FreeOSMemory), through a hook that all\n")
	w.printf("three have for this; the last column is without. What it held before, after %d connections that came, were told of a\n",
		warmConns)
	w.printf("message and went, is subtracted. The kernel's memory for sockets is not in it.\n\n")
	t.print(w.out)
	return nil
}

func (w *wire) weigh(ctx context.Context, target target) ([]string, error) {
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
	// A topic of its own, as each of the sides has: the connections of the first one are gone.
	s := &side{target: target, traffic: traffic{topics: 1, followers: w.idleConns, senders: 1}}
	const topic = 1
	conns := make([]*conn, w.idleConns)
	err = atOnce(ctx, len(conns), func(_ context.Context, i int) (err error) {
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
	loaded, err := rss(target.pid())
	if err != nil {
		return nil, err
	}
	after, err := freed(ctx, target)
	if err != nil {
		return nil, err
	}
	if err := settle(s.listeners.ledgers, target.last(topic)).broken(); err != nil {
		return nil, err
	}
	each := func(bytes int64) string { return kilobytes(float64(bytes-before) / float64(len(conns))) }
	return []string{each(idle), each(after), fmt.Sprintf("%.2f", float64(after-before)/float64(idle-before)), each(loaded)}, nil
}

// loadMessages is how many messages each connection gets before it is weighed again.
const loadMessages = 30

// idleTime is how long connections are left alone before they are weighed.
const idleTime = time.Second

// freed is the resident memory of a server that has nothing to do, and keeps no garbage.
func freed(ctx context.Context, target target) (int64, error) {
	time.Sleep(idleTime)
	if err := target.debug(ctx, "/free", ""); err != nil {
		return 0, err
	}
	return rss(target.pid())
}

// rss is the resident memory of a process, in bytes. /proc/PID/status has it too, but off by what
// each thread has not told yet.
func rss(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	maps, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "Rss: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("%s has no Rss", path)
}

func kilobytes(b float64) string { return fmt.Sprintf("%.1f KiB", b/1024) }

func megabytes(b int64) string { return fmt.Sprintf("%.1f MiB", float64(b)/(1<<20)) }
