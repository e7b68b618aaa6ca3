package graph

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// doubling finds 2n for each n below 100, and records its look-ups.
type doubling struct {
	lookups [][]int // of sorted keys
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

func TestBatcherLooksUpOnceForAllCallersOfAMoment(t *testing.T) {
	t.Parallel()
	for _, scope := range []batchScope{responseScope, nodeScope} {
		synctest.Test(t, func(t *testing.T) {
			var d doubling
			b := batcher[int, int]{find: d.find, scope: scope}
			var wg sync.WaitGroup
			for i := range 1000 {
				wg.Go(func() {
					key := i%10 + 91 // 100 is not found
					want := 2 * key % 200
					if v, err := b.join(t.Context(), key).wait(t.Context(), key); err != nil ||
						v != want {
						t.Errorf("%d: %d (%v)", key, v, err)
					}
				})
			}
			wg.Wait()
			if len(d.lookups) != 1 || len(d.lookups[0]) != 10 {
				t.Errorf("looked up %v", d.lookups)
			}
			// A caller that comes later does not get what was read before.
			if _, err := b.join(t.Context(), 1).wait(t.Context(), 1); err != nil ||
				len(d.lookups) != 2 {
				t.Errorf("%d look-ups (%v)", len(d.lookups), err)
			}
		})
	}
}

func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []int
		b := batcher[int, int]{find: func(_ context.Context, keys []int) (map[int]int, error) {
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(keys))
			return nil, nil
		}}
		var last *batch[int, int]
		for key := range maxBatchKeys + 1 {
			last = b.join(t.Context(), key)
		}
		_, _ = last.wait(t.Context(), 0)
		synctest.Wait()
		if slices.Sort(sizes); !slices.Equal(sizes, []int{1, maxBatchKeys}) {
			t.Errorf("batches of %v keys", sizes)
		}
	})
}

type valueKey struct{}

// TestResponseBatchesRunWithinTheirResponse: with its values, such as the answer that counts what
// is read, and no longer than the response.
func TestResponseBatchesRunWithinTheirResponse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended := false
		b := batcher[int, int]{find: func(ctx context.Context, _ []int) (map[int]int, error) {
			if ctx.Value(valueKey{}) != "the response's" {
				t.Errorf("ran with the value %v", ctx.Value(valueKey{}))
			}
			<-ctx.Done()
			<-time.After(time.Second) // as a statement that is slow to stop, by the bubble's clock
			ended = true
			return nil, context.Cause(ctx)
		}}
		fault := errors.New("the answer is too large")
		ctx, stop := context.WithCancelCause(context.WithValue(t.Context(), valueKey{},
			"the response's"))
		time.AfterFunc(time.Minute, func() { stop(fault) })
		if _, err := b.join(ctx, 1).wait(ctx, 1); !errors.Is(err, fault) {
			t.Errorf("got %v", err)
		}
		if !ended {
			t.Error("the caller did not wait for the end of the look-up")
		}
	})
}

// TestNodeBatchesOutliveTheirFirstCaller: the others need the values.
func TestNodeBatchesOutliveTheirFirstCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := batcher[int, int]{
			scope: nodeScope,
			find: func(ctx context.Context, _ []int) (map[int]int, error) {
				if ctx.Value(valueKey{}) != nil {
					t.Error("ran with the values of a response")
				}
				select {
				case <-time.After(time.Second):
					return map[int]int{1: 2, 2: 4}, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			},
		}
		first, cancel := context.WithTimeout(
			context.WithValue(t.Context(), valueKey{}, "the first one's"), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		joined := b.join(first, 1)
		wg.Go(func() {
			if v, err := b.join(t.Context(), 2).wait(t.Context(), 2); err != nil || v != 4 {
				t.Errorf("the other caller got %d (%v)", v, err)
			}
		})
		start := time.Now()
		if _, err := joined.wait(first, 1); !errors.Is(err, context.DeadlineExceeded) ||
			time.Since(start) > time.Second/2 {
			t.Errorf("the first caller got %v after %v", err, time.Since(start))
		}
		wg.Wait()
	})
}

func TestNodeBatchesTimeOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := batcher[int, int]{
			scope: nodeScope,
			find: func(ctx context.Context, _ []int) (map[int]int, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		}
		start := time.Now()
		_, err := b.join(t.Context(), 1).wait(t.Context(), 1)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) ||
			took != batchWait+batchTimeout {
			t.Errorf("got %v after %v", err, took)
		}
	})
}

// TestAPanicInABatchIsAnError: it runs on a goroutine of its own, where a panic ends the process.
func TestAPanicInABatchIsAnError(t *testing.T) {
	t.Parallel()
	for _, scope := range []batchScope{responseScope, nodeScope} {
		synctest.Test(t, func(t *testing.T) {
			b := batcher[int, int]{
				scope: scope,
				find: func(context.Context, []int) (map[int]int, error) {
					panic("a bug")
				},
			}
			if _, err := b.join(t.Context(), 1).wait(t.Context(), 1); err == nil ||
				!strings.HasPrefix(err.Error(), "panic: a bug") {
				t.Errorf("got %v", err)
			}
		})
	}
}
