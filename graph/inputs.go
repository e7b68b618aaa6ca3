package graph

import (
	"parley/chat"
	"parley/model"
)

// OpenDirectConversationInput and those after it are the inputs whose ids are of one kind: gqlgen reads them as such, and a wrong one is refused with its place in the input.
type (
	OpenDirectConversationInput struct{ UserID model.UserID }

	RenameConversationInput struct {
		ConversationID model.ConversationID
		Title          string
	}

	UpdateConversationSettingsInput struct {
		ConversationID   model.ConversationID
		MembersMayRename bool
	}

	AddMembersInput struct {
		ConversationID model.ConversationID
		Members        []*chat.NewMember
	}

	RemoveMemberInput struct {
		ConversationID model.ConversationID
		UserID         model.UserID
	}

	ChangeMemberRoleInput struct {
		ConversationID model.ConversationID
		UserID         model.UserID
		Role           model.Role
	}

	TransferOwnershipInput struct {
		ConversationID model.ConversationID
		UserID         model.UserID
	}

	LeaveConversationInput struct{ ConversationID model.ConversationID }
)
