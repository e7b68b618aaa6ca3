package graph

import (
	"context"

	"parley/chat"
	"parley/model"
)

// isViewer reports whether a membership is the viewer's own.
func isViewer(ctx context.Context, m *model.ConversationMember) bool {
	viewer, err := actor(ctx)
	return err == nil && viewer.UserID == m.UserID
}

// lastReadSeq is how far a member has read, or nil if the viewer may not know.
func lastReadSeq(ctx context.Context, m *model.ConversationMember) (*int, error) {
	a, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	viewer, err := loadUser(ctx, a.UserID)
	if err != nil || viewer == nil {
		return nil, err
	}
	member, err := loadUser(ctx, m.UserID)
	if err != nil || member == nil {
		return nil, err
	}
	seq := chat.LastRead(m, viewer, member)
	if seq == nil {
		return nil, nil
	}
	return new(int(*seq)), nil
}

// unreadOf is a count of the viewer's own membership, and nil for another one.
func unreadOf(
	ctx context.Context, m *model.ConversationMember, count func(model.Unread) int,
) (*int, error) {
	if !isViewer(ctx, m) {
		return nil, nil
	}
	u, err := loadUnread(ctx, m.ConversationID)
	if err != nil {
		return nil, err
	}
	return new(count(u)), nil
}
