package store

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func TestAQueueIsServedInOrderAndForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var queues queues
		leave, err := queues.enter(t.Context(), "row")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var served []int
		const cancelled = 4
		for i := range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				leave, err := queues.enter(ctx, "row")
				if err != nil {
					if i != cancelled || !errors.Is(err, context.Canceled) {
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
			if i == cancelled {
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
		if n := len(queues.byRow.Values()); n != 0 {
			t.Errorf("%d queues are left", n)
		}
	})
}
