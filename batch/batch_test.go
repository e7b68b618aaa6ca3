package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/batch"
)

// item is an item of the tests. Its name decides what happens to it.
type item struct{ key, name string }

// runs records the runs of a Writer. A test decides which items fail and which keys are locked.
type runs struct {
	mu sync.Mutex // guards what follows
	// names of the items of each run that succeeded, in order; a run that waits for locks begins
	// with "waits"
	all    [][]string
	fail   map[string]error // by name
	locked map[string]bool  // by key
	unlock string           // after this item was blocked alone, its key is unlocked
	hold   bool
	gate   chan struct{} // if it is not nil, each run receives a value before it ends
}

func (r *runs) run(
	ctx context.Context, items []*item, waitForLocks bool,
) (blocked []*item, err error) {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	if waitForLocks {
		names = append(names, "waits")
	}
	for _, it := range items {
		if err := r.fail[it.name]; err != nil {
			return nil, err
		}
		if r.locked[it.key] && !waitForLocks {
			blocked = append(blocked, it)
			if r.unlock == it.name && len(items) == 1 {
				delete(r.locked, it.key)
			}
			continue
		}
		names = append(names, it.name)
	}
	r.all = append(r.all, names)
	return blocked, nil
}

func (r *runs) want(t *testing.T, want ...[]string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.all); diff != "" {
		t.Errorf("runs, -want +got:\n%s", diff)
	}
}

// calls are the calls of Do, and what each returned.
type calls struct {
	t      *testing.T
	w      *batch.Writer[string, *item]
	mu     sync.Mutex // guards ended
	ended  map[string]error
	cancel map[string]context.CancelFunc
}

func newCalls(t *testing.T, r *runs, opts batch.Options) *calls {
	return &calls{
		t: t, w: batch.New[string](r.run, opts), ended: map[string]error{},
		cancel: map[string]context.CancelFunc{},
	}
}

// do queues items of a key, one after the other.
func (c *calls) do(key string, names ...string) {
	for _, name := range names {
		ctx, cancel := context.WithCancel(c.t.Context())
		c.cancel[name] = cancel
		go func() {
			err := c.w.Do(ctx, key, &item{key, name})
			c.mu.Lock()
			defer c.mu.Unlock()
			if _, twice := c.ended[name]; twice {
				c.t.Errorf("%s returned twice", name)
			}
			c.ended[name] = err
		}()
		synctest.Wait()
	}
}

func (c *calls) want(name string, want error) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err, ended := c.ended[name]; !ended || !errors.Is(err, want) {
		c.t.Errorf("%s: returned %t, with %v; want %v", name, ended, err, want)
	}
}

func (c *calls) wantWaiting(names ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if err, ended := c.ended[name]; ended {
			c.t.Errorf("%s returned %v", name, err)
		}
	}
}

// inBubble runs a test in a synctest bubble.
func inBubble(t *testing.T, r *runs, opts batch.Options, test func(t *testing.T, c *calls)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if r.hold {
			r.gate = make(chan struct{})
		}
		test(t, newCalls(t, r, opts))
	})
}

func held() *runs { return &runs{hold: true} }

func (r *runs) release() {
	r.gate <- struct{}{}
	synctest.Wait()
}

func TestAnItemThatComesAloneRunsAtOnce(t *testing.T) {
	t.Parallel()
	r := &runs{}
	inBubble(t, r, batch.Options{}, func(t *testing.T, c *calls) {
		begun := time.Now()
		c.do("x", "a", "b")
		c.want("a", nil)
		c.want("b", nil)
		r.want(t, []string{"a"}, []string{"b"})
		if passed := time.Since(begun); passed != 0 {
			t.Errorf("they waited for %v", passed) // the clock moves only while all goroutines wait
		}
	})
}

func TestItemsThatWaitRunTogether(t *testing.T) {
	t.Parallel()
	r := held()
	inBubble(t, r, batch.Options{MaxItems: 3}, func(t *testing.T, c *calls) {
		c.do("x", "a")
		c.do("y", "b")
		c.do("x", "c", "d", "e")
		c.wantWaiting("a", "b", "c", "d", "e")
		r.release()
		c.want("a", nil)
		c.wantWaiting("b", "c", "d", "e")
		r.release()
		c.want("d", nil)
		c.wantWaiting("e")
		r.release()
		c.want("e", nil)
		r.want(t, []string{"a"}, []string{"b", "c", "d"}, []string{"e"})
	})
}

func TestABadItemDoesNotFailTheOthers(t *testing.T) {
	t.Parallel()
	r, poison := held(), errors.New("poison")
	r.fail = map[string]error{"c": poison}
	inBubble(t, r, batch.Options{}, func(t *testing.T, c *calls) {
		c.do("x", "a", "b", "c", "d")
		close(r.gate)
		synctest.Wait()
		for _, name := range []string{"a", "b", "d"} {
			c.want(name, nil)
		}
		c.want("c", poison)
		r.want(t, []string{"a"}, []string{"b"}, []string{"d"})
	})
}

func TestAFinalErrorIsNotRetried(t *testing.T) {
	t.Parallel()
	r := held()
	r.fail = map[string]error{"b": fmt.Errorf("cut off: %w", batch.ErrFinal)}
	inBubble(t, r, batch.Options{}, func(t *testing.T, c *calls) {
		c.do("x", "a", "b", "c")
		close(r.gate)
		synctest.Wait()
		c.want("b", batch.ErrFinal)
		c.want("c", batch.ErrFinal)
		r.want(t, []string{"a"})
	})
}

func TestTheQueueIsBounded(t *testing.T) {
	t.Parallel()
	r := held()
	inBubble(t, r, batch.Options{MaxWaiting: 2}, func(t *testing.T, c *calls) {
		c.do("x", "running", "a", "b")
		err := c.w.Do(t.Context(), "x", &item{"x", "c"})
		full, ok := errors.AsType[*batch.ErrFull](err)
		if !ok || full.RetryAfter <= 0 {
			t.Fatalf("a third item that would have to wait: %v", err)
		}
		close(r.gate)
		synctest.Wait()
		c.do("x", "d")
		c.want("d", nil)
		r.want(t, []string{"running"}, []string{"a", "b"}, []string{"d"})
	})
}

func TestAnItemWhoseCallerLeftIsInNoRun(t *testing.T) {
	t.Parallel()
	r := held()
	inBubble(t, r, batch.Options{MaxWaiting: 2}, func(t *testing.T, c *calls) {
		c.do("x", "running", "a", "b")
		for _, name := range []string{"running", "a"} {
			c.cancel[name]()
			synctest.Wait()
			c.want(name, context.Canceled)
		}
		c.do("x", "c") // there is room again
		c.wantWaiting("b", "c")
		close(r.gate)
		synctest.Wait()
		r.want(t, []string{"running"}, []string{"b", "c"})
	})
}

func TestBlockedItemsDoNotBlockOtherKeys(t *testing.T) {
	t.Parallel()
	r := held()
	r.locked = map[string]bool{"x": true}
	inBubble(t, r, batch.Options{}, func(t *testing.T, c *calls) {
		c.do("x", "a")
		c.do("y", "b")
		c.do("x", "c")
		r.release() // the shared run finds x locked; the lane of x waits
		c.wantWaiting("a", "b", "c")
		c.do("x", "d")
		r.release()
		r.release()
		c.want("b", nil)
		r.release()
		for _, name := range []string{"a", "c", "d"} {
			c.want(name, nil)
		}
		r.mu.Lock()
		r.locked = nil
		r.mu.Unlock()
		close(r.gate)
		c.do("x", "e") // in the shared run again
		c.want("e", nil)

		var ofX []string
		for _, run := range r.all {
			if run == nil || run[0] == "b" {
				continue
			}
			ofX = append(ofX, run...)
		}
		if want := []string{"waits", "a", "c", "d", "e"}; !slices.Equal(ofX, want) &&
			!slices.Equal(ofX, []string{"waits", "a", "c", "waits", "d", "e"}) {
			t.Errorf("runs of x: %v; want %v", ofX, want)
		}
	})
}

// Items do not overtake a blocked one of their key, also if the run fails and its items run one by
// one.
func TestItemsDoNotOvertakeABlockedOneOfTheirKey(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]string{"together": "none", "one by one": "bad"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := held()
			r.locked = map[string]bool{"x": true}
			r.fail = map[string]error{fail: errors.New("poison")}
			inBubble(t, r, batch.Options{}, func(t *testing.T, c *calls) {
				c.do("z", "running")
				c.do("x", "a1", "a2")
				c.do("y", "b", "bad")
				c.do("x", "a3")
				r.release()
				c.do("x", "a4") // the items before it are in a run
				r.mu.Lock()
				r.unlock = "a1"
				r.mu.Unlock()
				close(r.gate)
				synctest.Wait()
				var ofX []string
				for _, run := range r.all {
					for _, name := range run {
						if name[0] == 'a' {
							ofX = append(ofX, name)
						}
					}
				}
				if want := []string{"a1", "a2", "a3", "a4"}; !slices.Equal(ofX, want) {
					t.Errorf("items of x were done in the order %v", ofX)
				}
			})
		})
	}
}

func TestTheNumberOfLanesThatRunIsBounded(t *testing.T) {
	t.Parallel()
	r := held()
	r.locked = map[string]bool{"x": true, "y": true, "z": true}
	inBubble(t, r, batch.Options{MaxLanes: 2}, func(t *testing.T, c *calls) {
		c.do("a", "running")
		for _, key := range []string{"x", "y", "z"} {
			c.do(key, "of "+key)
		}
		r.release()
		r.release() // all three are blocked now, and two lanes run
		c.do("b", "other")
		taken := 0
		for {
			select {
			case r.gate <- struct{}{}:
				taken++
				if synctest.Wait(); taken > 4 {
					t.Fatal("more runs than items")
				}
				continue
			default:
			}
			break
		}
		for _, name := range []string{"of x", "of y", "of z", "other"} {
			c.want(name, nil)
		}
	})
}

func TestAPanicEndsItsRunAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := batch.New[string](func(_ context.Context, items []*item, _ bool) ([]*item, error) {
			if items[0].name == "bad" {
				panic("a bug")
			}
			return nil, nil
		}, batch.Options{})
		if err := w.Do(t.Context(), "x", &item{name: "bad"}); !errors.Is(err, batch.ErrFinal) {
			t.Errorf("a run that panics: %v", err)
		}
		if err := w.Do(t.Context(), "x", &item{name: "good"}); err != nil {
			t.Errorf("the next: %v", err)
		}
	})
}

func TestARunIsBoundedInTime(t *testing.T) {
	t.Parallel()
	r := held()
	inBubble(t, r, batch.Options{Timeout: 3 * time.Second}, func(t *testing.T, c *calls) {
		begun := time.Now()
		if err := c.w.Do(t.Context(), "x", &item{"x", "a"}); !errors.Is(err,
			context.DeadlineExceeded) {
			t.Errorf("a run that does not end: %v", err)
		}
		if passed := time.Since(begun); passed != 3*time.Second {
			t.Errorf("it took %v", passed)
		}
	})
}

func TestEveryItemIsDoneOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	done, wrong := map[*item]int{}, errors.New("wrong")
	n := 0
	run := func(
		_ context.Context, items []*item, waitForLocks bool,
	) (blocked []*item, err error) {
		mu.Lock()
		defer mu.Unlock()
		n++
		if n%5 == 0 && len(items) > 1 {
			return nil, wrong
		}
		for i, it := range items {
			if !waitForLocks && (n+i)%7 == 0 {
				blocked = append(blocked, it)
			} else {
				done[it]++
			}
		}
		return blocked, nil
	}
	w := batch.New[string](run, batch.Options{MaxItems: 8, MaxLanes: 2})
	var working sync.WaitGroup
	const callers, each = 16, 200
	for caller := range callers {
		working.Go(func() {
			for i := range each {
				it := &item{key: fmt.Sprint((caller + i) % 5)}
				if err := w.Do(t.Context(), it.key, it); err != nil {
					t.Error(err)
				}
				mu.Lock()
				if done[it] != 1 {
					t.Errorf("an item was done %d times when its call returned", done[it])
				}
				mu.Unlock()
			}
		})
	}
	working.Wait()
	for _, times := range done {
		if times != 1 {
			t.Errorf("an item was done %d times", times)
		}
	}
	if len(done) != callers*each {
		t.Errorf("%d of %d items were done", len(done), callers*each)
	}
}
