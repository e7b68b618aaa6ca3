package graph

import (
	"context"

	"parley/auth"
	"parley/model"
)

// A payload has what its mutation made, or null and the user errors. Those of several mutations
// that return the same are one type.
type (
	// DonePayload has only user errors.
	DonePayload struct{ UserErrors []*UserError }
	// ConversationPayload has a conversation.
	ConversationPayload struct {
		Conversation *model.Conversation
		UserErrors   []*UserError
	}
	// MessagePayload has a message.
	MessagePayload struct {
		Message    *model.Message
		UserErrors []*UserError
	}
	// MemberPayload has the viewer's membership.
	MemberPayload struct {
		Member     *model.ConversationMember
		UserErrors []*UserError
	}
)

// splitErrors separates the user errors of a mutation from other errors. With either, the mutation
// made nothing, and the result is its zero value.
func splitErrors[T any](result T, err error) (T, []*UserError, error) {
	problems, rest := userErrors(err)
	if err != nil {
		result = *new(T)
	}
	return result, problems, rest
}

func donePayload(err error) (*DonePayload, error) {
	problems, err := userErrors(err)
	return &DonePayload{problems}, err
}

func conversationPayload(
	ctx context.Context,
) func(*model.Conversation, error) (*ConversationPayload, error) {
	return func(c *model.Conversation, err error) (*ConversationPayload, error) {
		c, problems, err := splitErrors(c, err)
		prefetchIn(ctx, "conversation", c, (*prefetcher).ofConversations)
		return &ConversationPayload{c, problems}, err
	}
}

func messagePayload(ctx context.Context) func(*model.Message, error) (*MessagePayload, error) {
	return func(m *model.Message, err error) (*MessagePayload, error) {
		m, problems, err := splitErrors(m, err)
		prefetchIn(ctx, "message", m, (*prefetcher).ofMessages)
		return &MessagePayload{m, problems}, err
	}
}

func memberPayload(
	ctx context.Context,
) func(*model.ConversationMember, error) (*MemberPayload, error) {
	return func(m *model.ConversationMember, err error) (*MemberPayload, error) {
		m, problems, err := splitErrors(m, err)
		prefetchIn(ctx, "member", m, (*prefetcher).ofMembers)
		return &MemberPayload{m, problems}, err
	}
}

func profilePayload(u *model.User, err error) (*UpdateProfilePayload, error) {
	u, problems, err := splitErrors(u, err)
	return &UpdateProfilePayload{User: u, UserErrors: problems}, err
}

func settingsPayload(u *model.User, err error) (*UpdateSettingsPayload, error) {
	u, problems, err := splitErrors(u, err)
	if u == nil {
		return &UpdateSettingsPayload{UserErrors: problems}, err
	}
	return &UpdateSettingsPayload{Settings: settingsOf(u), UserErrors: problems}, err
}

func revokedPayload(n int, err error) (*RevokeOtherSessionsPayload, error) {
	n, problems, err := splitErrors(n, err)
	return &RevokeOtherSessionsPayload{Revoked: n, UserErrors: problems}, err
}

// draftPayload returns the conversation of a draft, which is stored in the membership.
func draftPayload(
	ctx context.Context,
) func(*model.ConversationMember, error) (*ConversationPayload, error) {
	return func(m *model.ConversationMember, err error) (*ConversationPayload, error) {
		if err != nil {
			return conversationPayload(ctx)(nil, err)
		}
		return conversationPayload(ctx)(loadConversation(ctx, m.ConversationID))
	}
}

// authPayload is the payload of what signs a user in.
func authPayload(ctx context.Context) func(*auth.SignedIn, error) (*AuthPayload, error) {
	return func(signedIn *auth.SignedIn, err error) (*AuthPayload, error) {
		problems, err := userErrors(err)
		if err != nil || signedIn == nil {
			return &AuthPayload{UserErrors: problems}, err
		}
		// The fields below this one are executed as the user who has just signed in.
		grant := signedIn.Grant()
		identityOf(ctx).grant.Store(&grant)
		return &AuthPayload{
			Tokens: &signedIn.Tokens, Viewer: &Viewer{User: signedIn.User}, UserErrors: problems,
		}, nil
	}
}
