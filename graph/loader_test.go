package graph

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func mustLoad(t *testing.T, l *loader[int, int], key, want int) {
	t.Helper()
	if v, err := l.thunk(t.Context(), key)(); err != nil || v != want {
		t.Errorf("%d: got %d (%v), want %d", key, v, err, want)
	}
}

func TestLoaderReturnsPrefetchedValues(t *testing.T) {
	t.Parallel()
	var d doubling
	l := newLoader(d.find)
	if found := l.prefetch(t.Context(), []int{1, 2, 100}); len(found) != 2 || found[2] != 4 {
		t.Errorf("found %v", found)
	}
	l.prime(3, 6)
	l.prime(1, 0) // is known already
	for key, want := range map[int]int{1: 2, 2: 4, 3: 6, 100: 0} {
		mustLoad(t, l, key, want)
	}
	l.prefetch(t.Context(), []int{3, 2, 1, 4})
	if l.batcher != nil || len(d.lookups) != 2 || !slices.Equal(d.lookups[1], []int{4}) {
		t.Errorf("looked up %v", d.lookups)
	}
}

func TestLoaderBatchesOtherKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d doubling
		l := newLoader(d.find)
		var wg sync.WaitGroup
		for _, key := range []int{1, 2, 2, 100} {
			wg.Go(func() { mustLoad(t, l, key, 2*key%200) })
		}
		wg.Wait()
		mustLoad(t, l, 1, 2) // is not looked up again
		if len(d.lookups) != 1 || !slices.Equal(d.lookups[0], []int{1, 2, 100}) {
			t.Errorf("looked up %v", d.lookups)
		}
	})
}

// If prefetching fails, the field looks up for itself, and reports the error. Fields that come
// later report it, too: with a database that is down, each look-up would take its time.
func TestLoaderThatFailsToPrefetch(t *testing.T) {
	t.Parallel()
	d := doubling{err: errors.New("the database is away")}
	l := newLoader(d.find)
	if found := l.prefetch(t.Context(), []int{1}); found != nil {
		t.Errorf("found %v", found)
	}
	for range 2 {
		if _, err := l.thunk(t.Context(), 1)(); !errors.Is(err, d.err) {
			t.Errorf("got %v", err)
		}
	}
	if len(d.lookups) != 2 {
		t.Errorf("looked up %v", d.lookups)
	}
}
