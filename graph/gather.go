package graph

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// gatherer looks up for many responses at once what is the same whoever asks: a message that
// reaches a thousand followers makes a thousand responses that want to know the same author. Unlike
// a cache it never answers with what was read before the question.
type gatherer[K comparable, V any] struct {
	find func(context.Context, []K) (map[K]V, error)

	mu   sync.Mutex // guards next
	next *gathered[K, V]
}

// gathered is one look-up: open to more keys until it starts.
type gathered[K comparable, V any] struct {
	keys  map[K]struct{}
	done  chan struct{} // closed when found and err are there
	found map[K]V
	err   error
}

const (
	gatherAtMost = 1000 // keys in one look-up
	// it outlives the response that began it, because others wait for it too
	gatherTimeout = 10 * time.Second
)

func (g *gatherer[K, V]) load(ctx context.Context, keys []K) (map[K]V, error) {
	mine := g.join(keys)
	select {
	case <-mine.done:
		return mine.found, mine.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join adds keys to the look-up that is about to start, or opens one.
func (g *gatherer[K, V]) join(keys []K) *gathered[K, V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil || len(g.next.keys) >= gatherAtMost {
		opened := &gathered[K, V]{keys: map[K]struct{}{}, done: make(chan struct{})}
		g.next = opened
		time.AfterFunc(gathering, func() { g.start(opened) })
	}
	for _, key := range keys {
		g.next.keys[key] = struct{}{}
	}
	return g.next
}

func (g *gatherer[K, V]) start(mine *gathered[K, V]) {
	g.mu.Lock()
	if g.next == mine { // who comes now has to read anew
		g.next = nil
	}
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), gatherTimeout)
	defer cancel()
	mine.found, mine.err = g.find(ctx, slices.Collect(maps.Keys(mine.keys)))
	close(mine.done)
}
