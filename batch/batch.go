// Package batch lets many callers share one costly step, such as a commit: the items that come
// while one run is under way go into the next.
//
// An item that comes while nothing runs is run at once, alone, so no item waits for others to come.
// If items come faster than runs end, runs grow by themselves.
//
// # Concurrency
//
// A Writer may be used by any number of goroutines. It has goroutines of its own only while items
// wait or run.
//
//   - There is one shared run at a time. It takes items in the order in which they came.
//   - Every call returns once: with the result of the run that had its item, with the end of its
//     own context, or with ErrFull before its item was queued.
//   - An item whose caller left before a run took it is in no run.
//   - If a run fails, its items run again, each alone, so that one bad item does not fail the
//     others. After ErrFinal or a panic they do not run again.
//   - An item that is blocked, because it needs a lock that another transaction holds, moves to a
//     lane of its key and waits for the lock there, while shared runs go on. At most MaxLanes runs
//     wait for locks at a time, so that they leave connections for the others. Later items of that
//     key queue behind it, blocked or not.
//
// A Writer has one lock. Nothing else is locked, and no run is called, while it is held.
package batch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Run does the work for some items, and stores each one's result in the item itself. If
// waitForLocks is false, it leaves out the blocked items and those of the same key after them, and
// returns them in order. An error means that it did nothing for any item, unless the error wraps
// ErrFinal.
type Run[T any] func(ctx context.Context, items []T, waitForLocks bool) (blocked []T, err error)

// ErrFinal marks the error of a run whose items must not run again: the run may have succeeded, or
// its items would fail alone as well.
var ErrFinal = errors.New("not run again")

// ErrFull is the error of a call if too many items wait already.
type ErrFull struct {
	RetryAfter time.Duration // an estimate of when the items that wait now are done
}

func (e *ErrFull) Error() string {
	return fmt.Sprintf("too many calls wait; there should be room in %s", e.RetryAfter)
}

// Options are the settings of a Writer. The zero value has defaults.
type Options struct {
	MaxItems   int           // of one run; 0 means 128
	MaxWaiting int           // items in all queues; 0 means 2,048
	MaxLanes   int           // runs that wait for locks at a time; 0 means 4
	Timeout    time.Duration // of one run; 0 means 10 seconds
}

// Writer collects items into runs. K is the key of an item: items of one key need the same lock.
type Writer[K comparable, T comparable] struct {
	run   Run[T]
	opts  Options
	slots chan struct{} // holds a value for each run that may wait for locks

	mu      sync.Mutex // guards what follows
	shared  lane[K, T]
	lanes   map[K]*lane[K, T] // of the keys that have blocked items, or had until a moment ago
	waiting int               // items in the queues of all lanes
	last    time.Duration     // how long the last shared run took
}

// lane is a queue, and a goroutine that runs its items while there are some.
type lane[K comparable, T comparable] struct {
	queue   []*call[K, T]
	working bool
}

type call[K comparable, T comparable] struct {
	key  K
	item T
	done chan error // gets one value; its buffer has room for it
}

// New returns a Writer that calls run.
func New[K comparable, T comparable](run Run[T], opts Options) *Writer[K, T] {
	if opts.MaxItems == 0 {
		opts.MaxItems = 128
	}
	if opts.MaxWaiting == 0 {
		opts.MaxWaiting = 2048
	}
	if opts.MaxLanes == 0 {
		opts.MaxLanes = 4
	}
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	return &Writer[K, T]{
		run: run, opts: opts, slots: make(chan struct{}, opts.MaxLanes), lanes: map[K]*lane[K, T]{},
	}
}

// Do queues an item and returns when the run that had it is done. If ctx ends first, Do takes the
// item back and returns the error of ctx. If a run has the item already, the run goes on, and its
// result is unknown to the caller.
func (w *Writer[K, T]) Do(ctx context.Context, key K, item T) error {
	c := &call[K, T]{key: key, item: item, done: make(chan error, 1)}
	if err := w.enqueue(c); err != nil {
		return err
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		w.takeBack(c)
		return ctx.Err()
	}
}

func (w *Writer[K, T]) enqueue(c *call[K, T]) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting >= w.opts.MaxWaiting {
		runs := time.Duration(w.waiting/w.opts.MaxItems + 1)
		return &ErrFull{RetryAfter: max(runs*w.last, 100*time.Millisecond)}
	}
	w.append(w.laneOf(c.key), c)
	return nil
}

// laneOf returns the lane that the next item of a key goes to. Must be called with w.mu held.
func (w *Writer[K, T]) laneOf(key K) *lane[K, T] {
	if l := w.lanes[key]; l != nil {
		return l
	}
	return &w.shared
}

// append queues a call, and starts the lane's goroutine if it has none. Must be called with w.mu
// held.
func (w *Writer[K, T]) append(l *lane[K, T], c *call[K, T]) {
	l.queue = append(l.queue, c)
	w.waiting++
	if !l.working {
		l.working = true
		go w.work(l)
	}
}

func (w *Writer[K, T]) takeBack(c *call[K, T]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.laneOf(c.key)
	if i := slices.Index(l.queue, c); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
		w.waiting--
	}
}

// work runs the items of a lane until there are none.
func (w *Writer[K, T]) work(l *lane[K, T]) {
	waitForLocks := l != &w.shared
	for {
		if waitForLocks {
			w.slots <- struct{}{}
		}
		calls := w.next(l)
		if len(calls) > 0 {
			if blocked := w.runAll(calls, waitForLocks); len(blocked) > 0 {
				w.moveToLanes(blocked)
			}
		}
		if waitForLocks {
			<-w.slots
		}
		if len(calls) == 0 {
			return
		}
	}
}

// next takes the calls of the next run out of a lane's queue. If there are none, the lane ends.
func (w *Writer[K, T]) next(l *lane[K, T]) []*call[K, T] {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(l.queue), w.opts.MaxItems)
	calls := slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	w.waiting -= n
	if n == 0 {
		l.working = false
		maps.DeleteFunc(w.lanes, func(_ K, other *lane[K, T]) bool { return other == l })
	}
	return calls
}

// runAll runs calls together and, if that fails, each alone. It returns those that are blocked.
func (w *Writer[K, T]) runAll(calls []*call[K, T], waitForLocks bool) (blocked []*call[K, T]) {
	start := time.Now()
	blocked, err := w.runTogether(calls, waitForLocks)
	if err != nil && len(calls) > 1 && !errors.Is(err, ErrFinal) {
		return w.runEach(calls, waitForLocks)
	}
	if !waitForLocks {
		w.mu.Lock()
		w.last = time.Since(start)
		w.mu.Unlock()
	}
	for _, c := range calls {
		if !slices.Contains(blocked, c) {
			c.done <- err
		}
	}
	return blocked
}

// runEach runs calls one by one. After a blocked one, those of the same key count as blocked too.
func (w *Writer[K, T]) runEach(calls []*call[K, T], waitForLocks bool) (blocked []*call[K, T]) {
	blockedKeys := map[K]bool{}
	for _, c := range calls {
		if !blockedKeys[c.key] && len(w.runAll([]*call[K, T]{c}, waitForLocks)) == 0 {
			continue
		}
		blockedKeys[c.key] = true
		blocked = append(blocked, c)
	}
	return blocked
}

func (w *Writer[K, T]) runTogether(
	calls []*call[K, T], waitForLocks bool,
) (blocked []*call[K, T], err error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.opts.Timeout)
	defer cancel()
	defer func() { // no caller can recover a panic of this goroutine
		if r := recover(); r != nil {
			blocked, err = nil, fmt.Errorf("%w: panic: %v\n%s", ErrFinal, r, debug.Stack())
		}
	}()
	items := make([]T, len(calls))
	for i, c := range calls {
		items[i] = c.item
	}
	left, err := w.run(ctx, items, waitForLocks)
	for _, c := range calls {
		if slices.Contains(left, c.item) {
			blocked = append(blocked, c)
		}
	}
	return blocked, err
}

// moveToLanes moves blocked calls to the lanes of their keys, and behind them those of the same
// keys that wait in the shared queue.
func (w *Writer[K, T]) moveToLanes(blocked []*call[K, T]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range blocked {
		l := w.lanes[c.key]
		if l == nil {
			l = &lane[K, T]{}
			w.lanes[c.key] = l
		}
		w.append(l, c)
	}
	var others []*call[K, T]
	for _, c := range w.shared.queue {
		if l := w.lanes[c.key]; l != nil {
			l.queue = append(l.queue, c)
		} else {
			others = append(others, c)
		}
	}
	w.shared.queue = others
}
