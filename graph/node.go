package graph

import (
	"context"
	"strconv"
	"strings"

	"github.com/99designs/gqlgen/graphql"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// Node is any object with an id: a pointer to a struct of package model.
type Node any

// node finds any object by its id. argument is the place of the id in errors.
func (r *queryResolver) node(ctx context.Context, argument, id string) (Node, error) {
	viewer, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	prefix, _, _ := strings.Cut(id, "_")
	switch prefix {
	case "user":
		key, err := parseID[model.UserID](argument, id)
		if err != nil {
			return nil, err
		}
		return nodeOrNil(loadUser(ctx, key))
	case "conv":
		key, err := parseID[model.ConversationID](argument, id)
		if err != nil {
			return nil, err
		}
		return nodeOrNil(loadConversation(ctx, key))
	case "msg":
		key, err := parseID[model.MessageID](argument, id)
		if err != nil {
			return nil, err
		}
		return nodeOrNil(loadMessage(ctx, key))
	case "session":
		key, err := parseID[model.SessionID](argument, id)
		if err != nil {
			return nil, err
		}
		return nodeOrNil(r.Auth.Session(ctx, viewer, key))
	case "member":
		key, err := parseID[model.MemberID](argument, id)
		if err != nil {
			return nil, err
		}
		return nodeOrNil(loadMember(ctx, key))
	}
	return nil, errs.New(errs.BadUserInput,
		"%s: Expected the id of a user, a conversation, a message, a member or a session, got %s.",
		argument, errs.Quote(id))
}

// nodeOrNil returns a plain nil for a nil pointer: a Node that holds a nil pointer is not null to
// gqlgen.
func nodeOrNil[T any](p *T, err error) (Node, error) {
	if p == nil || err != nil {
		return nil, err
	}
	return p, nil
}

// nodes finds objects in the order of their ids, with null for those that are not found.
func (r *queryResolver) nodes(ctx context.Context, ids []string) ([]Node, error) {
	if len(ids) > store.MaxPage {
		return nil, errs.New(errs.BadUserInput,
			"ids: At most %d at once, not %d.", store.MaxPage, len(ids))
	}
	prefetchNodes(ctx, ids...)
	nodes := make([]Node, len(ids))
	for i, id := range ids {
		var err error
		if nodes[i], err = r.node(ctx, "ids."+strconv.Itoa(i), id); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// prefetchRoots looks up at once what the root fields of a query name by one id each, so that none
// of them waits for a batch.
func prefetchRoots(ctx context.Context, viewer model.Actor) {
	op := graphql.GetOperationContext(ctx)
	var ids []string
	for _, field := range graphql.CollectFields(op, op.Operation.SelectionSet, queryImplementors) {
		switch field.Name {
		case "viewer":
			ids = append(ids, viewer.UserID.String())
		case "node", "conversation", "user":
			if id, ok := field.ArgumentMap(op.Variables)["id"].(string); ok {
				ids = append(ids, id)
			}
		}
	}
	prefetchIDs(ctx, ids)
}

// prefetchNodes looks up at once what the ids name, and what the field of ctx asks of it. It skips
// malformed ids, which node reports.
func prefetchNodes(ctx context.Context, ids ...string) {
	conversations, messages, members := prefetchIDs(ctx, ids)
	prefetch(ctx, conversations, (*prefetcher).ofConversations)
	prefetch(ctx, messages, (*prefetcher).ofMessages)
	prefetch(ctx, members, (*prefetcher).ofMembers)
}

// prefetchIDs looks up at once what the ids name, users too, and returns what may have to be
// prefetched further.
func prefetchIDs(ctx context.Context, ids []string) (
	conversations []*model.Conversation, messages []*model.Message,
	members []*model.ConversationMember,
) {
	l, err := loadersOf(ctx)
	if err != nil {
		return nil, nil, nil
	}
	l.users.prefetch(ctx, parseIDs[model.UserID](ids))
	conversations = values(l.conversations.prefetch(ctx, parseIDs[model.ConversationID](ids)))
	messages = values(l.messages.prefetch(ctx, parseIDs[model.MessageID](ids)))
	members = values(l.membersByID.prefetch(ctx, parseIDs[model.MemberID](ids)))
	return conversations, messages, members
}
