package chat

import (
	"context"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// candidates are the users who are about to become members of a conversation.
type candidates struct {
	nicknames map[model.UserID]string // of the users who exist
	full      map[model.UserID]bool   // users who are in Options.MaxConversations already
}

// personFull does not disclose in how many conversations the person is.
const personFull = "This person cannot be in any more conversations."

// errFull refuses the actor's own membership.
func (s *Service) errFull() *errs.Error {
	err := errs.New(errs.LimitReached,
		"An account is in at most %d conversations: leave one first.", s.opts.MaxConversations)
	err.Path = []string{} // the actor may not be in the list of members
	return err
}

func idsOf(members []*NewMember) []model.UserID {
	ids := make([]model.UserID, len(members))
	for i, m := range members {
		ids[i] = m.UserID
	}
	return ids
}

// lockAccounts locks accounts, in order of id, and reads what decides whether they may become
// members of one more conversation. A transaction that adds one of them to another conversation
// waits for the lock, so the limit holds in races. The lock does not conflict with the one that
// sending takes. The conversation must be locked first.
func (s *Service) lockAccounts(
	ctx context.Context, tx *store.Tx, ids ...model.UserID,
) (candidates, error) {
	c := candidates{
		nicknames: make(map[model.UserID]string, len(ids)), full: map[model.UserID]bool{},
	}
	var found []model.User
	q := tx.NewSelect().Model(&found).Column("id", "nickname").Where("u.id IN (?)", bun.List(ids)).
		OrderExpr("u.id")
	if tx.Postgres() { // SQLite has one writing transaction at a time
		q = q.For("NO KEY UPDATE")
	}
	if err := q.Scan(ctx); err != nil {
		return c, err
	}
	for _, u := range found {
		c.nicknames[u.ID] = u.Nickname
	}
	// This is a separate statement, so that its snapshot is taken after the locks: it sees the
	// memberships that the locks waited for. It reads at most MaxConversations rows of each user.
	var full []model.UserID
	err := tx.NewSelect().Model((*model.User)(nil)).Column("u.id").
		Where("u.id IN (?)", bun.List(ids)).
		Where(
			"EXISTS (SELECT 1 FROM conversation_members AS cm WHERE cm.user_id = u.id LIMIT 1 "+
				"OFFSET ?)",
			s.opts.MaxConversations-1).
		Scan(ctx, &full)
	for _, id := range full {
		c.full[id] = true
	}
	return c, err
}
