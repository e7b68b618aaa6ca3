package graph

import (
	"context"
	"maps"
	"sync"

	"parley/model"
	"parley/store"
)

// loader looks things up by key for the fields of one response. Prefetched keys are there before a
// field asks; the others are looked up in batches. A key is looked up once, also if that fails.
//
// Lock order: loader.mu → batcher.mu.
type loader[K comparable, V any] struct {
	find func(context.Context, []K) (map[K]V, error)

	// mu guards what follows. It is held while prefetch looks keys up, so that a field that asks
	// for one of them waits for that instead of looking it up again.
	mu      sync.Mutex
	known   map[K]result[V] // prefetched or primed
	batcher *batcher[K, V]  // nil until a key is asked for, unless responses share one
	batches map[K]*batch[K, V]
}

// result is what a look-up found for a key, if anything.
type result[V any] struct {
	value V
	found bool
}

func newLoader[K comparable, V any](
	find func(context.Context, []K) (map[K]V, error),
) *loader[K, V] {
	return &loader[K, V]{find: find}
}

// prefetch looks up at once what fields are about to ask for, and returns what it found. If that
// fails it returns nil, and the fields look up for themselves and report the error.
func (l *loader[K, V]) prefetch(ctx context.Context, keys []K) map[K]V {
	l.mu.Lock()
	defer l.mu.Unlock()
	var unknown []K
	for _, key := range keys {
		if _, known := l.known[key]; !known {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 {
		found, err := l.find(ctx, unknown)
		if err != nil {
			return nil
		}
		for _, key := range unknown {
			value, ok := found[key]
			l.remember(key, result[V]{value, ok})
		}
	}
	all := make(map[K]V, len(keys))
	for _, key := range keys {
		if r := l.known[key]; r.found {
			all[key] = r.value
		}
	}
	return all
}

// prime adds a value that was read anyway, unless the key is known.
func (l *loader[K, V]) prime(key K, value V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.known[key]; !known {
		l.remember(key, result[V]{value, true})
	}
}

// remember must be called with l.mu held.
func (l *loader[K, V]) remember(key K, r result[V]) {
	if l.known == nil {
		l.known = map[K]result[V]{}
	}
	l.known[key] = r
}

// thunk starts to look a key up, and returns a function that waits for the value. The zero value is
// what does not exist, or what the actor may not see.
func (l *loader[K, V]) thunk(ctx context.Context, key K) func() (V, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, known := l.known[key]; known {
		return func() (V, error) { return r.value, nil }
	}
	joined := l.batches[key]
	if joined == nil {
		if l.batches == nil {
			l.batches = map[K]*batch[K, V]{}
		}
		if l.batcher == nil {
			l.batcher = &batcher[K, V]{find: l.find, scope: responseScope}
		}
		joined = l.batcher.join(ctx, key)
		l.batches[key] = joined
	}
	return func() (V, error) { return joined.wait(ctx, key) }
}

// actingAs makes the find of a loader out of a query that needs an actor.
func actingAs[K comparable, V any](
	actor model.Actor, find func(context.Context, model.Actor, []K) (map[K]V, error),
) func(context.Context, []K) (map[K]V, error) {
	return func(ctx context.Context, keys []K) (map[K]V, error) { return find(ctx, actor, keys) }
}

// pageOf is the key of one page of a list that each of many parents has.
type pageOf[K comparable] struct {
	parent K
	window store.Window
}

// pages is a loader of such pages.
type pages[K comparable, T any] = *loader[pageOf[K], store.Page[T]]

// byPage makes a query for the same page of many parents serve a loader, whose keys may be of
// different pages: it runs once for each.
func byPage[K comparable, V any](
	find func(context.Context, model.Actor, []K, store.Window) (map[K]V, error),
) func(context.Context, model.Actor, []pageOf[K]) (map[pageOf[K]]V, error) {
	return func(
		ctx context.Context, actor model.Actor, pages []pageOf[K],
	) (map[pageOf[K]]V, error) {
		parents := map[store.Window][]K{}
		for _, p := range pages {
			parents[p.window] = append(parents[p.window], p.parent)
		}
		all := make(map[pageOf[K]]V, len(pages))
		for window, list := range parents {
			found, err := find(ctx, actor, list, window)
			if err != nil {
				return nil, err
			}
			for parent, v := range found {
				all[pageOf[K]{parent, window}] = v
			}
		}
		return all, nil
	}
}

// maxMessagesRead is how many messages one statement reads. They are charged before the next
// statement runs.
const maxMessagesRead = 500

// charged makes a query for messages run in parts, and charges the answer for what each has read:
// the execution ends when the messages are more than fit into memory. size is how many messages a
// key may find, and messages are those in a value.
func charged[K comparable, V any](
	find func(context.Context, model.Actor, []K) (map[K]V, error),
	size func(K) int, messages func(V) []*model.Message,
) func(context.Context, model.Actor, []K) (map[K]V, error) {
	return func(ctx context.Context, actor model.Actor, keys []K) (map[K]V, error) {
		a := answerOf(ctx)
		if a == nil {
			return find(ctx, actor, keys)
		}
		all := make(map[K]V, len(keys))
		for rest := keys; len(rest) > 0; {
			n, read := 0, 0
			for n < len(rest) && (n == 0 || read+size(rest[n]) <= maxMessagesRead) {
				read += size(rest[n])
				n++
			}
			found, err := find(ctx, actor, rest[:n])
			rest = rest[n:]
			if err != nil {
				return nil, err
			}
			maps.Copy(all, found)
			for _, v := range found {
				if err := a.chargeRead(messages(v)...); err != nil {
					return nil, err
				}
			}
		}
		return all, nil
	}
}

func one[K any](K) int { return 1 }

func pageLimit(p pageOf[model.ConversationID]) int { return p.window.Limit }

func oneMessage(m *model.Message) []*model.Message { return []*model.Message{m} }

func messagesOfPage(page store.Page[*model.Message]) []*model.Message { return page.Items }
