package graph

import (
	"context"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/feed"
	"parley/model"
)

// ViewerEventBody is a ConversationEvent, or one of the notices below.
type ViewerEventBody any

// ViewerEvent is one item of the viewer's stream.
type ViewerEvent struct {
	Cursor         string
	ConversationID *model.ConversationID
	Event          ViewerEventBody
}

// ConversationJoined is the notice that the viewer has become a member.
type ConversationJoined struct{ ConversationID model.ConversationID }

// Conversation is the one that the viewer has joined.
func (j ConversationJoined) Conversation(ctx context.Context) (*model.Conversation, error) {
	return loadConversation(ctx, j.ConversationID)
}

// ConversationLeft is the notice that the viewer is no longer a member.
type ConversationLeft struct{ ConversationID model.ConversationID }

// StreamReset is the notice that the cursor was not served, and the stream starts from now.
type StreamReset struct{ At time.Time }

// viewerEvent converts an item of the stream of package feed.
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
		item.Event = CaughtUp{eventBase{At: time.Now(), streamCursor: e.Cursor}}
	}
	return item, true, err
}

type eventsCursorKey struct{}

// eventsCursor returns the cursor that withEventsCursor has read, or that of the moment.
func (r *Resolver) eventsCursor(ctx context.Context) (string, error) {
	if read, ok := ctx.Value(eventsCursorKey{}).(string); ok {
		return read, nil
	}
	viewer, err := actor(ctx)
	if err != nil {
		return "", err
	}
	return r.Feed.ViewerEventsCursor(ctx, viewer)
}

// withEventsCursor reads the cursor of the viewer's stream before anything else of a query that
// selects it. What is stored while the query runs then comes in the stream.
func (r *Resolver) withEventsCursor(
	ctx context.Context, next graphql.ResponseHandler,
) *graphql.Response {
	operation := graphql.GetOperationContext(ctx).Operation
	if operation == nil || operation.Operation != ast.Query ||
		!selectionOf(operation.SelectionSet).under("viewer").has("eventsCursor") {
		return next(ctx)
	}
	cursor, err := r.eventsCursor(ctx)
	if err != nil {
		return next(ctx) // the field reports it
	}
	return next(context.WithValue(ctx, eventsCursorKey{}, cursor))
}
