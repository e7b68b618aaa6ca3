// Package graph is the GraphQL edge: it translates between the schema and auth and chat, which have
// the rules, and knows no SQL. Resolvers are a few lines; what is the same for all of them (who
// asks, errors, loaders, limits, connections) has a file of its own.
//
// # Concurrency
//
// gqlgen runs the fields of one response on several goroutines. A subscription has one goroutine
// that follows the conversation and one that executes what it selects; package wire says how the
// results reach the client.
package graph

import (
	"context"
	"iter"

	"parley/model"
	"parley/store"
	"parley/wire"
)

// Resolver answers the fields that are not simply there.
type Resolver struct {
	Services
	people *gatherer[model.UserID, *model.User]
	slots  *slots
}

// page takes a connection's arguments as they come.
func page(first *int, after *string, last *int, before *string) store.PageArgs {
	p := store.PageArgs{First: first, Last: last}
	if after != nil {
		p.After = *after
	}
	if before != nil {
		p.Before = *before
	}
	return p
}

// stream turns what is followed into the channel that gqlgen wants. pick chooses what of an item to
// send, if anything. Nothing is sent while it is not known whether the session still lasts.
func stream[T, U any](
	ctx context.Context, r *Resolver, followed iter.Seq2[T, error], pick func(T) (item U, ok bool, err error),
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

// actorWithSlot is who begins a subscription over all their conversations; RATE_LIMITED where they
// have as many as may be.
func (r *Resolver) actorWithSlot(ctx context.Context, field string) (model.Actor, error) {
	who, err := actor(ctx)
	if err != nil {
		return who, err
	}
	return who, r.slots.take(ctx, who.UserID, field)
}

// follow is a subscription to one conversation.
func follow[T any](
	ctx context.Context, r *Resolver, conversation string,
	begin func(context.Context, model.Actor, model.ConversationID) (iter.Seq2[T, error], error),
) (<-chan *T, error) {
	viewer, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	id, err := parseID[model.ConversationID]("conversationId", conversation)
	if err != nil {
		return nil, err
	}
	followed, err := begin(ctx, viewer, id)
	if err != nil {
		return nil, err
	}
	return stream(ctx, r, followed, each), nil
}

func addedMessage(e *model.Event) (*model.Message, bool, error) {
	return e.Message, e.Kind == model.MessageAdded && e.Message != nil, nil
}

// each sends every item as it is.
func each[T any](item T) (*T, bool, error) { return &item, true, nil }
