package graph

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// batcher collects the keys that callers ask for at about the same time, and looks them up
// together. It keeps no results: a caller joins only a batch whose look-up has not started, so it
// never gets what was read before it asked.
type batcher[K comparable, V any] struct {
	find  func(context.Context, []K) (map[K]V, error)
	scope batchScope

	mu   sync.Mutex // guards open, and the keys of that batch
	open *batch[K, V]
}

// batchScope says which callers share a batch, and so with which context its look-up runs.
type batchScope int

const (
	// responseScope is for the fields of one response. The look-up runs with the context of the
	// first caller: it is cancelled with the response, and what it reads counts for that answer.
	// Callers wait for its end, so that it does not outlive the response.
	responseScope batchScope = iota
	// nodeScope is for the fields of all responses of this node, and for values that are the same
	// for every actor. The look-up runs with a context of its own, because the other callers need
	// it when the response of the first one has ended. A caller stops waiting when its own context
	// ends.
	nodeScope
)

const (
	// batchWait is how long a batch is open. It is as short as is useful: in an idle process a
	// timer may be a millisecond late.
	batchWait    = 500 * time.Microsecond
	maxBatchKeys = 1000
	// batchTimeout is the limit of a look-up in nodeScope.
	batchTimeout = 10 * time.Second
)

// batch is one look-up.
type batch[K comparable, V any] struct {
	scope batchScope
	ctx   context.Context //nolint:containedctx // of the first caller, in responseScope
	keys  map[K]struct{}  // guarded by the batcher's mu until the look-up starts
	done  chan struct{}   // closed when found and err are set
	found map[K]V
	err   error
}

// join adds a key to the open batch, or opens one. The batch's look-up starts by itself.
func (b *batcher[K, V]) join(ctx context.Context, key K) *batch[K, V] {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil || len(b.open.keys) >= maxBatchKeys {
		opened := &batch[K, V]{scope: b.scope, keys: map[K]struct{}{}, done: make(chan struct{})}
		if b.scope == responseScope {
			opened.ctx = ctx
		}
		b.open = opened
		time.AfterFunc(batchWait, func() { b.run(opened) })
	}
	b.open.keys[key] = struct{}{}
	return b.open
}

// run closes a batch to further keys, and looks it up.
func (b *batcher[K, V]) run(opened *batch[K, V]) {
	b.mu.Lock()
	if b.open == opened {
		b.open = nil
	}
	b.mu.Unlock()
	defer close(opened.done)
	ctx := opened.ctx
	if b.scope == nodeScope {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.Background(), batchTimeout)
		defer cancel()
	}
	defer func() {
		if reason := recover(); reason != nil {
			opened.err = recovered(ctx, reason)
		}
	}()
	opened.found, opened.err = b.find(ctx, slices.Collect(maps.Keys(opened.keys)))
}

// wait returns the value of a key of the batch. The zero value is what was not found.
func (b *batch[K, V]) wait(ctx context.Context, key K) (V, error) {
	var stopped <-chan struct{}
	if b.scope == nodeScope {
		stopped = ctx.Done()
	}
	select {
	case <-b.done:
		return b.found[key], b.err
	case <-stopped:
		var zero V
		return zero, ctx.Err()
	}
}
