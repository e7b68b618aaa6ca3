package graph

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/feed"
	"parley/model"
)

// ConversationEvent is one of the types below that have a happening.
type ConversationEvent any

// ViewerEventBody is any of the types below.
type ViewerEventBody any

// happening is what all events of a conversation have.
type happening struct {
	Seq          int64
	At           time.Time
	actor        *model.UserID
	conversation model.ConversationID
}

// Actor is who did it.
func (h happening) Actor(ctx context.Context) (*model.User, error) {
	if h.actor == nil {
		return nil, nil
	}
	return loadUser(ctx, *h.actor)
}

// Conversation is where it happened.
func (h happening) Conversation(ctx context.Context) (*model.Conversation, error) {
	if h.conversation == (model.ConversationID{}) {
		return nil, nil
	}
	return loadConversation(ctx, h.conversation)
}

// concerned is the person whom an event is about.
type concerned struct{ user model.UserID }

// User is whom it is about.
func (c concerned) User(ctx context.Context) (*model.User, error) { return loadUser(ctx, c.user) }

// The events, as the schema has them.
//
//nolint:revive // it describes each
type (
	ConversationCreated struct{ happening }
	ConversationRenamed struct {
		happening
		Title string
	}
	ConversationSettingsChanged struct {
		happening
		MembersMayRename bool
	}
	MemberAdded struct {
		happening
		concerned
		Role model.Role
	}
	MemberRemoved struct {
		happening
		concerned
	}
	MemberRoleChanged struct {
		happening
		concerned
		Role model.Role
	}
	MessageAdded struct {
		happening
		Message *model.Message
	}
	MessageEdited struct {
		happening
		Message *model.Message
	}
	MessageDeleted struct {
		happening
		Message *model.Message
	}
	ReactionAdded struct {
		happening
		concerned
		Message *model.Message
		Emoji   string
		Count   int
	}
	ReactionRemoved struct {
		happening
		concerned
		Message *model.Message
		Emoji   string
		Count   int
	}
	CaughtUp struct{ happening }
)

// eventOf makes of a stored event the type that stands for its kind.
func eventOf(e *model.Event) (ConversationEvent, error) {
	h := happening{Seq: e.Seq, At: e.At, actor: e.ActorID, conversation: e.ConversationID}
	switch e.Kind {
	case model.ConversationCreated:
		return ConversationCreated{h}, nil
	case model.ConversationRenamed:
		data, err := dataOf[model.ConversationRenamedData](e)
		return ConversationRenamed{h, data.Title}, err
	case model.SettingsChanged:
		data, err := dataOf[model.SettingsChangedData](e)
		return ConversationSettingsChanged{h, data.MembersMayRename}, err
	case model.MemberAdded:
		data, err := dataOf[model.MemberAddedData](e)
		return MemberAdded{h, concerned{data.UserID}, data.Role}, err
	case model.MemberRemoved:
		data, err := dataOf[model.MemberRemovedData](e)
		return MemberRemoved{h, concerned{data.UserID}}, err
	case model.MemberRoleChanged:
		data, err := dataOf[model.MemberRoleChangedData](e)
		return MemberRoleChanged{h, concerned{data.UserID}, data.Role}, err
	case model.MessageAdded:
		return MessageAdded{h, e.Message}, nil
	case model.MessageEdited:
		return MessageEdited{h, e.Message}, nil
	case model.MessageDeleted:
		return MessageDeleted{h, e.Message}, nil
	case model.ReactionAdded:
		data, err := dataOf[model.ReactionData](e)
		return ReactionAdded{h, concerned{data.UserID}, e.Message, data.Emoji, data.Count}, err
	case model.ReactionRemoved:
		data, err := dataOf[model.ReactionData](e)
		return ReactionRemoved{h, concerned{data.UserID}, e.Message, data.Emoji, data.Count}, err
	}
	return nil, fmt.Errorf("an event of the kind %q", e.Kind)
}

func dataOf[T any](e *model.Event) (data T, err error) {
	err = json.Unmarshal(e.Data, &data)
	return data, err
}

// conversationEvent is what conversationEvents sends of what is followed.
func conversationEvent(id model.ConversationID) func(feed.Followed) (ConversationEvent, bool, error) {
	return func(f feed.Followed) (ConversationEvent, bool, error) {
		if f.Event == nil {
			return CaughtUp{happening{Seq: f.CaughtUp, At: time.Now(), conversation: id}}, true, nil
		}
		e, err := eventOf(f.Event)
		return e, true, err
	}
}

// givenEvent is a stream of one item.
func givenEvent(conversation string, item feed.Followed) (<-chan ConversationEvent, error) {
	id, err := parseID[model.ConversationID]("conversationId", conversation)
	if err != nil {
		return nil, err
	}
	e, _, err := conversationEvent(id)(item)
	if err != nil {
		return nil, err
	}
	return just(e), nil
}

// ViewerEvent is one item of the viewer's stream.
type ViewerEvent struct {
	Cursor         string
	ConversationID *model.ConversationID
	Event          ViewerEventBody
}

// ConversationJoined says that the viewer is a member now.
type ConversationJoined struct{ ConversationID model.ConversationID }

// Conversation is what the viewer has joined.
func (j ConversationJoined) Conversation(ctx context.Context) (*model.Conversation, error) {
	return loadConversation(ctx, j.ConversationID)
}

// ConversationLeft says that the viewer is a member no longer.
type ConversationLeft struct{ ConversationID model.ConversationID }

// StreamReset says that the stream begins anew.
type StreamReset struct{ At time.Time }

func viewerEvent(e feed.ViewerEvent) (*ViewerEvent, bool, error) {
	item := &ViewerEvent{Cursor: e.Cursor}
	var err error
	switch {
	case e.Event != nil:
		item.ConversationID = &e.Event.ConversationID
		item.Event, err = eventOf(e.Event)
	case e.Joined != nil:
		item.ConversationID = e.Joined
		item.Event = ConversationJoined{*e.Joined}
	case e.Left != nil:
		item.ConversationID = e.Left
		item.Event = ConversationLeft{*e.Left}
	case e.Reset:
		item.Event = StreamReset{time.Now()}
	default:
		item.Event = CaughtUp{happening{At: time.Now()}}
	}
	return item, true, err
}

// InboxUpdate is an entry of the viewer's list of conversations, which its fields read anew.
type InboxUpdate struct {
	ConversationID model.ConversationID
	Removed        bool
}

// Conversation is the entry.
func (u InboxUpdate) Conversation(ctx context.Context) (*model.Conversation, error) {
	return loadConversation(ctx, u.ConversationID)
}

// UnreadCount is how many messages of it the viewer has not read.
func (u InboxUpdate) UnreadCount(ctx context.Context) (int, error) {
	unread, err := loadUnread(ctx, u.ConversationID)
	return unread.Messages, err
}

// UnreadMentionCount is how many of those mention the viewer.
func (u InboxUpdate) UnreadMentionCount(ctx context.Context) (int, error) {
	unread, err := loadUnread(ctx, u.ConversationID)
	return unread.Mentions, err
}

func inboxUpdate(c feed.InboxChange) (*InboxUpdate, bool, error) {
	return &InboxUpdate{c.ConversationID, c.Removed}, true, nil
}

type eventsCursorKey struct{}

// eventsCursor is what withEventsCursor has read, or where the stream stands now.
func (r *Resolver) eventsCursor(ctx context.Context) (string, error) {
	if read, ok := ctx.Value(eventsCursorKey{}).(string); ok {
		return read, nil
	}
	who, err := actor(ctx)
	if err != nil {
		return "", err
	}
	return r.Feed.ViewerEventsCursor(ctx, who)
}

// withEventsCursor reads where the viewer's stream stands before anything else of a query that asks
// for it: what is stored between the two then comes in the stream.
func (r *Resolver) withEventsCursor(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
	operation := graphql.GetOperationContext(ctx).Operation
	if operation == nil || operation.Operation != ast.Query || !askedOf(operation.SelectionSet).under("viewer").has("eventsCursor") {
		return next(ctx)
	}
	cursor, err := r.eventsCursor(ctx)
	if err != nil {
		return next(ctx) // the field tells
	}
	return next(context.WithValue(ctx, eventsCursorKey{}, cursor))
}
