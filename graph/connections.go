package graph

import (
	"parley/auth"
	"parley/chat"
	"parley/model"
	"parley/store"
)

// edges pairs each item with its cursor, and says where the page stands.
func edges[T, E any](slice store.Slice[T], cursor func(T) string, edge func(string, T) E) ([]E, *PageInfo) {
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

func userConnection(slice store.Slice[*model.User]) *UserConnection {
	list, info := edges(slice, auth.UserCursor, func(c string, u *model.User) *UserEdge { return &UserEdge{c, u} })
	return &UserConnection{Edges: list, Nodes: slice.Items, PageInfo: info}
}

func conversationConnection(slice store.Slice[*model.Conversation]) *ConversationConnection {
	list, info := edges(slice, chat.ConversationCursor, func(c string, v *model.Conversation) *ConversationEdge {
		return &ConversationEdge{c, v}
	})
	return &ConversationConnection{Edges: list, Nodes: slice.Items, PageInfo: info}
}

func memberConnection(slice store.Slice[*model.ConversationMember]) *ConversationMemberConnection {
	list, info := edges(slice, chat.MemberCursor, func(c string, m *model.ConversationMember) *ConversationMemberEdge {
		return &ConversationMemberEdge{c, m}
	})
	return &ConversationMemberConnection{Edges: list, Nodes: slice.Items, PageInfo: info}
}

func messageConnection(slice store.Slice[*model.Message]) *MessageConnection {
	list, info := edges(slice, chat.MessageCursor, func(c string, m *model.Message) *MessageEdge { return &MessageEdge{c, m} })
	return &MessageConnection{Edges: list, Nodes: slice.Items, PageInfo: info}
}
