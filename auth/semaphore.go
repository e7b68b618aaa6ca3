package auth

import (
	"context"
	"slices"
	"sync"
	"time"

	"parley/errs"
)

// fairSemaphore bounds how many passwords are hashed at once. Callers who find no slot wait, and addresses take turns: a
// slot that becomes free goes to the oldest waiter of the address whose turn has not come for longest (round-robin, as in
// the fair queueing of RFC 970). So an address that sends many requests waits for itself, and delays another address by one
// hash for each slot that it has, and one for its turn.
//
// The number of waiters is bounded for each address and in all. If an address is at its bound, its next caller is
// RATE_LIMITED. If all places are taken, a caller pushes out the newest waiter of the address that has the most (longest
// queue drop), which is then RATE_LIMITED too. Only if no address has two waiters more than the caller's own, the caller is
// UNAVAILABLE: then there is no single address to blame.
//
// Waiters wait on their own goroutine. The semaphore starts none.
//
// Invariants, whenever mu is not held:
//   - No slot is free while a caller waits.
//   - An address is in queues and in turns, exactly once in each, as long as it has waiters and no longer.
//   - waiting is the number of waiters in all queues. It is at most maxWaiting, and each queue has at most maxPerAddress.
//   - Each waiter in a queue has had no answer. Each waiter that left its queue has had exactly one, or its caller gave up.
type fairSemaphore struct {
	maxWaiting    int // over all addresses
	maxPerAddress int

	mu      sync.Mutex // guards what follows; no other lock is taken while it is held
	free    int        // slots that are not in use
	waiting int
	queues  map[string][]*waiter // by address, the oldest first
	turns   []string             // the addresses that have waiters, in the order in which they are served
}

// waiter is one caller that waits for a slot.
type waiter struct {
	answer chan error // gets one value: nil hands the slot over, and an error refuses it; its buffer has room for it
}

// hashRetryAfter is when a refused caller should try again: about the time in which a full queue is served.
const hashRetryAfter = 2 * time.Second

func newFairSemaphore(slots, maxWaiting, maxPerAddress int) *fairSemaphore {
	return &fairSemaphore{
		maxWaiting: maxWaiting, maxPerAddress: maxPerAddress, free: slots, queues: map[string][]*waiter{},
	}
}

// acquire waits for a slot in the name of an address. After nil the caller has one and calls release. It is RATE_LIMITED or
// UNAVAILABLE if too many wait, and ctx's error if ctx ends first; the caller has left the queue then.
func (f *fairSemaphore) acquire(ctx context.Context, address string) error {
	if err := ctx.Err(); err != nil {
		return err // a free slot would be wasted on a request that has ended
	}
	w := f.join(address)
	select {
	case err := <-w.answer:
		return err
	case <-ctx.Done():
		f.leave(address, w)
		return ctx.Err()
	}
}

// join takes a free slot, or a place in the queue of the address. The waiter's answer is there at once in the first case, and
// if the address or the semaphore has too many waiters.
func (f *fairSemaphore) join(address string) *waiter {
	w := &waiter{answer: make(chan error, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	queue := f.queues[address]
	switch {
	case f.free > 0:
		f.free--
		w.answer <- nil
		return w
	case len(queue) >= f.maxPerAddress:
		w.answer <- errAddressBusy()
		return w
	case f.waiting >= f.maxWaiting && !f.pushOut(len(queue)+1):
		w.answer <- errAllBusy()
		return w
	}
	if len(queue) == 0 {
		f.turns = append(f.turns, address)
	}
	f.queues[address] = append(queue, w)
	f.waiting++
	return w
}

// release gives a slot back, or hands it to the next waiter.
func (f *fairSemaphore) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handOver()
}

// handOver passes on a slot that nobody uses. Must be called with f.mu held.
func (f *fairSemaphore) handOver() {
	if len(f.turns) == 0 {
		f.free++
		return
	}
	address := f.turns[0]
	f.turns = append(f.turns[1:], address) // remove takes it out again if this was its last waiter
	w := f.queues[address][0]
	f.remove(address, 0)
	w.answer <- nil
}

// leave takes a waiter whose caller gives up out of its queue. A slot that it was handed meanwhile goes on to the next.
func (f *fairSemaphore) leave(address string, w *waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, other := range f.queues[address] {
		if other == w {
			f.remove(address, i)
			return
		}
	}
	if err := <-w.answer; err == nil { // out of its queue, so it has its answer, and nobody else has received it
		f.handOver()
	}
}

// pushOut refuses the newest waiter of the address that has the most, if that is more than n. Of several such addresses it is
// the one that is served last. Must be called with f.mu held.
func (f *fairSemaphore) pushOut(n int) bool {
	found := -1
	for i, address := range f.turns {
		if count := len(f.queues[address]); count > n || found >= 0 && count == n {
			found, n = i, count
		}
	}
	if found < 0 {
		return false
	}
	longest := f.turns[found]
	last := len(f.queues[longest]) - 1
	w := f.queues[longest][last]
	f.remove(longest, last)
	w.answer <- errAddressBusy()
	return true
}

// remove takes the i-th waiter out of the queue of an address, and the address out of the turns with its last one. Must be
// called with f.mu held.
func (f *fairSemaphore) remove(address string, i int) {
	f.waiting--
	if rest := slices.Delete(f.queues[address], i, i+1); len(rest) > 0 {
		f.queues[address] = rest
		return
	}
	delete(f.queues, address)
	f.turns = slices.DeleteFunc(f.turns, func(other string) bool { return other == address })
}

// waiters is how many callers wait.
func (f *fairSemaphore) waiters() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting
}

func errAddressBusy() error {
	err := errs.New(errs.RateLimited, "Too many sign-ins from your network at once. Try again.")
	err.RetryAfter = hashRetryAfter
	return err
}

func errAllBusy() error {
	err := errs.New(errs.Unavailable, "Too many people are signing in just now. Try again.")
	err.RetryAfter = hashRetryAfter
	return err
}
