package chat

import (
	"context"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// people are those who are about to become members of a conversation.
type people struct {
	nicknames map[model.UserID]string // of the accounts that there are
	full      map[model.UserID]bool   // who are in as many conversations as may be
}

// personFull does not say in how many conversations the person is.
const personFull = "This person cannot be in any more conversations."

// errFull refuses the actor's own membership.
func (s *Service) errFull() *errs.Error {
	err := errs.New(errs.LimitReached,
		"An account is in at most %d conversations: leave one first.", s.opts.MaxConversations)
	err.Path = []string{} // the actor need not be listed
	return err
}

func idsOf(members []*NewMember) []model.UserID {
	ids := make([]model.UserID, len(members))
	for i, m := range members {
		ids[i] = m.UserID
	}
	return ids
}

// lockPeople locks accounts, in order of id, and looks up what decides whether they may become
// members of one more conversation. Who adds one of them elsewhere waits for the lock, so nobody
// gets beyond the limit in a race. The lock does not conflict with what sending takes. It comes
// after the conversation's.
func (s *Service) lockPeople(
	ctx context.Context, tx *store.Tx, ids ...model.UserID,
) (people, error) {
	p := people{nicknames: make(map[model.UserID]string, len(ids)), full: map[model.UserID]bool{}}
	var found []model.User
	q := tx.NewSelect().Model(&found).Column("id", "nickname").Where("u.id IN (?)", bun.List(ids)).
		OrderExpr("u.id")
	if tx.Postgres() { // on SQLite nobody else writes
		q = q.For("NO KEY UPDATE")
	}
	if err := q.Scan(ctx); err != nil {
		return p, err
	}
	for _, u := range found {
		p.nicknames[u.ID] = u.Nickname
	}
	// A statement of its own, whose snapshot is taken with the locks: memberships that were waited
	// for count. It reads no more of anybody's memberships than the limit.
	var full []model.UserID
	err := tx.NewSelect().Model((*model.User)(nil)).Column("u.id").
		Where("u.id IN (?)", bun.List(ids)).
		Where(
			"EXISTS (SELECT 1 FROM conversation_members AS cm WHERE cm.user_id = u.id LIMIT 1 "+
				"OFFSET ?)",
			s.opts.MaxConversations-1).
		Scan(ctx, &full)
	for _, id := range full {
		p.full[id] = true
	}
	return p, err
}
