package graph

import (
	"time"

	"github.com/99designs/gqlgen/graphql"

	"parley/chat"
	"parley/model"
)

// These inputs are not generated because their ids are typed: gqlgen then reads them as ids of that
// type, and refuses another one with its place in the input.

// RevokeSessionInput is described in the schema, like the other inputs.
type RevokeSessionInput struct{ SessionID model.SessionID }

// OpenDirectConversationInput is described in the schema.
type OpenDirectConversationInput struct{ UserID model.UserID }

// RenameConversationInput is described in the schema.
type RenameConversationInput struct {
	ConversationID model.ConversationID
	Title          string
}

// UpdateConversationSettingsInput is described in the schema.
type UpdateConversationSettingsInput struct {
	ConversationID   model.ConversationID
	MembersMayRename bool
}

// AddMembersInput is described in the schema.
type AddMembersInput struct {
	ConversationID model.ConversationID
	Members        []*chat.NewMember
}

// RemoveMemberInput is described in the schema.
type RemoveMemberInput struct {
	ConversationID model.ConversationID
	UserID         model.UserID
}

// ChangeMemberRoleInput is described in the schema.
type ChangeMemberRoleInput struct {
	ConversationID model.ConversationID
	UserID         model.UserID
	Role           model.Role
}

// TransferOwnershipInput is described in the schema.
type TransferOwnershipInput struct {
	ConversationID model.ConversationID
	UserID         model.UserID
}

// LeaveConversationInput is described in the schema.
type LeaveConversationInput struct{ ConversationID model.ConversationID }

// SaveDraftInput is described in the schema.
type SaveDraftInput struct {
	ConversationID model.ConversationID
	Content        string
}

// MarkReadInput is described in the schema.
type MarkReadInput struct {
	ConversationID model.ConversationID
	Seq            int64
}

// EditMessageInput is described in the schema.
type EditMessageInput struct {
	MessageID        model.MessageID
	Content          string
	ExpectedEditedAt graphql.Omittable[*time.Time]
}

// edit is the edit that the input asks for. One without expectedEditedAt overwrites any other.
func (in EditMessageInput) edit() chat.EditMessage {
	edit := chat.EditMessage{MessageID: in.MessageID, Content: in.Content}
	if at, given := in.ExpectedEditedAt.ValueOK(); given {
		edit.Expected = &chat.Edited{At: at}
	}
	return edit
}

// DeleteMessageInput is described in the schema.
type DeleteMessageInput struct{ MessageID model.MessageID }

// ReactionInput is AddReactionInput and RemoveReactionInput.
type ReactionInput struct {
	MessageID model.MessageID
	Emoji     string
}

// SetTypingInput is described in the schema.
type SetTypingInput struct {
	ConversationID model.ConversationID
	Typing         bool
}
