package graph

import (
	"parley/chat"
	"parley/model"
)

// The inputs here are ours and not generated because their ids are of one kind each: gqlgen reads them as such, and a wrong
// one is refused with its place in the input.

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
