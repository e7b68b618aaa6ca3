package store

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// Turns come in order, whoever gives up loses theirs, and nothing is left behind.
func TestTurnsComeInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := queues{byRow: map[any]*queue{}}
		leave, err := turns.take(t.Context(), "row")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var served []int
		for i := range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				leave, err := turns.take(ctx, "row")
				if err != nil {
					if i != 4 || !errors.Is(err, context.Canceled) {
						t.Errorf("%d: %v", i, err)
					}
					return
				}
				defer leave()
				mu.Lock()
				defer mu.Unlock()
				served = append(served, i)
			}()
			synctest.Wait()
			if i == 4 {
				cancel()
			} else {
				defer cancel()
			}
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		if want := []int{0, 1, 2, 3, 5, 6, 7, 8, 9}; !slices.Equal(served, want) {
			t.Errorf("served %v, want %v", served, want)
		}
		if n := len(turns.byRow); n != 0 {
			t.Errorf("%d queues are left", n)
		}
	})
}
