package graph

import (
	"context"
	"sync"
	"time"

	"parley/chat"
	"parley/live"
	"parley/model"
)

// isViewer reports whether a membership is the viewer's own.
func isViewer(ctx context.Context, m *model.ConversationMember) bool {
	who, err := actor(ctx)
	return err == nil && who.UserID == m.UserID
}

// lastRead is how far a member has read, as far as the viewer may know.
func lastRead(ctx context.Context, m *model.ConversationMember) (*int, error) {
	who, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	viewer, err := loadUser(ctx, who.UserID)
	if err != nil || viewer == nil {
		return nil, err
	}
	of, err := loadUser(ctx, m.UserID)
	if err != nil || of == nil {
		return nil, err
	}
	seq := chat.LastRead(m, viewer, of)
	if seq == nil {
		return nil, nil
	}
	return new(int(*seq)), nil
}

// unread is a count of the viewer's own membership, and null of others'.
func unread(ctx context.Context, m *model.ConversationMember, count func(model.Unread) int) (*int, error) {
	if !isViewer(ctx, m) {
		return nil, nil
	}
	u, err := loadUnread(ctx, m.ConversationID)
	if err != nil {
		return nil, err
	}
	return new(count(u)), nil
}

// Viewer is the signed-in person.
type Viewer struct {
	User *model.User

	counting sync.Once // two fields ask for the same
	counted  model.Unread
	countErr error
}

// unread is what the person has not read in all.
func (v *Viewer) unread(ctx context.Context, service *chat.Service) (model.Unread, error) {
	v.counting.Do(func() {
		who, err := actor(ctx)
		if err != nil {
			v.countErr = err
			return
		}
		v.counted, v.countErr = service.UnreadInAll(ctx, who)
	})
	return v.counted, v.countErr
}

// presence is whether somebody is there, as far as the viewer may know.
func presence(ctx context.Context, id model.UserID) (*live.Presence, error) {
	l, err := loadersOf(ctx)
	if err != nil {
		return nil, err
	}
	found, err := l.presences.ask(ctx, id)()
	if err == nil && found.UserID != id { // nobody may know
		return nil, nil
	}
	return &found, err
}

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
