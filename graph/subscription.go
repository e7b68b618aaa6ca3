package graph

import (
	"context"
	"iter"

	"parley/model"
	"parley/wire"
)

// stream makes the channel that gqlgen reads, from a sequence that is followed on a goroutine. pick
// returns what to send of an item, if anything. It sends nothing while it is unknown whether the
// session has been revoked. The goroutine ends with ctx.
func stream[T, U any](
	ctx context.Context, r *Resolver, followed iter.Seq2[T, error],
	pick func(T) (item U, ok bool, err error),
) <-chan U {
	items := make(chan U)
	go func() {
		defer close(items)
		defer func() {
			if reason := recover(); reason != nil {
				wire.Fail(ctx, recovered(ctx, reason))
			}
		}()
		for f, err := range followed {
			var item U
			ok := false
			if err == nil {
				item, ok, err = pick(f)
			}
			if err != nil {
				if ctx.Err() == nil {
					wire.Fail(ctx, err)
				}
				return
			}
			if !ok {
				continue
			}
			if r.Auth.AwaitWatch(ctx) != nil {
				return
			}
			select {
			case items <- item:
			case <-ctx.Done():
				return
			}
		}
	}()
	return items
}

// streamConversation is a subscription to one conversation that sends every item as it is.
func streamConversation[T any](
	ctx context.Context, r *Resolver, conversation string,
	follow func(context.Context, model.Actor, model.ConversationID) (iter.Seq2[T, error], error),
) (<-chan *T, error) {
	viewer, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	id, err := parseID[model.ConversationID]("conversationId", conversation)
	if err != nil {
		return nil, err
	}
	followed, err := follow(ctx, viewer, id)
	if err != nil {
		return nil, err
	}
	return stream(ctx, r, followed, each), nil
}

// addedMessage picks the message of an event that adds one.
func addedMessage(e *model.Event) (*model.Message, bool, error) {
	return e.Message, addsMessage(e), nil
}

// each picks every item as it is.
func each[T any](item T) (*T, bool, error) { return &item, true, nil }

// actorWithSlot returns the actor of a subscription to all their conversations. It is RATE_LIMITED
// if the actor has as many as allowed.
func (r *Resolver) actorWithSlot(ctx context.Context, field string) (model.Actor, error) {
	viewer, err := actor(ctx)
	if err != nil {
		return viewer, err
	}
	return viewer, r.slots.acquire(ctx, viewer.UserID, field)
}
