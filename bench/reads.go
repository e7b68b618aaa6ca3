package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"parley/chat"
	"parley/model"
	"parley/store"
)

func (l *library) reads() []read {
	search := func(word string) read {
		return read{
			"search: " + word,
			func(ctx context.Context) (int, error) { return l.search(ctx, word) },
			func(ctx context.Context) (int, error) { return l.bareSearch(ctx, word) },
		}
	}
	rare, often := search(l.rare), search(common)
	rare.name, often.name = "search, a rare word", "search, a common word"
	return []read{
		{"first page of conversations", l.conversations, l.bareConversations},
		{
			"the same conversations, over HTTP", l.overHTTP(conversationsQuery, l.conversationRows),
			l.bareConversations,
		},
		{"newest 50 messages", l.newest, l.bareNewest},
		{"the same messages, over HTTP", l.overHTTP(messagesQuery, l.messageRows), l.bareNewest},
		{"unread in all", l.unread, l.bareUnread},
		rare,
		often,
	}
}

const (
	page    = 20
	members = 5
	newest  = 50
)

// conversations reads what a client's first screen shows.
func (l *library) conversations(ctx context.Context) (rows int, err error) {
	first := page
	list, err := l.chat.MyConversations(ctx, l.reader, chat.ConversationFilter{},
		store.PageArgs{First: &first})
	if err != nil {
		return 0, err
	}
	ids := make([]model.ConversationID, len(list.Items))
	for i, c := range list.Items {
		ids[i] = c.ID
	}
	mine, err := l.chat.Memberships(ctx, l.reader, ids)
	if err != nil {
		return 0, err
	}
	if _, err := l.chat.Unread(ctx, l.reader, ids); err != nil {
		return 0, err
	}
	last, err := l.chat.LastMessages(ctx, l.reader, ids)
	if err != nil {
		return 0, err
	}
	others, err := l.chat.Members(ctx, l.reader, ids, store.Window{Limit: members})
	if err != nil {
		return 0, err
	}
	people := map[model.UserID]bool{}
	rows = len(ids) + len(mine) + len(last)
	for _, m := range last {
		people[*m.AuthorID] = true
	}
	for _, slice := range others {
		rows += len(slice.Items)
		for _, m := range slice.Items {
			people[m.UserID] = true
		}
	}
	users, err := l.auth.Users(ctx, slices.Collect(maps.Keys(people)))
	return rows + len(users), err
}

// newest reads the last messages of a conversation, with their authors.
func (l *library) newest(ctx context.Context) (rows int, err error) {
	page, err := l.chat.Messages(ctx, l.reader, []model.ConversationID{l.conversation},
		store.Window{Limit: 50, Backwards: true})
	if err != nil {
		return 0, err
	}
	list := page[l.conversation]
	authors := map[model.UserID]bool{}
	for _, m := range list.Items {
		authors[*m.AuthorID] = true
	}
	users, err := l.auth.Users(ctx, slices.Collect(maps.Keys(authors)))
	return len(list.Items) + len(users), err
}

func (l *library) unread(ctx context.Context) (rows int, err error) {
	_, err = l.chat.UnreadInAll(ctx, l.reader)
	return 1, err
}

func (l *library) search(ctx context.Context, word string) (rows int, err error) {
	found, err := l.chat.SearchMessages(ctx, l.reader, chat.Search{Query: word}, store.PageArgs{})
	return len(found.Items), err
}

const (
	conversationsQuery = `{ viewer { conversations(first: 20) { nodes { id title lastActivityAt
		viewerMember { role unreadCount } lastMessage { id seq content createdAt author { id
		nickname } }
		members(first: 5) { nodes { role user { id nickname } } } } } } }`
	messagesQuery = `query ($id: ID!) { node(id: $id) { ... on Conversation { messages(last: 50) { nodes {
		id seq content createdAt editedAt author { id nickname } } } } } }`
)

type answeredUser struct{ ID string }

// answered is the part of the answers that is counted.
type answered struct {
	Viewer struct {
		Conversations struct {
			Nodes []struct {
				ViewerMember *struct{ Role string }
				LastMessage  *struct{ Author answeredUser }
				Members      struct{ Nodes []struct{ User answeredUser } }
			}
		}
	}
	Node struct {
		Messages struct {
			Nodes []struct{ Author answeredUser }
		}
	}
}

func (l *library) overHTTP(
	query string, count func(*answered) int,
) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		var a answered
		if err := l.server.query(ctx, query, map[string]any{"id": l.conversation.String()},
			&a); err != nil {
			return 0, fmt.Errorf("over HTTP: %w", err)
		}
		return count(&a), nil
	}
}

func (l *library) conversationRows(a *answered) (rows int) {
	people := map[string]bool{}
	for _, c := range a.Viewer.Conversations.Nodes {
		rows++
		if c.ViewerMember != nil {
			rows++
		}
		if c.LastMessage != nil {
			rows++
			people[c.LastMessage.Author.ID] = true
		}
		rows += len(c.Members.Nodes)
		for _, m := range c.Members.Nodes {
			people[m.User.ID] = true
		}
	}
	return rows + len(people)
}

func (l *library) messageRows(a *answered) int {
	authors := map[string]bool{}
	for _, m := range a.Node.Messages.Nodes {
		authors[m.Author.ID] = true
	}
	return len(a.Node.Messages.Nodes) + len(authors)
}
