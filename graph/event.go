package graph

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"parley/errs"
	"parley/feed"
	"parley/model"
)

// ConversationEvent is one of the event types below.
type ConversationEvent any

// eventBase has the fields that all events have in common.
type eventBase struct {
	Seq          int64
	At           time.Time
	mark         model.Mark
	streamCursor string               // of the item, in CaughtUp of a stream of all conversations
	actor        *model.UserID        // nil if the account has been removed, and in CaughtUp
	conversation model.ConversationID // zero in CaughtUp of a stream of all conversations
}

// Cursor is the cursor of the event's place.
func (b eventBase) Cursor() string {
	if b.streamCursor != "" {
		return b.streamCursor
	}
	return feed.PlaceCursor(b.conversation, feed.Place{Seq: b.Seq, Mark: b.mark})
}

// Actor is the user who did it.
func (b eventBase) Actor(ctx context.Context) (*model.User, error) {
	if b.actor == nil {
		return nil, nil
	}
	return loadUser(ctx, *b.actor)
}

// Conversation is the one that it happened in.
func (b eventBase) Conversation(ctx context.Context) (*model.Conversation, error) {
	if b.conversation == (model.ConversationID{}) {
		return nil, nil
	}
	return loadConversation(ctx, b.conversation)
}

// eventUser has the user whom an event is about.
type eventUser struct{ user model.UserID }

// User is the user whom the event is about.
func (u eventUser) User(ctx context.Context) (*model.User, error) { return loadUser(ctx, u.user) }

// The events are described in the schema.
//
//nolint:revive // see above
type (
	ConversationCreated struct{ eventBase }
	ConversationRenamed struct {
		eventBase
		Title string
	}
	ConversationSettingsChanged struct {
		eventBase
		MembersMayRename bool
	}
	MemberAdded struct {
		eventBase
		eventUser
		Role model.Role
	}
	MemberRemoved struct {
		eventBase
		eventUser
	}
	MemberRoleChanged struct {
		eventBase
		eventUser
		Role model.Role
	}
	MessageAdded struct {
		eventBase
		Message *model.Message
	}
	MessageEdited struct {
		eventBase
		Message *model.Message
	}
	MessageDeleted struct {
		eventBase
		Message *model.Message
	}
	ReactionAdded struct {
		eventBase
		eventUser
		Message *model.Message
		Emoji   string
		Count   int
	}
	ReactionRemoved struct {
		eventBase
		eventUser
		Message *model.Message
		Emoji   string
		Count   int
	}
	HistoryRestored struct {
		eventBase
		FirstSeq, LastSeq int64
	}
	CaughtUp struct{ eventBase }
)

// eventOf converts a stored event to the type of its kind.
func eventOf(e *model.Event) (ConversationEvent, error) {
	b := eventBase{
		Seq: e.Seq, At: e.At, mark: e.Mark(), actor: e.ActorID, conversation: e.ConversationID,
	}
	switch e.Kind {
	case model.ConversationCreated:
		return ConversationCreated{b}, nil
	case model.ConversationRenamed:
		data, err := dataOf[model.ConversationRenamedData](e)
		return ConversationRenamed{b, data.Title}, err
	case model.SettingsChanged:
		data, err := dataOf[model.SettingsChangedData](e)
		return ConversationSettingsChanged{b, data.MembersMayRename}, err
	case model.MemberAdded:
		data, err := dataOf[model.MemberAddedData](e)
		return MemberAdded{b, eventUser{data.UserID}, data.Role}, err
	case model.MemberRemoved:
		data, err := dataOf[model.MemberRemovedData](e)
		return MemberRemoved{b, eventUser{data.UserID}}, err
	case model.MemberRoleChanged:
		data, err := dataOf[model.MemberRoleChangedData](e)
		return MemberRoleChanged{b, eventUser{data.UserID}, data.Role}, err
	case model.MessageAdded:
		return MessageAdded{b, e.Message}, nil
	case model.MessageEdited:
		return MessageEdited{b, e.Message}, nil
	case model.MessageDeleted:
		return MessageDeleted{b, e.Message}, nil
	case model.ReactionAdded:
		data, err := dataOf[model.ReactionData](e)
		return ReactionAdded{b, eventUser{data.UserID}, e.Message, data.Emoji, data.Count}, err
	case model.ReactionRemoved:
		data, err := dataOf[model.ReactionData](e)
		return ReactionRemoved{b, eventUser{data.UserID}, e.Message, data.Emoji, data.Count}, err
	case model.HistoryRestored:
		data, err := dataOf[model.HistoryRestoredData](e)
		return HistoryRestored{b, data.First, e.Seq - 1}, err
	}
	return nil, fmt.Errorf("an event of the kind %q", e.Kind)
}

func dataOf[T any](e *model.Event) (data T, err error) {
	err = json.Unmarshal(e.Data, &data)
	return data, err
}

// conversationEvent converts what is followed to what conversationEvents sends: events, and
// CaughtUp.
func conversationEvent(
	id model.ConversationID,
) func(feed.Followed) (ConversationEvent, bool, error) {
	return func(f feed.Followed) (ConversationEvent, bool, error) {
		if f.Event == nil {
			return CaughtUp{eventBase{
				Seq: f.CaughtUp.Seq, At: time.Now(), mark: f.CaughtUp.Mark, conversation: id,
			}}, true, nil
		}
		e, err := eventOf(f.Event)
		return e, true, err
	}
}

// singletonEvent is the stream of one item of conversationEvents.
func singletonEvent(conversation string, item feed.Followed) (<-chan ConversationEvent, error) {
	id, err := parseID[model.ConversationID]("conversationId", conversation)
	if err != nil {
		return nil, err
	}
	e, _, err := conversationEvent(id)(item)
	if err != nil {
		return nil, err
	}
	return singleton(e), nil
}

// errRestoredNow is returned if the database goes back between two reads of one response.
var errRestoredNow = errs.New(errs.Unavailable, "The database was restored just now. Try again.")

// newestEvents returns the keys of the newest events of conversations.
func newestEvents(list []*model.Conversation) []feed.EventKey {
	keys := make([]feed.EventKey, len(list))
	for i, c := range list {
		keys[i] = feed.EventKey{Conversation: c.ID, Seq: c.LastSeq}
	}
	return keys
}

// placeAfter returns the place that a subscription to one conversation begins after; nil is now.
func placeAfter(
	conversation model.ConversationID, after *string, afterSeq *int64,
) (*feed.Place, error) {
	switch {
	case after != nil && afterSeq != nil:
		return nil, errs.New(errs.BadUserInput, "Give after or afterSeq, not both.")
	case after == nil:
		return feed.AfterSeq(afterSeq), nil
	}
	place, err := feed.ReadPlaceCursor(conversation, *after)
	return &place, err
}
