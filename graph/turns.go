package graph

import (
	"context"
	"sync"
	"time"

	"parley/errs"
)

// turns is a weighted semaphore that is fair between those who share it: each has a queue of their own, and the queues are
// served in turn. So a client that asks for much waits behind itself, and delays each other client by one turn.
type turns struct {
	capacity int64
	maxOwn   int // that wait, of one holder
	maxAll   int // that wait, of all

	mu      sync.Mutex // guards what follows
	used    int64
	waiting int
	queues  map[holder][]*waiter
	order   []holder // of those with a queue, the next one first
}

// waiter waits for its turn.
type waiter struct {
	weight int64
	ready  chan struct{} // closed when it has its turn
}

// Bounds of what waits: each waiter keeps its request in memory.
const (
	maxWaitingOwn = 100
	maxWaitingAll = 400
	turnRetry     = time.Second // after which somebody who was refused may try again
)

func newTurns(capacity int64) *turns {
	return &turns{capacity: capacity, maxOwn: maxWaitingOwn, maxAll: maxWaitingAll, queues: map[holder][]*waiter{}}
}

// acquire waits for a turn of some weight, and at most until ctx ends. Work that weighs more than everything has its turn
// alone. RATE_LIMITED if too many wait already. Release has to be called once, unless there is an error.
func (t *turns) acquire(ctx context.Context, of holder, weight int64) (release func(), err error) {
	weight = min(weight, t.capacity)
	w, err := t.enqueue(of, weight)
	if err != nil {
		return nil, err
	}
	if w != nil {
		select {
		case <-w.ready:
		case <-ctx.Done():
			t.leave(of, w)
			return nil, context.Cause(ctx)
		}
	}
	return func() { t.release(weight) }, nil
}

// enqueue returns nil if it is the turn of whoever asks at once.
func (t *turns) enqueue(of holder, weight int64) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == 0 && t.used+weight <= t.capacity {
		t.used += weight
		return nil, nil
	}
	if t.waiting >= t.maxAll || len(t.queues[of]) >= t.maxOwn {
		e := errs.New(errs.RateLimited, "The server is busy with other large requests. Try again later, or ask for less at once.")
		e.RetryAfter = turnRetry
		return nil, e
	}
	w := &waiter{weight: weight, ready: make(chan struct{})}
	if len(t.queues[of]) == 0 {
		t.order = append(t.order, of)
	}
	t.queues[of] = append(t.queues[of], w)
	t.waiting++
	return w, nil
}

func (t *turns) release(weight int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used -= weight
	t.grant()
}

// grant gives their turns to those who are next, while there is room. The first one is not overtaken by lighter work, or it
// would wait for ever. It needs the lock.
func (t *turns) grant() {
	for len(t.order) > 0 {
		of := t.order[0]
		w := t.queues[of][0]
		if t.used+w.weight > t.capacity {
			return
		}
		t.used += w.weight
		t.remove(of, 0)
		close(w.ready)
	}
}

// remove takes a waiter out of a queue, which goes to the end of the order if its first one was served. It needs the lock.
func (t *turns) remove(of holder, i int) {
	t.waiting--
	queue := t.queues[of]
	copy(queue[i:], queue[i+1:])
	queue[len(queue)-1] = nil
	t.queues[of] = queue[:len(queue)-1]
	for at, other := range t.order {
		if other == of && (i == 0 || len(queue) == 1) {
			t.order = append(t.order[:at], t.order[at+1:]...)
			if len(queue) > 1 {
				t.order = append(t.order, of)
			}
			break
		}
	}
	if len(queue) == 1 {
		delete(t.queues, of)
	}
}

// leave gives up waiting. A turn that has come at the same moment is given back.
func (t *turns) leave(of holder, w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.queues[of] {
		if other == w {
			t.remove(of, i)
			t.grant() // a lighter one may be the first now
			return
		}
	}
	t.used -= w.weight
	t.grant()
}
