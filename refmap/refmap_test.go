package refmap_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"parley/refmap"
)

func TestAValueIsSharedUntilItsLastRelease(t *testing.T) {
	t.Parallel()
	var m refmap.Map[string, *int]
	var opened, closed int
	open := func() *int { opened++; return new(int) }
	closeValue := func(*int) { closed++ }
	one, other := m.Acquire("a", open), m.Acquire("a", open)
	if one != other || opened != 1 {
		t.Fatalf("opened %d values for two users", opened)
	}
	m.Release("a", closeValue)
	if got, ok := m.Get("a"); !ok || got != one || closed != 0 {
		t.Fatal("the value is gone although it has a user")
	}
	m.Release("a", closeValue)
	if _, ok := m.Get("a"); ok || closed != 1 || len(m.Values()) != 0 {
		t.Fatal("the value is there although it has no user")
	}
	if m.Acquire("a", open) == one {
		t.Error("a closed value was handed out")
	}
}

func TestReleasingTooOftenPanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("it did not panic")
		}
	}()
	new(refmap.Map[int, int]).Release(1, nil)
}

func TestNoTwoValuesOfAKeyAreOpenAtOnce(t *testing.T) {
	t.Parallel()
	var m refmap.Map[int, int]
	var open atomic.Int32
	var users sync.WaitGroup
	for range 50 {
		users.Go(func() {
			for range 100 {
				m.Acquire(1, func() int {
					if open.Add(1) > 1 {
						t.Error("two values are open")
					}
					return 1
				})
				m.Release(1, func(int) { open.Add(-1) })
			}
		})
	}
	users.Wait()
	if open.Load() != 0 {
		t.Errorf("%d values were never closed", open.Load())
	}
}
