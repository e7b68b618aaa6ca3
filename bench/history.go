package main

import (
	"errors"
	"fmt"
	"strconv"
)

// history is what one follower has received of the messages after a seq. It has no lock: it belongs
// to the goroutine of the follower, and after its end to the caller.
type history struct {
	after              int64
	received           []bool // by seq: the first is after+1
	highest            int64
	doubled, reordered int
}

func newHistory(after int64) *history { return &history{after: after, highest: after} }

func (h *history) add(seq int64) {
	i := seq - h.after - 1
	if i < 0 {
		h.doubled++ // the follower had it before it followed
		return
	}
	for int64(len(h.received)) <= i {
		h.received = append(h.received, false)
	}
	switch {
	case h.received[i]:
		h.doubled++
	case seq < h.highest:
		h.reordered++
	}
	h.received[i] = true
	h.highest = max(h.highest, seq)
}

// totals compares what all followers have received with what they should have received.
type totals struct{ deliveries, lost, doubled, reordered int }

// total adds histories up. last is the seq of the last message that was sent.
func total(histories []*history, last int64) (t totals) {
	for _, h := range histories {
		got := 0
		for _, received := range h.received {
			if received {
				got++
			}
		}
		t.deliveries += got + h.doubled
		t.lost += int(last-h.after) - got
		t.doubled += h.doubled
		t.reordered += h.reordered
	}
	return t
}

func (t totals) cells() []string {
	return []string{
		strconv.Itoa(t.deliveries), strconv.Itoa(t.lost), strconv.Itoa(t.doubled),
		strconv.Itoa(t.reordered),
	}
}

var errPromise = errors.New("a message was lost, doubled or reordered")

// broken returns errPromise if the promise was broken, else nil.
func (t totals) broken() error {
	if t.lost == 0 && t.doubled == 0 && t.reordered == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d lost, %d doubled, %d reordered", errPromise, t.lost, t.doubled,
		t.reordered)
}
