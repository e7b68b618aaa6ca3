// Package fair has a weighted semaphore that is fair between the keys that share it, such as
// client addresses or accounts.
//
// # Fairness
//
// Each key has a queue, and the queues are served in turn: round-robin, as in the fair queueing of
// RFC 970, section 4. In its turn the oldest waiter of a key gets what it asks for, whatever its
// weight. So a key with many callers waits behind itself, and delays another key by one turn. Turns
// count callers, not their weight: a key with heavier work gets more.
//
// The caller whose turn it is waits until there is room for its weight, and lighter ones do not
// overtake it. So heavy work does not starve. Work that weighs more than the whole capacity runs
// alone.
//
// # When it is full
//
// The number of waiters is bounded for each key and in all. If a key is at its bound, its next
// caller gets ErrKeyFull. If all places are taken, a caller drops the newest waiter of the longest
// queue, which gets ErrKeyFull too. Only if no queue has at least two waiters more than the
// caller's own, the caller gets ErrFull: then there is no single key to blame. So one key, however
// many callers it has, keeps no other out.
//
// # Concurrency
//
// A Semaphore may be used by any number of goroutines, and starts none: waiters wait on their own.
// Its lock is held for steps that take at most as long as the number of keys that have waiters, or
// of waiters of one key.
package fair

import (
	"context"
	"errors"
	"slices"
	"sync"
)

var (
	// ErrKeyFull refuses a caller because of its key: too many callers of that key wait, or the
	// caller was the newest in the longest queue when another key needed a place.
	ErrKeyFull = errors.New("fair: too many callers of this key wait")
	// ErrFull refuses a caller because too many callers wait, and no key has clearly the most.
	ErrFull = errors.New("fair: too many callers wait")
)

// Semaphore shares a capacity between callers, each of which has a key and a weight.
//
// Invariants, whenever mu is not held:
//   - free, and the weights of the callers between Acquire and release, are capacity together.
//   - If callers wait, the first one of the key at the head of turns weighs more than free.
//   - A key is in queues and in turns, exactly once in each, while it has waiters and no longer.
//   - waiting is the number of waiters in all queues. It is at most maxWaiters, and each queue has
//     at most maxWaitersPerKey.
//   - A waiter in a queue has no answer. A waiter that left its queue has exactly one, unless its
//     caller stopped waiting.
type Semaphore[K comparable] struct {
	capacity         int64
	maxWaiters       int // of all keys
	maxWaitersPerKey int

	mu      sync.Mutex // guards what follows; no other lock is taken while it is held
	free    int64
	waiting int
	queues  map[K][]*waiter // the oldest first
	turns   []K             // the keys that have waiters, in the order in which they are served
}

// waiter is a caller that waits.
type waiter struct {
	weight int64
	answer chan error // gets one value, nil if the weight is granted; its buffer has room for it
}

// NewSemaphore makes a semaphore of a capacity, which is at least 1, with bounds on the callers
// that wait. With a bound of 0, callers that would have to wait are refused.
func NewSemaphore[K comparable](capacity int64, maxWaiters, maxWaitersPerKey int) *Semaphore[K] {
	if capacity < 1 {
		panic("fair: the capacity of a semaphore is at least 1")
	}
	return &Semaphore[K]{
		capacity: capacity, maxWaiters: maxWaiters, maxWaitersPerKey: maxWaitersPerKey,
		free: capacity, queues: map[K][]*waiter{},
	}
}

// Acquire waits until a weight is granted to the key. The caller has to call release exactly once
// then. A weight beyond the capacity counts as the capacity, and one below 1 as 1.
//
// With an error nothing is held: ErrKeyFull and ErrFull if too many wait, and the cause of ctx if
// it ended first.
func (s *Semaphore[K]) Acquire(
	ctx context.Context, key K, weight int64,
) (release func(), err error) {
	if ctx.Err() != nil { // what it gets would be wasted
		return nil, context.Cause(ctx)
	}
	weight = min(max(weight, 1), s.capacity)
	w, err := s.join(key, weight)
	if err != nil {
		return nil, err
	}
	if w != nil {
		select {
		case err := <-w.answer:
			if err != nil {
				return nil, err
			}
		case <-ctx.Done():
			s.leave(key, w)
			return nil, context.Cause(ctx)
		}
	}
	return func() { s.release(weight) }, nil
}

// Waiting is how many callers wait.
func (s *Semaphore[K]) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// join takes a weight and returns nil, or takes a place in the queue of the key.
func (s *Semaphore[K]) join(key K, weight int64) (*waiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.queues[key]
	switch {
	case s.waiting == 0 && weight <= s.free:
		s.free -= weight
		return nil, nil
	case len(queue) >= s.maxWaitersPerKey:
		return nil, ErrKeyFull
	case s.waiting >= s.maxWaiters && !s.dropFromLongest(len(queue)+2):
		return nil, ErrFull
	}
	w := &waiter{weight: weight, answer: make(chan error, 1)}
	if len(queue) == 0 {
		s.turns = append(s.turns, key)
	}
	s.queues[key] = append(queue, w)
	s.waiting++
	return w, nil
}

// leave takes a waiter whose caller stops waiting out of its queue. The key keeps its turn for its
// next waiter. What the waiter was granted meanwhile is given back.
func (s *Semaphore[K]) leave(key K, w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.queues[key], w); i >= 0 {
		s.remove(key, i)
		s.grant() // the next one may be lighter
		return
	}
	if err := <-w.answer; err == nil { // it left its queue, so the answer is there
		s.free += w.weight
		s.grant()
	}
}

func (s *Semaphore[K]) release(weight int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += weight
	if s.free > s.capacity {
		panic("fair: released twice")
	}
	s.grant()
}

// grant serves the waiters whose turn it is while there is room. Must be called with s.mu held.
func (s *Semaphore[K]) grant() {
	for len(s.turns) > 0 {
		key := s.turns[0]
		w := s.queues[key][0]
		if w.weight > s.free {
			return
		}
		s.free -= w.weight
		s.turns = append(s.turns[1:], key) // remove takes it out if this was its last waiter
		s.remove(key, 0)
		w.answer <- nil
	}
}

// dropFromLongest refuses the newest waiter of the longest queue, if that has at least atLeast
// waiters, which are two or more: so the first waiter of a queue stays. Of several longest queues
// it is the one that is served last. Must be called with s.mu held.
func (s *Semaphore[K]) dropFromLongest(atLeast int) bool {
	found := -1
	for i, key := range s.turns {
		if n := len(s.queues[key]); n >= atLeast {
			found, atLeast = i, n
		}
	}
	if found < 0 {
		return false
	}
	longest := s.turns[found]
	last := len(s.queues[longest]) - 1
	w := s.queues[longest][last]
	s.remove(longest, last)
	w.answer <- ErrKeyFull
	return true
}

// remove takes the i-th waiter out of the queue of a key, and the key out of turns with its last
// waiter. Must be called with s.mu held.
func (s *Semaphore[K]) remove(key K, i int) {
	s.waiting--
	if rest := slices.Delete(s.queues[key], i, i+1); len(rest) > 0 {
		s.queues[key] = rest
		return
	}
	delete(s.queues, key)
	s.turns = slices.DeleteFunc(s.turns, func(other K) bool { return other == key })
}
