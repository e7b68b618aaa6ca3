package graph

import (
	"context"
	"slices"

	"parley/auth"
	"parley/chat"
	"parley/model"
	"parley/store"
	"parley/text"
)

// How many items a page holds where the client does not say.
//
//nolint:gochecknoglobals // constants
var (
	membersPage  = store.DefaultPage{First: 50}
	messagesPage = store.DefaultPage{Last: 50} // the newest
	peoplePage   = store.DefaultPage{First: 20}
)

// pageFor is one page of a list that a parent has, through the loader that knows the pages of
// others like it.
func pageFor[K comparable, T any](
	ctx context.Context, byDefault store.DefaultPage, p store.PageArgs, parent K, choose func(*loaders) pages[K, T],
) (store.Page[T], error) {
	window, err := p.Window(byDefault)
	if err != nil {
		return store.Page[T]{}, err
	}
	return load(ctx, choose, pageOf[K]{parent, window})
}

// edges pairs each item with its cursor, and says where the page stands.
func edges[T, E any](slice store.Page[T], cursor func(T) string, edge func(string, T) E) ([]E, *PageInfo) {
	list := make([]E, len(slice.Items))
	info := &PageInfo{HasNextPage: slice.More, HasPreviousPage: slice.Before}
	for i, item := range slice.Items {
		c := cursor(item)
		list[i] = edge(c, item)
		if i == 0 {
			info.StartCursor = &c
		}
		info.EndCursor = &c
	}
	return list, info
}

func userConnection(slice store.Page[*model.User]) *UserConnection {
	list, info := edges(slice, auth.UserCursor, func(c string, u *model.User) *UserEdge { return &UserEdge{c, u} })
	return &UserConnection{Edges: list, Nodes: slice.Items, PageInfo: info}
}

func conversationConnection(slice store.Page[*model.Conversation]) *ConversationConnection {
	list, info := edges(slice, chat.ConversationCursor, func(c string, v *model.Conversation) *ConversationEdge {
		return &ConversationEdge{c, v}
	})
	return &ConversationConnection{Edges: list, Nodes: slice.Items, PageInfo: info}
}

func memberConnection(slice store.Page[*model.ConversationMember]) *ConversationMemberConnection {
	list, info := edges(slice, chat.MemberCursor, func(c string, m *model.ConversationMember) *ConversationMemberEdge {
		return &ConversationMemberEdge{c, m}
	})
	return &ConversationMemberConnection{Edges: list, Nodes: slice.Items, PageInfo: info}
}

func messageConnection(slice store.Page[*model.Message]) *MessageConnection {
	list, info := edges(slice, chat.MessageCursor, func(c string, m *model.Message) *MessageEdge { return &MessageEdge{c, m} })
	return &MessageConnection{Edges: list, Nodes: slice.Items, PageInfo: info}
}

// peopleConnection makes a list of people of what names them, whose cursors it keeps. Whose account
// has just gone is left out.
func peopleConnection[T any](
	ctx context.Context, slice store.Page[T], cursor func(T) string, user func(T) model.UserID,
) (*UserConnection, error) {
	ids := make([]model.UserID, len(slice.Items))
	for i, item := range slice.Items {
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
	list, info := edges(slice, cursor, func(c string, item T) *UserEdge { return &UserEdge{c, byID[user(item)]} })
	list = slices.DeleteFunc(list, func(e *UserEdge) bool { return e.Node == nil })
	return &UserConnection{Edges: list, Nodes: nodes, PageInfo: info}, nil
}

// MessageSearchEdge is a message that a search has found, and why.
type MessageSearchEdge struct {
	Cursor string
	Node   *model.Message
	found  *chat.Found
}

// Snippet is cut out of the content when it is asked for.
func (e *MessageSearchEdge) Snippet() []*text.Part { return e.found.Snippet() }

func searchConnection(slice store.Page[*chat.Found]) *MessageSearchConnection {
	nodes := make([]*model.Message, len(slice.Items))
	for i, f := range slice.Items {
		nodes[i] = f.Message
	}
	list, info := edges(slice, chat.FoundCursor, func(c string, f *chat.Found) *MessageSearchEdge {
		return &MessageSearchEdge{c, f.Message, f}
	})
	return &MessageSearchConnection{Edges: list, Nodes: nodes, PageInfo: info}
}
