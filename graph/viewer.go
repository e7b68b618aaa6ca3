package graph

import (
	"context"
	"sync"

	"parley/chat"
	"parley/model"
)

// Viewer is the signed-in user, with what only they may see.
type Viewer struct {
	User *model.User

	countOnce sync.Once // unreadCount and unreadMentionCount have one query
	counted   model.Unread
	countErr  error
}

// Email is a field here and not of User, so that no other user sees it.
func (v *Viewer) Email() string { return v.User.Email }

// EmailVerified reports whether the user has opened a link that was mailed to the address.
func (v *Viewer) EmailVerified() bool { return v.User.EmailVerifiedAt != nil }

// Settings is what the user lets others see.
func (v *Viewer) Settings() *Settings { return settingsOf(v.User) }

func settingsOf(u *model.User) *Settings {
	return &Settings{ShowPresence: u.ShowPresence, SendReadReceipts: u.SendReadReceipts}
}

// unread counts what the user has not read in all conversations.
func (v *Viewer) unread(ctx context.Context, service *chat.Service) (model.Unread, error) {
	v.countOnce.Do(func() {
		viewer, err := actor(ctx)
		if err != nil {
			v.countErr = err
			return
		}
		v.counted, v.countErr = service.UnreadInAll(ctx, viewer)
	})
	return v.counted, v.countErr
}
