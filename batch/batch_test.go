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

// item is what the tests hand in; by its name it tells what is to happen to it.
type item struct{ key, name string }

// runs is a Run that a test looks into, and holds up.
type runs struct {
	mu sync.Mutex // guards what follows
	// names of the items of each run that was not refused, in order; the patient ones begin with
	// "patiently"
	all  [][]string
	fail map[string]error
	busy map[string]bool
	free string // once this item has been held up, its key is busy no more
	hold bool
	gate chan struct{} // where it is not nil, each run takes one before it ends
}

func (r *runs) run(ctx context.Context, items []*item, patient bool) (busy []*item, err error) {
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
	if patient {
		names = append(names, "patiently")
	}
	for _, it := range items {
		if err := r.fail[it.name]; err != nil {
			return nil, err
		}
		if r.busy[it.key] && !patient {
			busy = append(busy, it)
			if r.free == it.name && len(items) == 1 {
				delete(r.busy, it.key)
			}
			continue
		}
		names = append(names, it.name)
	}
	r.all = append(r.all, names)
	return busy, nil
}

func (r *runs) want(t *testing.T, want ...[]string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.all); diff != "" {
		t.Errorf("runs, -want +got:\n%s", diff)
	}
}

// calls are what was handed in, and what it ended with.
type calls struct {
	t      *testing.T
	w      *batch.Writer[string, *item]
	mu     sync.Mutex // guards ended
	ended  map[string]error
	cancel map[string]context.CancelFunc
}

func newCalls(t *testing.T, r *runs, opts batch.Options) *calls {
	return &calls{t: t, w: batch.New[string](r.run, opts), ended: map[string]error{}, cancel: map[string]context.CancelFunc{}}
}

// do hands items of a key in, one after the other.
func (c *calls) do(key string, names ...string) {
	for _, name := range names {
		ctx, cancel := context.WithCancel(c.t.Context())
		c.cancel[name] = cancel
		go func() {
			err := c.w.Do(ctx, key, &item{key, name})
			c.mu.Lock()
			defer c.mu.Unlock()
			if _, twice := c.ended[name]; twice {
				c.t.Errorf("%s has ended twice", name)
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
	if err, over := c.ended[name]; !over || !errors.Is(err, want) {
		c.t.Errorf("%s: over %t with %v; want %v", name, over, err, want)
	}
}

func (c *calls) wantWaiting(names ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if err, over := c.ended[name]; over {
			c.t.Errorf("%s is over with %v", name, err)
		}
	}
}

// in runs a test in a bubble, where synctest.Wait knows when nothing moves any more.
func in(t *testing.T, r *runs, opts batch.Options, test func(t *testing.T, c *calls)) {
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

func TestALoneCallRunsAtOnce(t *testing.T) {
	t.Parallel()
	r := &runs{}
	in(t, r, batch.Options{}, func(t *testing.T, c *calls) {
		begun := time.Now()
		c.do("x", "a", "b")
		c.want("a", nil)
		c.want("b", nil)
		r.want(t, []string{"a"}, []string{"b"})
		if passed := time.Since(begun); passed != 0 {
			t.Errorf("they waited for %v of a clock that moves only when everybody waits", passed)
		}
	})
}

func TestWhatWaitsGoesTogether(t *testing.T) {
	t.Parallel()
	r := held()
	in(t, r, batch.Options{MaxItems: 3}, func(t *testing.T, c *calls) {
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

func TestWhatFailsHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	r, poison := held(), errors.New("poison")
	r.fail = map[string]error{"c": poison}
	in(t, r, batch.Options{}, func(t *testing.T, c *calls) {
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

func TestWhatIsFinalIsNotRunAgain(t *testing.T) {
	t.Parallel()
	r := held()
	r.fail = map[string]error{"b": fmt.Errorf("cut off: %w", batch.ErrFinal)}
	in(t, r, batch.Options{}, func(t *testing.T, c *calls) {
		c.do("x", "a", "b", "c")
		close(r.gate)
		synctest.Wait()
		c.want("b", batch.ErrFinal)
		c.want("c", batch.ErrFinal)
		r.want(t, []string{"a"})
	})
}

func TestThereIsRoomForSoMany(t *testing.T) {
	t.Parallel()
	r := held()
	in(t, r, batch.Options{MaxWaiting: 2}, func(t *testing.T, c *calls) {
		c.do("x", "running", "a", "b")
		err := c.w.Do(t.Context(), "x", &item{"x", "c"})
		full, ok := errors.AsType[*batch.ErrFull](err)
		if !ok || full.RetryAfter <= 0 {
			t.Fatalf("a third that would have to wait: %v", err)
		}
		close(r.gate)
		synctest.Wait()
		c.do("x", "d")
		c.want("d", nil)
		r.want(t, []string{"running"}, []string{"a", "b"}, []string{"d"})
	})
}

func TestWhoeverHasGoneIsInNoRun(t *testing.T) {
	t.Parallel()
	r := held()
	in(t, r, batch.Options{MaxWaiting: 2}, func(t *testing.T, c *calls) {
		c.do("x", "running", "a", "b")
		for _, name := range []string{"running", "a"} {
			c.cancel[name]()
			synctest.Wait()
			c.want(name, context.Canceled)
		}
		c.do("x", "c") // in the place of a
		c.wantWaiting("b", "c")
		close(r.gate)
		synctest.Wait()
		r.want(t, []string{"running"}, []string{"b", "c"})
	})
}

func TestWhatIsHeldUpWaitsBesideTheOthers(t *testing.T) {
	t.Parallel()
	r := held()
	r.busy = map[string]bool{"x": true}
	in(t, r, batch.Options{}, func(t *testing.T, c *calls) {
		c.do("x", "a")
		c.do("y", "b")
		c.do("x", "c")
		r.release() // the shared run finds x busy; the one of x waits
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
		r.busy = nil
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
		if want := []string{"patiently", "a", "c", "d", "e"}; !slices.Equal(ofX, want) && !slices.Equal(ofX, []string{"patiently", "a", "c", "patiently", "d", "e"}) {
			t.Errorf("runs of x: %v; want %v", ofX, want)
		}
	})
}

// Where a run fails and its items run one by one, those behind one that is held up do not overtake
// it.
func TestNobodyOvertakesWhoIsHeldUp(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]string{"together": "nobody", "one by one": "bad"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := held()
			r.busy = map[string]bool{"x": true}
			r.fail = map[string]error{fail: errors.New("poison")}
			in(t, r, batch.Options{}, func(t *testing.T, c *calls) {
				c.do("z", "running")
				c.do("x", "a1", "a2")
				c.do("y", "b", "bad")
				c.do("x", "a3")
				r.release()
				c.do("x", "a4") // the items before it are in a run
				r.mu.Lock()
				r.free = "a1" // no longer held up, once it has been
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

func TestSoManyLanesWaitAtOnce(t *testing.T) {
	t.Parallel()
	r := held()
	r.busy = map[string]bool{"x": true, "y": true, "z": true}
	in(t, r, batch.Options{MaxLanes: 2}, func(t *testing.T, c *calls) {
		c.do("a", "running")
		for _, key := range []string{"x", "y", "z"} {
			c.do(key, "of "+key)
		}
		r.release()
		r.release() // all three are held up now, and two lanes run
		c.do("b", "beside")
		taken := 0
		for {
			select {
			case r.gate <- struct{}{}:
				taken++
				if synctest.Wait(); taken > 4 {
					t.Fatal("more runs than there are")
				}
				continue
			default:
			}
			break
		}
		for _, name := range []string{"of x", "of y", "of z", "beside"} {
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
	in(t, r, batch.Options{Timeout: 3 * time.Second}, func(t *testing.T, c *calls) {
		begun := time.Now()
		if err := c.w.Do(t.Context(), "x", &item{"x", "a"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a run without end: %v", err)
		}
		if passed := time.Since(begun); passed != 3*time.Second {
			t.Errorf("it took %v", passed)
		}
	})
}

// Whatever happens at once: every item is done once, by one run.
func TestEveryItemIsDoneOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	done, wrong := map[*item]int{}, errors.New("wrong")
	n := 0
	w := batch.New[string](func(_ context.Context, items []*item, patient bool) (busy []*item, err error) {
		mu.Lock()
		defer mu.Unlock()
		n++
		if n%5 == 0 && len(items) > 1 {
			return nil, wrong
		}
		for i, it := range items {
			if !patient && (n+i)%7 == 0 {
				busy = append(busy, it)
			} else {
				done[it]++
			}
		}
		return busy, nil
	}, batch.Options{MaxItems: 8, MaxLanes: 2})
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
					t.Errorf("an item was done %d times when its call ended", done[it])
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
