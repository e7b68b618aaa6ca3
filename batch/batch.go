// Package batch lets many callers share one costly step, such as a commit: whatever waits while one
// run is under way goes into the next.
//
// A call that comes while nothing runs, runs at once and alone, so nobody waits for company. Runs
// grow by themselves as calls come faster than runs end.
//
// # Concurrency
//
// A Writer may be used by any number of goroutines, and has none of its own while nothing waits.
//
//   - One run at a time is the shared one. Its items are taken in the order in which they came.
//   - Every call ends once: with what became of the run that had its item, with the end of its own
//     context, or with ErrFull before anything was taken.
//   - An item whose caller has gone before it was taken is in no run.
//   - A run that fails hurts nobody else: its items run again, each alone. With ErrFinal, and after
//     a panic, they do not.
//   - An item that has to wait for somebody outside does so in a lane of its key, beside the
//     others. No more than MaxLanes of them wait at once, so that they leave enough of what a run
//     needs. Later items of that key queue behind it, whether they would have to wait or not.
package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Run does the work for some items. Patient, it waits for whatever holds them up; else it leaves
// those out that would have to wait, with those of the same key after them, and returns them, in
// order. What became of each item, it notes in the item itself. An error means that nothing was
// done for any of them, unless it wraps ErrFinal.
type Run[T any] func(ctx context.Context, items []T, patient bool) (busy []T, err error)

// ErrFinal marks the error of a run that is not to be run again: it may have been done, or its
// items alone would fare no better.
var ErrFinal = errors.New("not run again")

// ErrFull is what a call ends with at once where too many wait already.
type ErrFull struct {
	RetryAfter time.Duration // when those that wait now should be through
}

func (e *ErrFull) Error() string {
	return fmt.Sprintf("too many calls wait; there should be room in %s", e.RetryAfter)
}

// Options are the settings of a Writer; the zero value serves.
type Options struct {
	MaxItems   int           // of one run; 0 means 128
	MaxWaiting int           // calls that have to wait, all lanes together; 0 means 2,048
	MaxLanes   int           // runs that wait for somebody outside, at once; 0 means 4
	Timeout    time.Duration // of one run; 0 means 10 seconds
}

// Writer gathers items into runs. K is what items have in common that are held up together.
type Writer[K comparable, T comparable] struct {
	run    Run[T]
	opts   Options
	places chan struct{} // for lanes that run

	mu      sync.Mutex // guards what follows
	shared  lane[K, T]
	own     map[K]*lane[K, T] // of those that are, or were just now, held up
	waiting int               // in the queues of all lanes
	last    time.Duration     // how long the last shared run took
}

// lane is a queue, and the goroutine that empties it, while there is something in it.
type lane[K comparable, T comparable] struct {
	queue   []*call[K, T]
	working bool
}

type call[K comparable, T comparable] struct {
	key  K
	item T
	done chan error // of one
}

// New makes a Writer that runs run.
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
	return &Writer[K, T]{run: run, opts: opts, places: make(chan struct{}, opts.MaxLanes), own: map[K]*lane[K, T]{}}
}

// Do hands an item in, and returns once a run that had it is over. Where ctx ends first, the item
// is taken back, unless a run has it already: then that goes on, and what became of it is not known
// here.
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

// laneOf needs the lock.
func (w *Writer[K, T]) laneOf(key K) *lane[K, T] {
	if l := w.own[key]; l != nil {
		return l
	}
	return &w.shared
}

// append needs the lock.
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

// work empties a lane.
func (w *Writer[K, T]) work(l *lane[K, T]) {
	patient := l != &w.shared
	for {
		if patient {
			w.places <- struct{}{}
		}
		calls := w.take(l)
		if len(calls) > 0 {
			if busy := w.runAll(calls, patient); len(busy) > 0 {
				w.holdUp(busy)
			}
		}
		if patient {
			<-w.places
		}
		if len(calls) == 0 {
			return
		}
	}
}

// take has the lane end where there is nothing in it.
func (w *Writer[K, T]) take(l *lane[K, T]) []*call[K, T] {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(l.queue), w.opts.MaxItems)
	calls := slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	w.waiting -= n
	if n == 0 {
		l.working = false
		for key, own := range w.own {
			if own == l {
				delete(w.own, key)
			}
		}
	}
	return calls
}

// runAll runs calls together, and where that fails each alone. It returns those that are held up.
func (w *Writer[K, T]) runAll(calls []*call[K, T], patient bool) (busy []*call[K, T]) {
	start := time.Now()
	busy, err := w.runSome(calls, patient)
	if err != nil && len(calls) > 1 && !errors.Is(err, ErrFinal) {
		return w.runEach(calls, patient)
	}
	if !patient {
		w.mu.Lock()
		w.last = time.Since(start)
		w.mu.Unlock()
	}
	for _, c := range calls {
		if !slices.Contains(busy, c) {
			c.done <- err
		}
	}
	return busy
}

// runEach runs each of calls alone. One that is held up holds up those of its key after it.
func (w *Writer[K, T]) runEach(calls []*call[K, T], patient bool) (busy []*call[K, T]) {
	heldUp := map[K]bool{}
	for _, c := range calls {
		if !heldUp[c.key] && len(w.runAll([]*call[K, T]{c}, patient)) == 0 {
			continue
		}
		heldUp[c.key] = true
		busy = append(busy, c)
	}
	return busy
}

func (w *Writer[K, T]) runSome(calls []*call[K, T], patient bool) (busy []*call[K, T], err error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.opts.Timeout)
	defer cancel()
	defer func() { // it is nobody's goroutine who could recover
		if r := recover(); r != nil {
			busy, err = nil, fmt.Errorf("%w: panic: %v\n%s", ErrFinal, r, debug.Stack())
		}
	}()
	items := make([]T, len(calls))
	for i, c := range calls {
		items[i] = c.item
	}
	left, err := w.run(ctx, items, patient)
	for _, c := range calls {
		if slices.Contains(left, c.item) {
			busy = append(busy, c)
		}
	}
	return busy, err
}

// holdUp has calls wait in the lanes of their keys, before any others of those keys.
func (w *Writer[K, T]) holdUp(busy []*call[K, T]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range busy {
		l := w.own[c.key]
		if l == nil {
			l = &lane[K, T]{}
			w.own[c.key] = l
		}
		w.append(l, c)
	}
	var others []*call[K, T]
	for _, c := range w.shared.queue {
		if l := w.own[c.key]; l != nil {
			l.queue = append(l.queue, c)
		} else {
			others = append(others, c)
		}
	}
	w.shared.queue = others
}
