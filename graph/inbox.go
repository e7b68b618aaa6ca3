package graph

import (
	"context"

	"parley/feed"
	"parley/model"
)

// InboxUpdate is a changed entry of the viewer's list of conversations. Its fields read the entry
// as it is when the update is sent.
type InboxUpdate struct {
	ConversationID model.ConversationID
	Removed        bool
}

// Conversation is the one that has changed, or nil if the viewer may no longer see it.
func (u InboxUpdate) Conversation(ctx context.Context) (*model.Conversation, error) {
	return loadConversation(ctx, u.ConversationID)
}

// UnreadCount is how many of its messages the viewer has not read.
func (u InboxUpdate) UnreadCount(ctx context.Context) (int, error) {
	unread, err := loadUnread(ctx, u.ConversationID)
	return unread.Messages, err
}

// UnreadMentionCount is how many of these mention the viewer.
func (u InboxUpdate) UnreadMentionCount(ctx context.Context) (int, error) {
	unread, err := loadUnread(ctx, u.ConversationID)
	return unread.Mentions, err
}

func inboxUpdate(c feed.InboxChange) (*InboxUpdate, bool, error) {
	return &InboxUpdate{c.ConversationID, c.Removed}, true, nil
}
