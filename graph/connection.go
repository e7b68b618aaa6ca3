package graph

import (
	"context"
	"slices"

	"parley/auth"
	"parley/chat"
	"parley/feed"
	"parley/model"
	"parley/store"
)

// The pages of lists if the client gives neither first nor last.
//
//nolint:gochecknoglobals // constants
var (
	membersPage  = store.DefaultPage{First: 50}
	messagesPage = store.DefaultPage{Last: 50} // the newest
	usersPage    = store.DefaultPage{First: 20}
)

// pageArgs are the arguments of a connection as the resolvers get them.
func pageArgs(first *int, after *string, last *int, before *string) store.PageArgs {
	return store.PageArgs{First: first, After: deref(after), Last: last, Before: deref(before)}
}

// pageFor returns one page of a list that a parent has. It comes from a loader, which reads the
// same page of other parents together with it.
func pageFor[K comparable, T any](
	ctx context.Context, byDefault store.DefaultPage, args store.PageArgs, parent K,
	choose func(*loaders) pages[K, T],
) (store.Page[T], error) {
	window, err := args.Window(byDefault)
	if err != nil {
		return store.Page[T]{}, err
	}
	return load(ctx, choose, pageOf[K]{parent, window})
}

// edges pairs each item of a page with its cursor.
func edges[T, E any](
	page store.Page[T], cursor func(T) string, edge func(string, T) E,
) ([]E, *PageInfo) {
	list := make([]E, len(page.Items))
	info := &PageInfo{HasNextPage: page.More, HasPreviousPage: page.Before}
	for i, item := range page.Items {
		c := cursor(item)
		list[i] = edge(c, item)
		if i == 0 {
			info.StartCursor = &c
		}
		info.EndCursor = &c
	}
	return list, info
}

func userConnection(page store.Page[*model.User]) *UserConnection {
	list, info := edges(page, auth.UserCursor,
		func(c string, u *model.User) *UserEdge { return &UserEdge{c, u} })
	return &UserConnection{Edges: list, Nodes: page.Items, PageInfo: info}
}

func conversationConnection(page store.Page[*model.Conversation]) *ConversationConnection {
	list, info := edges(page, chat.ConversationCursor,
		func(c string, v *model.Conversation) *ConversationEdge {
			return &ConversationEdge{c, v}
		})
	return &ConversationConnection{Edges: list, Nodes: page.Items, PageInfo: info}
}

func memberConnection(page store.Page[*model.ConversationMember]) *ConversationMemberConnection {
	list, info := edges(page, chat.MemberCursor,
		func(c string, m *model.ConversationMember) *ConversationMemberEdge {
			return &ConversationMemberEdge{c, m}
		})
	return &ConversationMemberConnection{Edges: list, Nodes: page.Items, PageInfo: info}
}

func messageConnection(page store.Page[*model.Message]) *MessageConnection {
	list, info := edges(page, feed.MessageCursor,
		func(c string, m *model.Message) *MessageEdge { return &MessageEdge{c, m} })
	return &MessageConnection{Edges: list, Nodes: page.Items, PageInfo: info}
}

// usersOfConnection is a connection of the users that the items of a page name, with the cursors of
// those items. It leaves out users whose account has just been removed.
func usersOfConnection[T any](
	ctx context.Context, page store.Page[T], cursor func(T) string, user func(T) model.UserID,
) (*UserConnection, error) {
	ids := make([]model.UserID, len(page.Items))
	for i, item := range page.Items {
		ids[i] = user(item)
	}
	nodes, err := loadUsers(ctx, ids)
	if err != nil {
		return nil, err
	}
	byID := make(map[model.UserID]*model.User, len(nodes))
	for _, u := range nodes {
		byID[u.ID] = u
	}
	list, info := edges(page, cursor,
		func(c string, item T) *UserEdge { return &UserEdge{c, byID[user(item)]} })
	list = slices.DeleteFunc(list, func(e *UserEdge) bool { return e.Node == nil })
	return &UserConnection{Edges: list, Nodes: nodes, PageInfo: info}, nil
}
