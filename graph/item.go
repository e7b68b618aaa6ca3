package graph

import (
	"context"

	"parley/feed"
)

// streamItem is the one item that an operation is executed for when a subscription is executed item
// by item (see broadcast.go). It is in the context of that execution: the resolver of the
// subscription's field returns a stream of this item alone instead of following the conversation.
type streamItem struct {
	feed.Followed
	onFeed  bool             // the feed of the conversation waits for the execution
	loaders *responseLoaders // of the execution, once it has started
	answer  *answer          // the same
}

type streamItemKey struct{}

// itemOf returns the item in the context, or nil if the execution is not for one item.
func itemOf(ctx context.Context) *streamItem {
	item, _ := ctx.Value(streamItemKey{}).(*streamItem)
	return item
}

func withItem(ctx context.Context, item *streamItem) context.Context {
	return context.WithValue(ctx, streamItemKey{}, item)
}

// fault is why the execution has no answer: it was too large, or got no turn. It is nil otherwise.
func (item *streamItem) fault() error {
	if item.answer == nil {
		return nil
	}
	if fault := item.answer.fault.Load(); fault != nil {
		return fault
	}
	return nil
}

// singleton is a stream of one item.
func singleton[T any](item T) <-chan T {
	items := make(chan T, 1)
	items <- item
	close(items)
	return items
}
