package graph

import (
	"context"
	"time"

	"parley/chat"
	"parley/model"
	"parley/store"
	"parley/text"
)

// newSearch reads the arguments of a search.
func newSearch(
	query string, conversationID, authorID *string, sentAfter, sentBefore *time.Time,
) (search chat.Search, err error) {
	search = chat.Search{Query: query, SentAfter: sentAfter, SentBefore: sentBefore}
	if conversationID != nil {
		id, err := parseID[model.ConversationID]("conversationId", *conversationID)
		if err != nil {
			return search, err
		}
		search.ConversationID = &id
	}
	if authorID != nil {
		id, err := parseID[model.UserID]("authorId", *authorID)
		if err != nil {
			return search, err
		}
		search.AuthorID = &id
	}
	return search, nil
}

// searchMessages runs a search, and charges the answer for what it found. One field of an answer
// searches at a time: otherwise the results of many aliases would be in memory together.
func (r *Resolver) searchMessages(
	ctx context.Context, viewer model.Actor, search chat.Search, args store.PageArgs,
) (found store.Page[*chat.Found], err error) {
	a := answerOf(ctx)
	a.searchMu.Lock()
	defer a.searchMu.Unlock()
	if fault := a.fault.Load(); fault != nil {
		return found, fault
	}
	if found, err = r.Chat.SearchMessages(ctx, viewer, search, args); err != nil {
		return found, err
	}
	for _, f := range found.Items {
		if err := a.chargeRead(f.Message); err != nil {
			return found, err
		}
	}
	return found, nil
}

// MessageSearchEdge is a message that a search found, and why.
type MessageSearchEdge struct {
	Cursor string
	Node   *model.Message
	found  *chat.Found
}

// Snippet is cut out of the content when a client asks for it.
func (e *MessageSearchEdge) Snippet() []*text.Part { return e.found.Snippet() }

func searchConnection(page store.Page[*chat.Found]) *MessageSearchConnection {
	nodes := make([]*model.Message, len(page.Items))
	for i, f := range page.Items {
		nodes[i] = f.Message
	}
	list, info := edges(page, chat.FoundCursor, func(c string, f *chat.Found) *MessageSearchEdge {
		return &MessageSearchEdge{c, f.Message, f}
	})
	return &MessageSearchConnection{Edges: list, Nodes: nodes, PageInfo: info}
}
