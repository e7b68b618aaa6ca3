package graph

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// doubling finds 2n for each n below 100, and keeps what it was asked for.
type doubling struct {
	lookups [][]int
	err     error
}

func (d *doubling) find(_ context.Context, keys []int) (map[int]int, error) {
	d.lookups = append(d.lookups, slices.Sorted(slices.Values(keys)))
	found := map[int]int{}
	for _, key := range keys {
		if key < 100 {
			found[key] = 2 * key
		}
	}
	return found, d.err
}

func mustAsk(t *testing.T, l *loader[int, int], key, want int) {
	t.Helper()
	if v, err := l.ask(t.Context(), key)(); err != nil || v != want {
		t.Errorf("%d: got %d (%v), want %d", key, v, err, want)
	}
}

func TestLoaderAnswersWhatWasForeseen(t *testing.T) {
	t.Parallel()
	var d doubling
	l := newLoader(d.find)
	if found := l.foresee(t.Context(), []int{1, 2, 100}); len(found) != 2 || found[2] != 4 {
		t.Errorf("found %v", found)
	}
	l.know(3, 6)
	l.know(1, 0) // is known already
	for key, want := range map[int]int{1: 2, 2: 4, 3: 6, 100: 0} {
		mustAsk(t, l, key, want)
	}
	l.foresee(t.Context(), []int{3, 2, 1, 4})
	if l.asked != nil || len(d.lookups) != 2 || !slices.Equal(d.lookups[1], []int{4}) {
		t.Errorf("looked up %v", d.lookups)
	}
}

func TestLoaderGathersWhatWasNotForeseen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d doubling
		l := newLoader(d.find)
		var wg sync.WaitGroup
		for _, key := range []int{1, 2, 2, 100} {
			wg.Go(func() { mustAsk(t, l, key, 2*key%200) })
		}
		wg.Wait()
		if len(d.lookups) != 1 || !slices.Equal(d.lookups[0], []int{1, 2, 100}) {
			t.Errorf("looked up %v", d.lookups)
		}
	})
}

// Where looking ahead fails, the field asks itself, and has the error to tell.
func TestLoaderThatFailsToForesee(t *testing.T) {
	t.Parallel()
	d := doubling{err: errors.New("the database is away")}
	l := newLoader(d.find)
	if found := l.foresee(t.Context(), []int{1}); found != nil {
		t.Errorf("found %v", found)
	}
	if _, err := l.ask(t.Context(), 1)(); !errors.Is(err, d.err) {
		t.Errorf("got %v", err)
	}
}
