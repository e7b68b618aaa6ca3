package graph

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"parley/errs"
)

// queued is work that waits for its turn, in a test.
type queued struct {
	of     string
	weight int64
}

// runInTurn has all of it wait behind what uses everything, and returns the order in which it ran, one after the other.
func runInTurn(t *testing.T, turns *turns, all []queued) (order []string) {
	t.Helper()
	release, err := turns.acquire(t.Context(), holder{network: "first"}, turns.capacity)
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan string, len(all))
	for _, w := range all {
		go func() {
			release, err := turns.acquire(t.Context(), holder{network: w.of}, w.weight)
			if err != nil {
				t.Error(err)
				return
			}
			ran <- w.of
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

// TestTurnsAreFair: whoever asks for much waits behind themselves.
func TestTurnsAreFair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		greedy := slices.Repeat([]queued{{"greedy", 10}}, 4)
		got := runInTurn(t, newTurns(10), slices.Concat(greedy, []queued{{"modest", 10}, {"other", 10}, {"modest", 10}}))
		want := []string{"greedy", "modest", "other", "greedy", "modest", "greedy", "greedy"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestTurnsAreBounded: no more runs at once than there is room for, and what weighs more than all runs alone.
func TestTurnsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(10)
		running, most := int64(0), int64(0)
		for i := range 40 {
			go func() {
				weight := int64(i%5 + 3)
				release, err := turns.acquire(t.Context(), holder{network: string(rune('a' + i%7))}, 3*weight)
				if err != nil {
					t.Error(err)
					return
				}
				turns.mu.Lock()
				running++
				most = max(most, turns.used)
				turns.mu.Unlock()
				release()
			}()
		}
		synctest.Wait()
		if running != 40 || most > 10 || turns.used != 0 || turns.waiting != 0 || len(turns.order)+len(turns.queues) != 0 {
			t.Errorf("%d ran, at most %d of 10, and then there is %+v", running, most, turns)
		}
	})
}

// TestTurnsThatNobodyWaitsFor are given to the next one.
func TestTurnsThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(10)
		release, err := turns.acquire(t.Context(), holder{}, 8)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone, there := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := turns.acquire(ctx, holder{network: "heavy"}, 10)
			gone <- err
		}()
		synctest.Wait()
		go func() {
			release, err := turns.acquire(t.Context(), holder{network: "light"}, 2)
			if err == nil {
				release()
			}
			there <- err
		}()
		synctest.Wait()
		if len(there) > 0 {
			t.Error("the heavy one was overtaken")
		}
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := <-there; err != nil { // beside the first, which goes on
			t.Error(err)
		}
		release()
		if turns.used != 0 || turns.waiting != 0 || len(turns.order)+len(turns.queues) != 0 {
			t.Errorf("left is %+v", turns)
		}
	})
}

// TestTooManyWait: each keeps its request in memory.
func TestTooManyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		turns.maxOwn, turns.maxAll = 2, 5
		release, err := turns.acquire(t.Context(), holder{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		refused := map[string]int{}
		for _, of := range []string{"a", "a", "a", "b", "b", "c", "d"} {
			go func() {
				release, err := turns.acquire(t.Context(), holder{network: of}, 1)
				if e, ok := errors.AsType[*errs.Error](err); ok && e.Code == errs.RateLimited && e.RetryAfter > 0 {
					refused[of]++
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				release()
			}()
			synctest.Wait()
		}
		release()
		synctest.Wait()
		if diff := cmp.Diff(map[string]int{"a": 1, "d": 1}, refused); diff != "" {
			t.Error(diff)
		}
	})
}
