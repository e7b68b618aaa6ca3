package store

import (
	"context"
	"time"

	"parley/errs"
)

// How long RetryWhileUnavailable waits before it calls again: the backoff doubles from first to
// last.
const (
	FirstBackoff = 100 * time.Millisecond
	LastBackoff  = 5 * time.Second
)

// RetryWhileUnavailable calls fn, and again with backoff while its error is UNAVAILABLE. It returns
// any other error of fn, and the cause of ctx's end if that comes first, whatever the database
// makes of it.
func RetryWhileUnavailable(ctx context.Context, fn func() error) error {
	for backoff := FirstBackoff; ; backoff = min(2*backoff, LastBackoff) {
		err := fn()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errs.Is(err, errs.Unavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(backoff):
		}
	}
}
