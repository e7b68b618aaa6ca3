package auth

import (
	"cmp"
	"context"
	"errors"
	"time"

	"parley/model"
	"parley/store"
)

// DeleteAccount removes the actor's account and all their personal data. Their messages stay,
// without an author.
//
// One short transaction marks the account as removed. From then on no one can sign in to it or see
// it, its sessions have ended, and its address and nickname are free. Run removes the rows that
// refer to it afterwards, in batches, because there may be many.
func (s *Service) DeleteAccount(
	ctx context.Context, actor model.Actor, password string, from Client,
) error {
	hash, err := s.requirePassword(ctx, actor, "password", password, from)
	if err != nil {
		return err
	}
	return s.db.InQueuedTx(ctx, actor.UserID, func(ctx context.Context, tx *store.Tx) error {
		// Locks the account: from here on it cannot become a member of a conversation.
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
			if _, err := tx.NewDelete().Model(table).Where("user_id = ?", u.ID).
				Exec(ctx); err != nil {
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
		tx.AfterCommit(func() {
			// The id, which reveals nothing by itself, for the time after a restore.
			s.opts.Log.Info(AccountRemovedLog, "user", u.ID)
			s.removals.Notify()
		})
		return markRemoved(ctx, tx, u.ID)
	})
}

// AccountRemovedLog is the message of the log line about an account that was removed.
const AccountRemovedLog = "account removed"

// discardMails deletes the mails that wait for the account, also those to an address that is not
// verified yet.
func (s *Service) discardMails(ctx context.Context, tx *store.Tx, u *model.User) error {
	var tokens []*model.OneTimeToken
	if err := tx.NewSelect().Model(&tokens).Where("user_id = ?", u.ID).Scan(ctx); err != nil {
		return err
	}
	return s.opts.Mail.Discard(ctx, tx, u.Email, mailKeys(tokens)...)
}

// markRemoved wipes an account except its id, which stays until no row refers to it. The unique
// keys are made from the id. Such a key is longer than a nickname can be, and has no @, as an
// address has.
func markRemoved(ctx context.Context, tx *store.Tx, id model.UserID) error {
	unique := "removed " + id.String()
	_, err := tx.NewUpdate().Model((*model.User)(nil)).Set("removed_at = ?", tx.Now).
		Set("email = ''").Set("email_key = ?", unique).Set("email_verified_at = NULL").
		Set("nickname = ''").Set("nickname_key = ?", unique).Set("search_key = ''").
		Set("display_name = NULL").Set("about = NULL").Where("id = ?", id).Exec(ctx)
	return err
}

// removalEvery is how often Run looks for marked accounts: the node that was removing one may have
// stopped.
const removalEvery = 30 * time.Second

// runRemovals removes accounts that were marked on any node, until ctx ends.
func (s *Service) runRemovals(ctx context.Context) {
	tick := time.NewTicker(removalEvery)
	defer tick.Stop()
	for {
		if err := s.removeMarked(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("cannot finish the removal of accounts; retrying", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.removals.C():
		}
	}
}

// removeMarked finishes the removal of every marked account, except those that another node has
// claimed.
func (s *Service) removeMarked(ctx context.Context) error {
	var marked []model.UserID
	err := s.db.NewSelect().Model((*model.User)(nil)).Column("id").WhereDeleted().
		OrderExpr("u.removed_at").Scan(ctx, &marked)
	if err != nil {
		return store.Error(err)
	}
	var countFailure error
	for _, id := range marked { // a failure does not delay the others
		for more := true; more && ctx.Err() == nil; {
			if more, err = s.removeSome(ctx, id); err != nil {
				countFailure, more = errors.Join(countFailure, err), false
			}
		}
	}
	return cmp.Or(ctx.Err(), countFailure)
}

// removeSome removes one batch of an account's rows, in a short transaction, because others wait
// for its locks. It reports whether there may be more. The last call deletes the account itself.
// The state between calls is consistent, so that another node can continue.
func (s *Service) removeSome(ctx context.Context, id model.UserID) (more bool, err error) {
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		more = false
		if claimed, err := claim(ctx, tx, id); err != nil || !claimed {
			return err
		}
		steps := []func(context.Context, *store.Tx, model.UserID) (bool, error){
			anonymizeAudit, deleteSessions,
		}
		if s.opts.CleanUp != nil {
			steps = append(steps, s.opts.CleanUp)
		}
		for _, step := range steps {
			if more, err = step(ctx, tx, id); err != nil || more {
				return err
			}
		}
		_, err := tx.NewDelete().Model((*model.User)(nil)).Where("id = ?", id).ForceDelete().
			Exec(ctx)
		return err
	})
	return more, err
}

// claim keeps other nodes from removing the same account until the transaction ends. It reports
// false if another node has claimed it, or if it has been deleted. The lock does not block the
// insertion of rows that refer to the account.
func claim(ctx context.Context, tx *store.Tx, id model.UserID) (bool, error) {
	q := tx.NewSelect().Model((*model.User)(nil)).Column("id").WhereDeleted().Where("u.id = ?", id)
	if tx.Postgres() {
		q = q.For("NO KEY UPDATE SKIP LOCKED")
	}
	var found []model.UserID
	err := q.Scan(ctx, &found)
	return len(found) > 0, err
}

// anonymizeAudit removes the account, its sessions and its addresses from entries of the audit log.
func anonymizeAudit(ctx context.Context, tx *store.Tx, id model.UserID) (more bool, err error) {
	n, err := tx.UpdateSome(ctx, "audit_log",
		"user_id = NULL, session_id = NULL, ip = NULL, user_agent = NULL", "user_id = ?", id)
	return n > 0, err
}

func deleteSessions(ctx context.Context, tx *store.Tx, id model.UserID) (more bool, err error) {
	n, err := tx.DeleteSome(ctx, "sessions", "user_id = ?", id)
	return n > 0, err
}
