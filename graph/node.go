package graph

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/99designs/gqlgen/graphql"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// node finds any object by its id. A nil of a concrete type would not be null to gqlgen, hence
// found.
func (r *queryResolver) node(ctx context.Context, argument, id string) (Node, error) {
	who, err := actor(ctx)
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
		return found(loadUser(ctx, key))
	case "conv":
		key, err := parseID[model.ConversationID](argument, id)
		if err != nil {
			return nil, err
		}
		return found(loadConversation(ctx, key))
	case "msg":
		key, err := parseID[model.MessageID](argument, id)
		if err != nil {
			return nil, err
		}
		return found(loadMessage(ctx, key))
	case "session":
		key, err := parseID[model.SessionID](argument, id)
		if err != nil {
			return nil, err
		}
		return found(r.Auth.Session(ctx, who, key))
	case "member":
		key, err := parseID[model.MemberID](argument, id)
		if err != nil {
			return nil, err
		}
		return found(load(ctx, func(l *loaders) *loader[model.MemberID, *model.ConversationMember] { return l.membersByID }, key))
	}
	return nil, errs.New(errs.BadUserInput, "%s: Expected the id of a user, a conversation, a message, a member or a session, got %s.",
		argument, errs.Quote(id))
}

func found[T any](p *T, err error) (Node, error) {
	if p == nil || err != nil {
		return nil, err
	}
	return p, nil
}

func (r *queryResolver) nodes(ctx context.Context, ids []string) ([]Node, error) {
	if len(ids) > store.MaxPage {
		return nil, errs.New(errs.BadUserInput, "ids: At most %d at once, not %d.", store.MaxPage, len(ids))
	}
	foreseeNodes(ctx, ids...)
	nodes := make([]Node, len(ids))
	for i, id := range ids {
		var err error
		if nodes[i], err = r.node(ctx, "ids."+strconv.Itoa(i), id); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// user finds a person by one of two ways.
func (r *queryResolver) user(ctx context.Context, id, nickname *string) (*model.User, error) {
	who, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case (id == nil) == (nickname == nil):
		return nil, errs.New(errs.BadUserInput, "Give either id or nickname.")
	case nickname != nil:
		return r.Auth.UserByNickname(ctx, who, *nickname)
	}
	key, err := parseID[model.UserID]("id", *id)
	if err != nil {
		return nil, err
	}
	foreseeRoots(ctx, who)
	return loadUser(ctx, key)
}

// foreseeRoots looks up at once what all fields of a query name by one id each: so they wait for
// each other's no longer than they need, and a field that is alone waits for nobody.
func foreseeRoots(ctx context.Context, viewer model.Actor) {
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
	lookUpNodes(ctx, ids)
}

// foreseeNodes looks up at once what the ids name, and what is asked of it; what is no id is told
// of by node.
func foreseeNodes(ctx context.Context, ids ...string) {
	conversations, messages, members := lookUpNodes(ctx, ids)
	foresee(ctx, conversations, (*lookahead).conversationsHave)
	foresee(ctx, messages, (*lookahead).messagesHave)
	foresee(ctx, members, (*lookahead).membersHave)
}

func lookUpNodes(
	ctx context.Context, ids []string,
) (conversations []*model.Conversation, messages []*model.Message, members []*model.ConversationMember) {
	l, err := loadersOf(ctx)
	if err != nil {
		return nil, nil, nil
	}
	l.users.foresee(ctx, keysOf[model.UserID](ids))
	conversations = slices.Collect(maps.Values(l.conversations.foresee(ctx, keysOf[model.ConversationID](ids))))
	messages = slices.Collect(maps.Values(l.messages.foresee(ctx, keysOf[model.MessageID](ids))))
	members = slices.Collect(maps.Values(l.membersByID.foresee(ctx, keysOf[model.MemberID](ids))))
	return conversations, messages, members
}

func keysOf[T any, P interface {
	*T
	UnmarshalText(b []byte) error
}](ids []string) (keys []T) {
	for _, id := range ids {
		if key, err := model.ParseID[T, P](id); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}
