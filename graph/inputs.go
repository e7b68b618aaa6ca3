package graph

import (
	"time"

	"github.com/99designs/gqlgen/graphql"

	"parley/chat"
	"parley/model"
)

// The inputs here are ours and not generated because their ids are of one kind each: gqlgen reads
// them as such, and a wrong one is refused with its place in the input.

// RevokeSessionInput is as the schema says, like all of these.
type RevokeSessionInput struct{ SessionID model.SessionID }

// OpenDirectConversationInput is as the schema says.
type OpenDirectConversationInput struct{ UserID model.UserID }

// RenameConversationInput is as the schema says.
type RenameConversationInput struct {
	ConversationID model.ConversationID
	Title          string
}

// UpdateConversationSettingsInput is as the schema says.
type UpdateConversationSettingsInput struct {
	ConversationID   model.ConversationID
	MembersMayRename bool
}

// AddMembersInput is as the schema says.
type AddMembersInput struct {
	ConversationID model.ConversationID
	Members        []*chat.NewMember
}

// RemoveMemberInput is as the schema says.
type RemoveMemberInput struct {
	ConversationID model.ConversationID
	UserID         model.UserID
}

// ChangeMemberRoleInput is as the schema says.
type ChangeMemberRoleInput struct {
	ConversationID model.ConversationID
	UserID         model.UserID
	Role           model.Role
}

// TransferOwnershipInput is as the schema says.
type TransferOwnershipInput struct {
	ConversationID model.ConversationID
	UserID         model.UserID
}

// LeaveConversationInput is as the schema says.
type LeaveConversationInput struct{ ConversationID model.ConversationID }

// SaveDraftInput is as the schema says.
type SaveDraftInput struct {
	ConversationID model.ConversationID
	Content        string
}

// MarkReadInput is as the schema says.
type MarkReadInput struct {
	ConversationID model.ConversationID
	Seq            int64
}

// EditMessageInput is as the schema says.
type EditMessageInput struct {
	MessageID        model.MessageID
	Content          string
	ExpectedEditedAt graphql.Omittable[*time.Time]
}

func (in EditMessageInput) edit() chat.EditMessage {
	edit := chat.EditMessage{MessageID: in.MessageID, Content: in.Content}
	if at, given := in.ExpectedEditedAt.ValueOK(); given {
		edit.Expected = &chat.Edited{At: at}
	}
	return edit
}

// DeleteMessageInput is as the schema says.
type DeleteMessageInput struct{ MessageID model.MessageID }

// ReactionInput is as the schema says of AddReactionInput and RemoveReactionInput.
type ReactionInput struct {
	MessageID model.MessageID
	Emoji     string
}

// SetTypingInput is as the schema says.
type SetTypingInput struct {
	ConversationID model.ConversationID
	Typing         bool
}
