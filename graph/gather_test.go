package graph

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestGathererLooksUpOnceForAllWhoAskTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lookups [][]int
		g := gatherer[int, int]{find: func(_ context.Context, keys []int) (map[int]int, error) {
			lookups = append(lookups, keys)
			found := map[int]int{}
			for _, key := range keys {
				if key < 100 {
					found[key] = 2 * key
				}
			}
			return found, nil
		}}
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				if found, err := g.load(t.Context(), []int{i % 10, 100}); err != nil || found[i%10] != 2*(i%10) {
					t.Errorf("%d: %v (%v)", i, found, err)
				}
			})
		}
		wg.Wait()
		if len(lookups) != 1 || len(lookups[0]) != 11 {
			t.Errorf("looked up %v", lookups)
		}
		// What is asked later is read later.
		if _, err := g.load(t.Context(), []int{1}); err != nil || len(lookups) != 2 {
			t.Errorf("%d look-ups (%v)", len(lookups), err)
		}
	})
}

func TestGathererKeepsNobodyWaitingForAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("no")
		g := gatherer[int, int]{find: func(ctx context.Context, _ []int) (map[int]int, error) {
			<-time.After(time.Second) // of the bubble's clock
			return nil, cmp.Or(ctx.Err(), failure)
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := g.load(t.Context(), []int{1}); !errors.Is(err, failure) {
				t.Errorf("the patient one got %v", err)
			}
		})
		if _, err := g.load(ctx, []int{1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient one got %v", err)
		}
		wg.Wait()
	})
}
