package graph

import (
	"context"

	"parley/model"
)

// nobody stands for a person whose account is gone.
const nobody = "Deleted account"

// title is what the viewer sees a conversation called: a direct one after the other person.
func (r *conversationResolver) title(ctx context.Context, c *model.Conversation) (string, error) {
	if c.Kind != model.Direct {
		return c.Title, nil
	}
	partner, err := load(ctx, func(l *loaders) byConversation[model.UserID] { return l.partners }, c.ID)
	if err != nil || partner == (model.UserID{}) {
		return nobody, err
	}
	u, err := loadUser(ctx, partner)
	switch {
	case err != nil || u == nil:
		return nobody, err
	case u.DisplayName != nil:
		return *u.DisplayName, nil
	}
	return u.Nickname, nil
}
