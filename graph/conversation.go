package graph

import (
	"context"

	"parley/model"
)

// deletedAccount is what a direct conversation is called when the partner's account is gone.
const deletedAccount = "Deleted account"

// title is a conversation's title. A direct conversation has none: it is called after the partner.
func title(ctx context.Context, c *model.Conversation) (string, error) {
	if c.Kind != model.Direct {
		return c.Title, nil
	}
	partners := func(l *loaders) byConversation[model.UserID] { return l.partners }
	partner, err := load(ctx, partners, c.ID)
	if err != nil || partner == (model.UserID{}) {
		return deletedAccount, err
	}
	u, err := loadUser(ctx, partner)
	switch {
	case err != nil || u == nil:
		return deletedAccount, err
	case u.DisplayName != nil:
		return *u.DisplayName, nil
	}
	return u.Nickname, nil
}
