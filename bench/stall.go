package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

const (
	// stallOthers is the number of followers, without the one that never reads.
	stallOthers = 20
	// stallSenders is how many send at the same time.
	stallSenders = 32
	// stallReconnect is how often a new connection replaces the one that never reads. By then the
	// server has closed the old one, or soon will.
	stallReconnect = 5 * time.Second
	// stallBuffer is the size of its receive buffer, in bytes.
	stallBuffer = 4 << 10
)

// stall measures what a client that does not read costs the other clients and the server's memory.
func (w *wire) stall(ctx context.Context) error {
	w.parley.fields = "id seq content createdAt"
	t := table{head: []string{
		"a conversation of " + strconv.Itoa(stallOthers) + " followers", "messages", "deliveries",
		"lost", "doubled", "reordered",
		"half within", "99 % within", "memory before", "at most", "afterwards",
	}}
	s := &side{target: w.parley, traffic: traffic{
		topics: 1, followers: stallOthers,
		senders: stallSenders,
	}}
	defer s.end()
	if err := s.begin(ctx); err != nil {
		return err
	}
	before, err := freed(ctx, s.target)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		what     string
		messages int
		stalls   bool
	}{
		{"and no one else", w.stallMessages / 5, false},
		{"and one that never reads", w.stallMessages, true},
	} {
		w.note("over the wire: %d messages to %d followers %s", part.messages, stallOthers,
			part.what)
		row, err := w.stallRow(ctx, s, part.messages, part.stalls, before)
		if err != nil {
			return fmt.Errorf("%s: %w", part.what, err)
		}
		t.add(append([]string{part.what, strconv.Itoa(part.messages)}, row...)...)
	}
	w.printf("\n### A follower that never reads\n\n")
	w.printf(
		"%d senders send as fast as Parley stores. Resident memory of the server: after it was "+
			"freed at the beginning, the\n",
		stallSenders)
	w.printf(
		"most that was seen meanwhile, and after it was freed again. The follower that never " +
			"reads has its connection taken\n")
	w.printf(
		"away after 10 seconds; a new one comes every %v and asks for everything from the "+
			"beginning.\n\n", stallReconnect)
	t.print(w.out)
	return nil
}

func (w *wire) stallRow(
	ctx context.Context, s *side, messages int, stalls bool, before int64,
) ([]string, error) {
	begun := s.last(0)
	for _, l := range s.listeners.histories {
		*l = *newHistory(begun)
	}
	s.listeners.takeDelays()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := make(chan error, 1)
	if stalls {
		go func() { stalled <- w.neverRead(ctx) }()
	} else {
		stalled <- nil
	}
	peak := watchMemory(ctx, s.pid())
	s.listeners.arrivals.expect(messages * stallOthers)
	if err := s.sendAll(ctx, messages, 0, 1); err != nil {
		return nil, err
	}
	if err := s.listeners.await(ctx); err != nil {
		return nil, err
	}
	cancel()
	if err := <-stalled; err != nil {
		return nil, err
	}
	after, err := freed(context.WithoutCancel(ctx), s.target)
	if err != nil {
		return nil, err
	}
	sinceSent, _ := s.listeners.takeDelays()
	half, most := delays(sinceSent)
	s.listeners.mu.Lock()
	found := total(s.listeners.histories, s.last(0))
	s.listeners.mu.Unlock()
	return append(found.cells(), duration(seconds(half)), duration(seconds(most)),
		megabytes(before), megabytes(<-peak), megabytes(after)), found.broken()
}

// neverRead follows from the beginning, on one connection after another, and does not read.
func (w *wire) neverRead(ctx context.Context) error {
	for ctx.Err() == nil {
		c, err := dial(w.parley.url, stallBuffer)
		if err != nil {
			return err
		}
		if err := w.parley.subscribe(c, 0, 0, 0); err != nil {
			c.close()
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(stallReconnect):
		}
		// at the end of the row, because a closed connection costs the server nothing
		defer c.close()
	}
	return nil
}

// watchMemory samples the resident memory of a process until ctx ends, and sends the highest
// sample.
func watchMemory(ctx context.Context, pid int) <-chan int64 {
	peak := make(chan int64, 1)
	go func() {
		var most int64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if now, err := roughResidentMemory(pid); err == nil {
				most = max(most, now)
			}
			<-tick.C
		}
		peak <- most
	}()
	return peak
}
