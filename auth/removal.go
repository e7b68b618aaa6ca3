package auth

import (
	"cmp"
	"context"
	"errors"
	"time"

	"parley/model"
	"parley/store"
)

// DeleteAccount removes the actor's account, with all that says who they are. Their messages stay,
// under no author.
//
// The account is marked as removed in one short transaction. From then on nobody can sign in to it
// or see it, its sessions have ended, and its address and nickname are free. What else refers to
// it, which may be much, Run removes afterwards, in batches.
func (s *Service) DeleteAccount(ctx context.Context, actor model.Actor, password string, from Client) error {
	hash, err := s.requirePassword(ctx, actor, "password", password, from)
	if err != nil {
		return err
	}
	return s.db.InQueuedTx(ctx, actor.UserID, func(ctx context.Context, tx *store.Tx) error {
		// locked: nobody can make them a member of anything more from here on
		u, err := checkedUser(ctx, tx, actor.UserID, hash)
		if err != nil {
			return err
		}
		if err := s.discardMails(ctx, tx, u); err != nil {
			return err
		}
		if _, err := s.revokeAll(ctx, tx, u.ID, nil, from); err != nil {
			return err
		}
		for _, table := range []any{(*model.Credentials)(nil), (*model.OneTimeToken)(nil)} {
			if _, err := tx.NewDelete().Model(table).Where("user_id = ?", u.ID).Exec(ctx); err != nil {
				return err
			}
		}
		if s.opts.OnDelete != nil {
			if err := s.opts.OnDelete(ctx, tx, u.ID); err != nil {
				return err
			}
		}
		if err := s.audit(ctx, tx, accountDeleted, nil, nil, Client{}); err != nil {
			return err
		}
		tx.AfterCommit(s.wakeRemovals)
		return mark(ctx, tx, u.ID)
	})
}

// discardMails takes back what waits to be sent to the account, also to an address that is not
// theirs yet.
func (s *Service) discardMails(ctx context.Context, tx *store.Tx, u *model.User) error {
	var tokens []*model.OneTimeToken
	if err := tx.NewSelect().Model(&tokens).Where("user_id = ?", u.ID).Scan(ctx); err != nil {
		return err
	}
	return s.opts.Mail.Discard(ctx, tx, u.Email, mailKeys(tokens)...)
}

// mark wipes an account, of which only the id stays until nothing refers to it any more. The id
// also takes the place of what has to be unique: with what precedes it, it is longer than a
// nickname can be, and no address, which has an @.
func mark(ctx context.Context, tx *store.Tx, id model.UserID) error {
	unique := "removed " + id.String()
	_, err := tx.NewUpdate().Model((*model.User)(nil)).Set("removed_at = ?", tx.Now).
		Set("email = ''").Set("email_key = ?", unique).Set("email_verified_at = NULL").
		Set("nickname = ''").Set("nickname_key = ?", unique).Set("search_key = ''").
		Set("display_name = NULL").Set("about = NULL").Where("id = ?", id).Exec(ctx)
	return err
}

// removeEvery is how often Run looks for accounts that are marked and that no node is removing: it
// may have died.
const removeEvery = 30 * time.Second

func (s *Service) wakeRemovals() {
	select {
	case s.removals <- struct{}{}:
	default: // it will look anyway
	}
}

// runRemovals removes accounts that are marked, those of other nodes included, until ctx ends.
func (s *Service) runRemovals(ctx context.Context) {
	tick := time.NewTicker(removeEvery)
	defer tick.Stop()
	for {
		if err := s.removeMarked(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("cannot finish the removal of an account; retrying", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.removals:
		}
	}
}

// removeMarked finishes the removal of every account that is marked, but for those at which another
// node is working.
func (s *Service) removeMarked(ctx context.Context) error {
	var marked []model.UserID
	err := s.db.NewSelect().Model((*model.User)(nil)).Column("id").WhereDeleted().OrderExpr("u.removed_at").Scan(ctx, &marked)
	if err != nil {
		return store.Error(err)
	}
	var failed error
	for _, id := range marked { // one that fails holds up no other
		for more := true; more && ctx.Err() == nil; {
			if more, err = s.removeSome(ctx, id); err != nil {
				failed, more = errors.Join(failed, err), false
			}
		}
	}
	return cmp.Or(ctx.Err(), failed)
}

// removeSome does a part of the removal of an account, in a transaction that is short enough for
// everybody else to wait for it, and reports whether there is more to do. The last one deletes the
// account. Each leaves everything as it has to be, so that any node goes on where another one has
// stopped.
func (s *Service) removeSome(ctx context.Context, id model.UserID) (more bool, err error) {
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		more = false
		if claimed, err := claim(ctx, tx, id); err != nil || !claimed {
			return err
		}
		steps := []func(context.Context, *store.Tx, model.UserID) (bool, error){forgetInAudit, deleteSessions}
		if s.opts.CleanUp != nil {
			steps = append(steps, s.opts.CleanUp)
		}
		for _, step := range steps {
			if more, err = step(ctx, tx, id); err != nil || more {
				return err
			}
		}
		_, err := tx.NewDelete().Model((*model.User)(nil)).Where("id = ?", id).ForceDelete().Exec(ctx)
		return err
	})
	return more, err
}

// claim keeps other nodes from working at the same account until the transaction ends. It reports
// false if one does so already, or if the account is gone. The lock is none that a reference to the
// account waits for.
func claim(ctx context.Context, tx *store.Tx, id model.UserID) (bool, error) {
	q := tx.NewSelect().Model((*model.User)(nil)).Column("id").WhereDeleted().Where("u.id = ?", id)
	if tx.Postgres() {
		q = q.For("NO KEY UPDATE SKIP LOCKED")
	}
	var found []model.UserID
	err := q.Scan(ctx, &found)
	return len(found) > 0, err
}

// forgetInAudit lets the log keep that an account was deleted, but not whose, nor from where it was
// used.
func forgetInAudit(ctx context.Context, tx *store.Tx, id model.UserID) (more bool, err error) {
	n, err := tx.UpdateSome(ctx, "audit_log", "user_id = NULL, session_id = NULL, ip = NULL, user_agent = NULL", "user_id = ?", id)
	return n > 0, err
}

func deleteSessions(ctx context.Context, tx *store.Tx, id model.UserID) (more bool, err error) {
	n, err := tx.DeleteSome(ctx, "sessions", "user_id = ?", id)
	return n > 0, err
}
