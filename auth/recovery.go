package auth

import (
	"context"
	"database/sql"
	"errors"

	"parley/errs"
	"parley/mail"
	"parley/model"
	"parley/store"
	"parley/text"
)

// The pages that mailed links lead to, as the argument action of Options.Link.
const (
	verifyPage = "verify-email"
	resetPage  = "reset-password"
)

// RequestPasswordReset mails a link to the address, if it has an account. Neither the answer, nor
// the rate limit, nor the statements that run reveal whether it has one. Beyond the limit for an
// address it returns nil, and no mail is sent.
func (s *Service) RequestPasswordReset(ctx context.Context, email string, from Client) error {
	if err := s.allow(ctx, "mail from "+from.Network(), mailByAddress); err != nil {
		return err
	}
	key := lookup(email)
	tooMany := s.allow(ctx, "reset of "+key, mailByAccount)
	if tooMany != nil && !errs.Is(tooMany, errs.RateLimited) {
		return tooMany
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		u := new(model.User)
		err := tx.NewSelect().Model(u).Where("u.email_key = ?", key).Scan(ctx)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err != nil {
			u = decoyAccount(key)
		}
		// Locked, so that no mail is enqueued after the removal of the account has discarded them.
		locked, err := lockedUser(ctx, tx, u.ID)
		if err != nil && !errors.Is(err, errSessionEnded) {
			return err
		}
		var known *model.UserID
		if err == nil {
			u, known = locked, &locked.ID
		} else {
			u = decoyAccount(key)
		}
		if err := s.audit(ctx, tx, resetRequested, known, nil, from); err != nil || tooMany != nil {
			return err
		}
		token, err := s.issue(ctx, tx, known != nil, resetPassword, u.ID, nil, resetTTL)
		if err != nil {
			return err
		}
		m := s.linkMail(mail.PasswordReset, u.Email, u, resetPage, token)
		m.Decoy = known == nil
		return s.opts.Mail.Enqueue(ctx, tx, m)
	})
}

// ResetPassword sets a new password with the token from the mail, and ends every session of the
// account. It also verifies the address: the mail has arrived there.
func (s *Service) ResetPassword(ctx context.Context, token, newPassword string, from Client) error {
	if err := s.allow(ctx, "token from "+from.Network(), tokenByAddress); err != nil {
		return err
	}
	var problems errs.List
	checkPassword(&problems, "newPassword", newPassword)
	if err := problems.Err(); err != nil {
		return err
	}
	// Checked before the password is hashed, which is costly. redeem checks again.
	if err := s.requireToken(ctx, token, resetPassword); err != nil {
		return err
	}
	hash, err := s.hashPassword(ctx, newPassword, from)
	if err != nil {
		return err
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		redeemed, err := redeem(ctx, tx, token, resetPassword)
		if err != nil {
			return err
		}
		u, err := lockedUser(ctx, tx, redeemed.UserID)
		if err != nil {
			return err
		}
		if err := s.setPassword(ctx, tx, u.ID, hash); err != nil {
			return err
		}
		if u.EmailVerifiedAt == nil {
			if err := setVerified(ctx, tx, u.ID); err != nil {
				return err
			}
		}
		if err := s.audit(ctx, tx, passwordReset, &u.ID, nil, from); err != nil {
			return err
		}
		if err := s.opts.Mail.Enqueue(ctx, tx, noticeMail(mail.PasswordChanged, u)); err != nil {
			return err
		}
		_, err = s.revokeAll(ctx, tx, u.ID, nil, from)
		return err
	})
}

// RequestEmailVerification mails another link to the actor's address, unless it is verified.
func (s *Service) RequestEmailVerification(ctx context.Context, actor model.Actor) error {
	if err := s.allow(ctx, "verification of "+actor.UserID.String(), mailByAccount); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		u, err := lockedUser(ctx, tx, actor.UserID) // for the reason in RequestPasswordReset
		if err != nil || u.EmailVerifiedAt != nil {
			return err
		}
		return s.sendVerification(ctx, tx, u)
	})
}

func (s *Service) sendVerification(ctx context.Context, tx *store.Tx, u *model.User) error {
	token, err := s.issue(ctx, tx, true, verifyEmail, u.ID, nil, verifyTTL)
	if err != nil {
		return err
	}
	return s.opts.Mail.Enqueue(ctx, tx, s.linkMail(mail.VerifyEmail, u.Email, u, verifyPage, token))
}

// VerifyEmail marks an address as verified with the token from the mail to it: the user's own, or
// the one that they gave to ChangeEmail, which then becomes their own.
func (s *Service) VerifyEmail(ctx context.Context, token string, from Client) error {
	if err := s.allow(ctx, "token from "+from.Network(), tokenByAddress); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		redeemed, err := redeem(ctx, tx, token, verifyEmail, changeEmail)
		if err != nil {
			return err
		}
		act := emailVerified
		if redeemed.Email != nil {
			act = emailChanged
			_, err := tx.NewUpdate().Model((*model.User)(nil)).
				Set("email = ?", *redeemed.Email).Set("email_key = ?", text.Fold(*redeemed.Email)).
				Where("id = ?", redeemed.UserID).Exec(ctx)
			if store.UniqueEmail.BrokenBy(err) {
				return errs.Input(errs.Taken, "token",
					"Another account has taken this e-mail address since the link was sent.")
			}
			if err != nil {
				return err
			}
			// Links in the old mailbox must no longer work.
			if err := s.invalidate(ctx, tx, redeemed.UserID, verifyEmail,
				resetPassword); err != nil {
				return err
			}
		}
		if err := setVerified(ctx, tx, redeemed.UserID); err != nil {
			return err
		}
		return s.audit(ctx, tx, act, &redeemed.UserID, nil, from)
	})
}

func setVerified(ctx context.Context, tx *store.Tx, id model.UserID) error {
	_, err := tx.NewUpdate().Model((*model.User)(nil)).Set("email_verified_at = ?", tx.Now).
		Where("id = ?", id).Exec(ctx)
	return err
}

// setPassword replaces a password, and invalidates the links that were requested under the old one.
func (s *Service) setPassword(
	ctx context.Context, tx *store.Tx, id model.UserID, hash string,
) error {
	if err := s.invalidate(ctx, tx, id, resetPassword, changeEmail); err != nil {
		return err
	}
	_, err := tx.NewUpdate().Model((*model.Credentials)(nil)).
		Set("password_hash = ?", hash).Set("updated_at = ?", tx.Now).Where("user_id = ?", id).
		Exec(ctx)
	return err
}

// lockedUser is userByID, and locks the account, so that it is not removed before the transaction
// ends.
func lockedUser(ctx context.Context, tx *store.Tx, id model.UserID) (*model.User, error) {
	if err := tx.Lock(ctx, (*model.User)(nil), "id = ?", id); err != nil {
		return nil, err
	}
	return userByID(ctx, tx, id)
}

var errPasswordChanged = errs.New(errs.Unauthenticated,
	"The password has just been changed. Try again.")

// checkedUser is lockedUser for a user whose password was checked before the transaction, against
// this hash. It returns errPasswordChanged if the hash is no longer the user's: the password may
// have been changed to lock out this very client.
//
// It runs the same statements if there is no such account, because Login must not reveal that.
func checkedUser(
	ctx context.Context, tx *store.Tx, id model.UserID, hash string,
) (*model.User, error) {
	u, gone := lockedUser(ctx, tx, id)
	if gone != nil && !errors.Is(gone, errSessionEnded) {
		return nil, gone
	}
	same, err := tx.NewSelect().Model((*model.Credentials)(nil)).
		Where("user_id = ?", id).Where("password_hash = ?", hash).Exists(ctx)
	switch {
	case err != nil:
		return nil, err
	case gone != nil:
		return nil, gone
	case !same:
		return nil, errPasswordChanged
	}
	return u, nil
}

// userByID returns the user, or UNAUTHENTICATED if the account has been removed. It is for the
// actor, and for the user of a token that was just redeemed.
func userByID(ctx context.Context, tx *store.Tx, id model.UserID) (*model.User, error) {
	u := new(model.User)
	err := tx.NewSelect().Model(u).Where("u.id = ?", id).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errSessionEnded
	}
	return u, err
}
