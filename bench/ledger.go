package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// ledger is what one follower received of the messages that followed a seq. It has no lock: it
// belongs to the follower's goroutine, and to whoever has seen that end.
type ledger struct {
	after              int64
	received           []bool // by place after that seq
	highest            int64
	doubled, reordered int
}

func newLedger(after int64) *ledger { return &ledger{after: after, highest: after} }

func (l *ledger) add(seq int64) {
	place := seq - l.after - 1
	if place < 0 {
		l.doubled++ // it was there before following began
		return
	}
	for int64(len(l.received)) <= place {
		l.received = append(l.received, false)
	}
	switch {
	case l.received[place]:
		l.doubled++
	case seq < l.highest:
		l.reordered++
	}
	l.received[place] = true
	l.highest = max(l.highest, seq)
}

// account is what all followers received, and what they should have.
type account struct{ deliveries, lost, doubled, reordered int }

// settle adds the ledgers up. last is the seq of the last message that was sent.
func settle(ledgers []*ledger, last int64) (a account) {
	for _, l := range ledgers {
		got := 0
		for _, received := range l.received {
			if received {
				got++
			}
		}
		a.deliveries += got + l.doubled
		a.lost += int(last-l.after) - got
		a.doubled += l.doubled
		a.reordered += l.reordered
	}
	return a
}

func (a account) cells() []string {
	return []string{strconv.Itoa(a.deliveries), strconv.Itoa(a.lost), strconv.Itoa(a.doubled), strconv.Itoa(a.reordered)}
}

var errPromise = errors.New("a message was lost, doubled or reordered")

// broken is errPromise where there is anything to complain of.
func (a account) broken() error {
	if a.lost == 0 && a.doubled == 0 && a.reordered == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d lost, %d doubled, %d reordered", errPromise, a.lost, a.doubled, a.reordered)
}

// arrivals lets one goroutine wait for the deliveries of many. A nil one expects nothing.
type arrivals struct {
	missing atomic.Int64
	all     chan struct{}
}

func newArrivals() *arrivals { return &arrivals{all: make(chan struct{}, 1)} }

func (a *arrivals) expect(n int) {
	if a == nil {
		return
	}
	select {
	case <-a.all:
	default:
	}
	a.missing.Store(int64(n))
}

func (a *arrivals) arrived() {
	if a.missing.Add(-1) == 0 {
		select {
		case a.all <- struct{}{}:
		default:
		}
	}
}

// patience is how long a delivery may take before it counts as lost. It is no measure of speed.
const patience = 30 * time.Second

func (a *arrivals) wait(ctx context.Context) error {
	if a == nil {
		return nil
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-a.all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-late.C:
		return fmt.Errorf("%w: %d deliveries were not made in %v", errPromise, a.missing.Load(), patience)
	}
}
