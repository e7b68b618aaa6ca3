package fair

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// mustAcquire takes a weight that is free.
func mustAcquire(t *testing.T, s *Semaphore[string], key string, weight int64) (release func()) {
	t.Helper()
	release, err := s.Acquire(t.Context(), key, weight)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

// mustWait takes a place in the queue of a key.
func mustWait(t *testing.T, s *Semaphore[string], key string) *waiter {
	t.Helper()
	w, err := s.join(key, 1)
	if err != nil || w == nil {
		t.Fatalf("%s: waiter %v, error %v", key, w, err)
	}
	return w
}

// answered returns the answer of a waiter, if there is one.
func answered(w *waiter) (err error, ok bool) {
	select {
	case err := <-w.answer:
		return err, true
	default:
		return nil, false
	}
}

func wantUnused(t *testing.T, s *Semaphore[string]) {
	t.Helper()
	if s.free != s.capacity || s.waiting != 0 || len(s.turns)+len(s.queues) != 0 {
		t.Errorf("left over: %+v", s)
	}
}

func TestAFloodDelaysAnotherKeyByOneTurn(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 2, 8} {
		s := NewSemaphore[string](int64(slots), 100, 50)
		for range slots {
			mustAcquire(t, s, "flood", 1)
		}
		for range 50 {
			mustWait(t, s, "flood")
		}
		if _, err := s.join("flood", 1); !errors.Is(err, ErrKeyFull) {
			t.Errorf("%d slots: one more of the flood: %v", slots, err)
		}
		first, second := mustWait(t, s, "other"), mustWait(t, s, "other")
		served := 0
		serve := func(w *waiter) int {
			for {
				if err, ok := answered(w); ok {
					if err != nil {
						t.Fatalf("%d slots: the other key is refused: %v", slots, err)
					}
					return served
				}
				s.release(1)
				served++
			}
		}
		if n := serve(first); n > 2 {
			t.Errorf("%d slots: served after %d releases", slots, n)
		}
		if n := serve(second); n > 4 {
			t.Errorf("%d slots: the second one is served after %d releases", slots, n)
		}
	}
}

// Several keys that take all places together keep no key out that has fewer.
func TestAFullSemaphoreDropsFromTheLongestQueue(t *testing.T) {
	t.Parallel()
	s := NewSemaphore[string](1, 6, 4)
	mustAcquire(t, s, "uses it", 1)
	var a, b []*waiter
	for range 4 {
		a = append(a, mustWait(t, s, "a"))
	}
	for range 2 {
		b = append(b, mustWait(t, s, "b"))
	}
	mustWait(t, s, "c")
	if err, ok := answered(a[3]); !ok || !errors.Is(err, ErrKeyFull) {
		t.Errorf("the newest of the longest queue: %v", err)
	}
	if _, err := s.join("b", 1); !errors.Is(err, ErrFull) {
		t.Errorf("b would have as many as a: %v", err) // 3, 2 and 1: no key has two more
	}
	mustWait(t, s, "d")
	for _, w := range slices.Concat(a[:2], b) {
		if err, ok := answered(w); ok {
			t.Errorf("answered: %v", err)
		}
	}
}

func TestWithoutPlacesToWaitCallersAreRefused(t *testing.T) {
	t.Parallel()
	s := NewSemaphore[string](1, 0, 1)
	release := mustAcquire(t, s, "a", 1)
	if _, err := s.Acquire(t.Context(), "b", 1); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	release()
	mustAcquire(t, s, "b", 1)()
	wantUnused(t, s)
}

func TestWeightsHaveBounds(t *testing.T) {
	t.Parallel()
	s := NewSemaphore[string](3, 0, 0)
	for weight, want := range map[int64]int64{
		math.MinInt64: 1, 0: 1, 2: 2, 3: 3, 4: 3,
		math.MaxInt64: 3,
	} {
		release := mustAcquire(t, s, "a", weight)
		if held := s.capacity - s.free; held != want {
			t.Errorf("a weight of %d counts as %d", weight, held)
		}
		release()
		wantUnused(t, s)
	}
}

// caller is a caller in the property test.
type caller struct {
	*waiter
	key    string
	before int            // waiters of its key that were there when it came
	served map[string]int // meanwhile, by key; nil if it is not counted
}

// Any sequence of callers that come, finish and stop waiting keeps the invariants. While a caller
// waits that came behind k-1 others of its key, every other key is served at most k times. Nothing
// overtakes a caller whose turn it is.
func TestKeysTakeTurns(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.Int64Range(1, 6).Draw(t, "capacity")
		s := NewSemaphore[string](capacity, rapid.IntRange(0, 12).Draw(t, "maxWaiters"),
			rapid.IntRange(0, 6).Draw(t, "maxWaitersPerKey"))
		var waiting []*caller // in the order in which they came
		var holding []int64   // weights
		next := func() *caller {
			if len(s.turns) == 0 {
				return nil
			}
			w := s.queues[s.turns[0]][0]
			return waiting[slices.IndexFunc(waiting, func(c *caller) bool { return c.waiter == w })]
		}
		// collect takes the answers that came since.
		collect := func() {
			var served []*caller
			var still []*caller
			for _, c := range waiting {
				switch err, ok := answered(c.waiter); {
				case !ok:
					still = append(still, c)
				case err == nil:
					served = append(served, c)
					holding = append(holding, c.weight)
				case !errors.Is(err, ErrKeyFull):
					t.Fatalf("a waiter was refused: %v", err)
				}
			}
			waiting = still
			for _, c := range served {
				for _, other := range waiting {
					if other.key == c.key || other.served == nil {
						continue
					}
					if other.served[c.key]++; other.served[c.key] > other.before+1 {
						t.Fatalf("%s was served %d times while %s waited behind %d",
							c.key, other.served[c.key], other.key, other.before)
					}
				}
			}
		}
		count := func(key string) (n int) {
			for _, c := range waiting {
				if c.key == key {
					n++
				}
			}
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"come": func(t *rapid.T) {
				key := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "key")
				weight := min(rapid.Int64Range(1, 6).Draw(t, "weight"), capacity)
				head := next()
				w, err := s.join(key, weight)
				c := &caller{w, key, count(key), map[string]int{}}
				switch {
				case err == nil && w != nil:
					waiting = append(waiting, c)
				case err == nil:
					if head != nil {
						t.Fatalf("%s overtook %s", key, head.key)
					}
					holding = append(holding, weight)
				case errors.Is(err, ErrKeyFull):
					if c.before < s.maxWaitersPerKey {
						t.Fatalf("%s has %d waiters, and is refused", key, c.before)
					}
				case errors.Is(err, ErrFull):
					for _, other := range waiting {
						if n := count(other.key); n > c.before+1 {
							t.Fatalf("%s has %d waiters, %s has %d and gets ErrFull", other.key, n,
								key, c.before)
						}
					}
				}
				if head != next() && head != nil {
					t.Fatalf("%s lost its turn", head.key)
				}
			},
			"release": func(t *rapid.T) {
				if len(holding) == 0 {
					t.Skip("nothing is held")
				}
				weight := holding[0]
				holding = holding[1:]
				s.release(weight)
			},
			"stop waiting": func(t *rapid.T) {
				if len(waiting) == 0 {
					t.Skip("no caller waits")
				}
				c := rapid.SampledFrom(waiting).Draw(t, "caller")
				waiting = slices.DeleteFunc(waiting, func(other *caller) bool { return other == c })
				first, free := s.turns[0], s.free
				s.leave(c.key, c.waiter)
				if s.free == free && count(first) > 0 && s.turns[0] != first {
					t.Fatalf("%s lost its turn because %s has a waiter less", first, c.key)
				}
			},
			"stop waiting while it is served": func(t *rapid.T) {
				c := next()
				if len(holding) == 0 || c == nil || c.weight > s.free+holding[0] {
					t.Skip("no caller would be served")
				}
				weight := holding[0]
				holding = holding[1:]
				s.release(weight)
				waiting = slices.DeleteFunc(waiting, func(other *caller) bool { return other == c })
				s.leave(c.key, c.waiter)
				// Its key counts as served for the others, which collect does not see.
				for _, other := range waiting {
					other.served = nil
				}
			},
			"": func(t *rapid.T) {
				collect()
				if s.free < 0 || s.free+sum(holding) != capacity {
					t.Fatalf("%d free, %v held of %d", s.free, holding, capacity)
				}
				if head := next(); head != nil && head.weight <= s.free {
					t.Fatalf("%s waits for %d, and %d are free", head.key, head.weight, s.free)
				}
				if s.waiting != len(waiting) || s.waiting > s.maxWaiters ||
					len(s.queues) != len(s.turns) {
					t.Fatalf("%d counted, %d wait, at most %d; %v, %v",
						s.waiting, len(waiting), s.maxWaiters, s.queues, s.turns)
				}
				for _, key := range s.turns {
					if n := len(s.queues[key]); n == 0 || n > s.maxWaitersPerKey ||
						n != count(key) {
						t.Fatalf("%s: %d in its queue, %d wait", key, n, count(key))
					}
				}
			},
		})
	})
}

func sum(weights []int64) (n int64) {
	for _, weight := range weights {
		n += weight
	}
	return n
}

// A caller that stops waiting leaves its place to others, and takes nothing with it.
func TestCallersThatStopWaitingLeaveTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSemaphore[string](1, 10, 10)
		release := mustAcquire(t, s, "a", 1)
		reason := errors.New("the reason")
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 3)
		for range 3 {
			go func() {
				_, err := s.Acquire(ctx, "a", 1)
				ended <- err
			}()
		}
		served := make(chan error, 1)
		go func() {
			release, err := s.Acquire(t.Context(), "a", 1)
			if err == nil {
				release()
			}
			served <- err
		}()
		synctest.Wait()
		if n := s.Waiting(); n != 4 {
			t.Fatalf("%d wait", n)
		}
		cancel(reason)
		for range 3 {
			if err := <-ended; !errors.Is(err, reason) {
				t.Errorf("got %v", err)
			}
		}
		if n := s.Waiting(); n != 1 {
			t.Errorf("%d wait", n)
		}
		release()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if _, err := s.Acquire(ctx, "a", 1); !errors.Is(err, reason) {
			t.Errorf("a context that has ended: %v", err)
		}
		wantUnused(t, s)
	})
}

// work waits for its turn, in a test.
type work struct {
	key    string
	weight int64
}

// runInTurn lets all work wait behind a caller that uses everything, and returns the order in which
// it ran, one after the other.
func runInTurn(t *testing.T, s *Semaphore[string], all []work) (order []string) {
	t.Helper()
	release := mustAcquire(t, s, "first", s.capacity)
	ran := make(chan string, len(all))
	for _, w := range all {
		go func() {
			release, err := s.Acquire(t.Context(), w.key, w.weight)
			if err != nil {
				t.Error(err)
				return
			}
			ran <- w.key
			release()
		}()
		synctest.Wait() // so that they queue in this order
	}
	release()
	for range all {
		order = append(order, <-ran)
	}
	return order
}

func TestAKeyWaitsBehindItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSemaphore[string](10, 100, 100)
		greedy := slices.Repeat([]work{{"greedy", 10}}, 4)
		got := runInTurn(t, s, slices.Concat(greedy,
			[]work{{"modest", 10}, {"other", 10}, {"modest", 10}}))
		want := []string{"greedy", "modest", "other", "greedy", "modest", "greedy", "greedy"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// What runs at once weighs no more than the capacity, and work that weighs more runs alone.
func TestTheCapacityIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSemaphore[string](10, 100, 100)
		var mu sync.Mutex
		ran, running, most := 0, int64(0), int64(0)
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				weight := int64(3 * (i%5 + 3)) // 9 to 21
				if i%2 == 0 {
					weight /= 3
				}
				release, err := s.Acquire(t.Context(), string(rune('a'+i%7)), weight)
				if err != nil {
					t.Error(err)
					return
				}
				defer release()
				mu.Lock()
				ran++
				running += min(weight, 10)
				most = max(most, running)
				mu.Unlock()
				<-time.After(time.Millisecond) // of the test's clock
				mu.Lock()
				running -= min(weight, 10)
				mu.Unlock()
			})
		}
		all.Wait()
		if ran != 40 || most != 10 {
			t.Errorf("%d ran, at most %d of 10 at once", ran, most)
		}
		wantUnused(t, s)
	})
}

// The caller whose turn it is waits for room, and lighter ones wait behind it. When it stops
// waiting, they go on.
func TestLightWorkDoesNotOvertakeHeavyWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSemaphore[string](10, 100, 100)
		release := mustAcquire(t, s, "first", 8)
		ctx, cancel := context.WithCancel(t.Context())
		heavy, light := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := s.Acquire(ctx, "heavy", 10)
			heavy <- err
		}()
		synctest.Wait()
		go func() {
			release, err := s.Acquire(t.Context(), "light", 2)
			if err == nil {
				release()
			}
			light <- err
		}()
		synctest.Wait()
		if len(light) > 0 {
			t.Error("the heavy one was overtaken")
		}
		cancel()
		if err := <-heavy; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := <-light; err != nil { // beside the first, which goes on
			t.Error(err)
		}
		release()
		wantUnused(t, s)
	})
}
