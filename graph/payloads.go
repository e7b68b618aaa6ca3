package graph

import (
	"context"

	"parley/auth"
	"parley/model"
)

// Payloads that show the same are one type here, and each what its mutation says in the schema:
// what was made, or null and what a person can correct.
type (
	// DonePayload shows nothing but mistakes.
	DonePayload struct{ UserErrors []*UserError }
	// ConversationPayload shows a conversation.
	ConversationPayload struct {
		Conversation *model.Conversation
		UserErrors   []*UserError
	}
	// MessagePayload shows a message.
	MessagePayload struct {
		Message    *model.Message
		UserErrors []*UserError
	}
	// MemberPayload shows the viewer's membership.
	MemberPayload struct {
		Member     *model.ConversationMember
		UserErrors []*UserError
	}
)

// answered parts what a mutation has made from what a person can correct, with which it has made
// nothing.
func answered[T any](result T, err error) (T, []*UserError, error) {
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

func conversationPayload(ctx context.Context) func(*model.Conversation, error) (*ConversationPayload, error) {
	return func(c *model.Conversation, err error) (*ConversationPayload, error) {
		c, problems, err := answered(c, err)
		foreseeIn(ctx, "conversation", c, (*lookahead).conversationsHave)
		return &ConversationPayload{c, problems}, err
	}
}

func messagePayload(ctx context.Context) func(*model.Message, error) (*MessagePayload, error) {
	return func(m *model.Message, err error) (*MessagePayload, error) {
		m, problems, err := answered(m, err)
		foreseeIn(ctx, "message", m, (*lookahead).messagesHave)
		return &MessagePayload{m, problems}, err
	}
}

func memberPayload(ctx context.Context) func(*model.ConversationMember, error) (*MemberPayload, error) {
	return func(m *model.ConversationMember, err error) (*MemberPayload, error) {
		m, problems, err := answered(m, err)
		foreseeIn(ctx, "member", m, (*lookahead).membersHave)
		return &MemberPayload{m, problems}, err
	}
}

func profilePayload(u *model.User, err error) (*UpdateProfilePayload, error) {
	u, problems, err := answered(u, err)
	return &UpdateProfilePayload{User: u, UserErrors: problems}, err
}

func settingsPayload(u *model.User, err error) (*UpdateSettingsPayload, error) {
	u, problems, err := answered(u, err)
	if u == nil {
		return &UpdateSettingsPayload{UserErrors: problems}, err
	}
	return &UpdateSettingsPayload{Settings: settingsOf(u), UserErrors: problems}, err
}

func revokedPayload(n int, err error) (*RevokeOtherSessionsPayload, error) {
	n, problems, err := answered(n, err)
	return &RevokeOtherSessionsPayload{Revoked: n, UserErrors: problems}, err
}

// draftPayload shows the conversation of a draft, of which the membership was changed.
func draftPayload(ctx context.Context) func(*model.ConversationMember, error) (*ConversationPayload, error) {
	return func(m *model.ConversationMember, err error) (*ConversationPayload, error) {
		if err != nil {
			return conversationPayload(ctx)(nil, err)
		}
		return conversationPayload(ctx)(loadConversation(ctx, m.ConversationID))
	}
}

// authPayload makes the payload of what signs a person in.
func authPayload(ctx context.Context) func(*auth.SignedIn, error) (*AuthPayload, error) {
	return func(signedIn *auth.SignedIn, err error) (*AuthPayload, error) {
		problems, err := userErrors(err)
		if err != nil || signedIn == nil {
			return &AuthPayload{UserErrors: problems}, err
		}
		return signIn(ctx, signedIn), nil
	}
}

// who is the actor of a field that the gate has let through, which is every one that is not
// @public.
func who(ctx context.Context) model.Actor {
	a, err := actor(ctx)
	if err != nil {
		panic(err) // the gate has a hole
	}
	return a
}

// from is the device that asks.
func from(ctx context.Context) auth.Client { return identityOf(ctx).client }
