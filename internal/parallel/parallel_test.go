package parallel

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestEach(t *testing.T) {
	t.Parallel()
	const n, limit = 50, 3
	var calls [n]atomic.Int64
	var running atomic.Int64
	err := Each(t.Context(), n, limit, func(_ context.Context, i int) error {
		if now := running.Add(1); now > limit {
			t.Errorf("%d calls at a time", now)
		}
		defer running.Add(-1)
		calls[i].Add(1)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for i := range calls {
		if got := calls[i].Load(); got != 1 {
			t.Errorf("%d calls with %d, want 1", got, i)
		}
	}
}

func TestEachStopsAtAnError(t *testing.T) {
	t.Parallel()
	errOdd := errors.New("odd")
	last := 0
	err := Each(t.Context(), 10, 1, func(ctx context.Context, i int) error {
		last = i
		if i == 3 {
			return errOdd
		}
		return ctx.Err()
	})
	if !errors.Is(err, errOdd) || last != 3 {
		t.Errorf("%v after %d, want %v after 3", err, last, errOdd)
	}
}

func TestEachStopsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	errOver := errors.New("over")
	cancel(errOver)
	err := Each(ctx, 10, 2, func(context.Context, int) error {
		t.Error("a call")
		return nil
	})
	if !errors.Is(err, errOver) {
		t.Errorf("%v, want %v", err, errOver)
	}
}
