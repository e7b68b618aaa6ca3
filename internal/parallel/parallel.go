// Package parallel runs numbered tasks in a few goroutines.
package parallel

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// Each calls fn with every number below n, at most limit calls at a time, and returns when all
// calls have. After the first error it cancels ctx, makes no further calls, and returns that error.
func Each(ctx context.Context, n, limit int, fn func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(limit)
	for i := range n {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fn(ctx, i)
		})
	}
	return group.Wait()
}
