package auth

import (
	"context"
	"database/sql"
	"errors"

	"parley/errs"
	"parley/mail"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/text"
)

const maxAbout = 500

// UpdateProfile is the input of Service.UpdateProfile. A nil field stays as it is. A blank display
// name or about removes the current one.
type UpdateProfile struct {
	Nickname    *string
	DisplayName *string
	About       *string
}

// UpdateProfile changes how others see the actor.
func (s *Service) UpdateProfile(
	ctx context.Context, actor model.Actor, in UpdateProfile,
) (u *model.User, err error) {
	if err := s.opts.Accounts.Take(ctx, actor.UserID, ratelimit.Profile.Times(1)); err != nil {
		return nil, err
	}
	err = s.db.InQueuedTx(ctx, actor.UserID, func(ctx context.Context, tx *store.Tx) error {
		if u, err = lockedUser(ctx, tx, actor.UserID); err != nil {
			return err
		}
		var problems errs.List
		if in.Nickname != nil {
			u.Nickname = checkNickname(&problems, "nickname", *in.Nickname)
			u.NicknameKey = text.Fold(u.Nickname)
		}
		if in.DisplayName != nil {
			u.DisplayName = checkDisplayName(&problems, "displayName", *in.DisplayName)
		}
		if in.About != nil {
			u.About = checkAbout(&problems, "about", *in.About)
		}
		if err := problems.Err(); err != nil {
			return err
		}
		u.SearchKey = SearchKey(u)
		_, err := tx.NewUpdate().Model(u).
			Column("nickname", "nickname_key", "display_name", "about", "search_key").WherePK().
			Exec(ctx)
		if store.UniqueNickname.BrokenBy(err) {
			return errs.Input(errs.Taken, "nickname", nicknameTaken)
		}
		return err
	})
	return u, err
}

func checkAbout(problems *errs.List, path, about string) *string {
	about = text.Clean(about)
	switch problem := text.Problem(about, true); {
	case about == "":
		return nil
	case problem != "":
		problems.Add(errs.Invalid, path, "The text %s.", problem)
	case text.Len(about) > maxAbout:
		problems.Add(errs.TooLong, path, "The text has at most %d characters.", maxAbout)
	}
	return &about
}

// UpdateSettings is the input of Service.UpdateSettings. A nil field stays as it is.
type UpdateSettings struct {
	ShowPresence     *bool
	SendReadReceipts *bool
}

// UpdateSettings changes the actor's privacy settings.
func (s *Service) UpdateSettings(
	ctx context.Context, actor model.Actor, in UpdateSettings,
) (u *model.User, err error) {
	if err := s.opts.Accounts.Take(ctx, actor.UserID, ratelimit.Profile.Times(1)); err != nil {
		return nil, err
	}
	err = s.db.InQueuedTx(ctx, actor.UserID, func(ctx context.Context, tx *store.Tx) error {
		if u, err = lockedUser(ctx, tx, actor.UserID); err != nil {
			return err
		}
		before := *u
		if in.ShowPresence != nil {
			u.ShowPresence = *in.ShowPresence
		}
		if in.SendReadReceipts != nil {
			u.SendReadReceipts = *in.SendReadReceipts
		}
		if u.ShowPresence == before.ShowPresence && u.SendReadReceipts == before.SendReadReceipts {
			return nil
		}
		if s.opts.OnSettings != nil {
			s.opts.OnSettings(tx, u.ID)
		}
		_, err := tx.NewUpdate().Model(u).Column("show_presence", "send_read_receipts").WherePK().
			Exec(ctx)
		return err
	})
	return u, err
}

// ChangePassword is the input of Service.ChangePassword.
type ChangePassword struct {
	OldPassword string
	NewPassword string
}

// ChangePassword replaces the actor's password, and ends their other sessions.
func (s *Service) ChangePassword(
	ctx context.Context, actor model.Actor, in ChangePassword, from Client,
) error {
	var problems errs.List
	checkPassword(&problems, "newPassword", in.NewPassword)
	if err := problems.Err(); err != nil {
		return err
	}
	old, err := s.requirePassword(ctx, actor, "oldPassword", in.OldPassword, from)
	if err != nil {
		return err
	}
	hash, err := s.hashPassword(ctx, in.NewPassword, from)
	if err != nil {
		return err
	}
	return s.db.InQueuedTx(ctx, actor.UserID, func(ctx context.Context, tx *store.Tx) error {
		u, err := checkedUser(ctx, tx, actor.UserID, old)
		if err != nil {
			return err
		}
		if err := s.setPassword(ctx, tx, u.ID, hash); err != nil {
			return err
		}
		if err := s.audit(ctx, tx, passwordChanged, &u.ID, &actor.SessionID, from); err != nil {
			return err
		}
		if err := s.opts.Mail.Enqueue(ctx, tx, noticeMail(mail.PasswordChanged, u)); err != nil {
			return err
		}
		_, err = s.revokeAll(ctx, tx, u.ID, &actor.SessionID, from)
		return err
	})
}

// requirePassword checks the actor's password, so that an open session alone is not enough for the
// operation. It returns the hash that it checked, for checkedUser.
func (s *Service) requirePassword(
	ctx context.Context, actor model.Actor, path, password string, from Client,
) (hash string, err error) {
	if err := s.allow(ctx, "password in "+actor.SessionID.String(), passwordBySession); err != nil {
		return "", err
	}
	err = s.db.NewSelect().Model((*model.Credentials)(nil)).Column("password_hash").
		Where("user_id = ?", actor.UserID).Scan(ctx, &hash)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", store.Error(err)
	}
	if hash == "" { // the account has just been removed
		return "", errSessionEnded
	}
	matches, err := s.passwordMatches(ctx, password, hash, from)
	if err != nil {
		return "", err
	}
	if !matches {
		err := s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
			if _, err := lockedUser(ctx, tx, actor.UserID); err != nil {
				return err
			}
			return s.audit(ctx, tx, passwordWrong, &actor.UserID, &actor.SessionID, from)
		})
		if err != nil {
			return "", err
		}
		return "", errs.Input(errs.InvalidCredentials, path, "The password is wrong.")
	}
	return hash, nil
}

// ChangeEmail is the input of Service.ChangeEmail.
type ChangeEmail struct {
	NewEmail string
	Password string
}

// ChangeEmail mails a link to the new address and a notice to the old one. The new address becomes
// the actor's when the link is followed (VerifyEmail).
func (s *Service) ChangeEmail(
	ctx context.Context, actor model.Actor, in ChangeEmail, from Client,
) error {
	var problems errs.List
	email := checkEmail(&problems, "newEmail", in.NewEmail)
	if err := problems.Err(); err != nil {
		return err
	}
	hash, err := s.requirePassword(ctx, actor, "password", in.Password, from)
	if err != nil {
		return err
	}
	if err := s.allow(ctx, "change of "+actor.UserID.String(), mailByAccount); err != nil {
		return err
	}
	suppressed, err := s.countAttempt(ctx, email)
	if err != nil {
		return err
	}
	return s.db.InQueuedTx(ctx, actor.UserID, func(ctx context.Context, tx *store.Tx) error {
		u, err := checkedUser(ctx, tx, actor.UserID, hash)
		if err != nil {
			return err
		}
		other := new(model.User)
		err = tx.NewSelect().Model(other).Where("u.email_key = ?", text.Fold(email)).
			Where("u.id <> ?", u.ID).Scan(ctx)
		taken := err == nil
		if taken && !s.opts.ConcealEmails {
			return errs.Input(errs.Taken, "newEmail", emailTaken)
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := s.audit(ctx, tx, emailChangeAsked, &u.ID, &actor.SessionID, from); err != nil {
			return err
		}
		if err := s.opts.Mail.Enqueue(ctx, tx, noticeMail(mail.EmailChanging, u)); err != nil {
			return err
		}
		// If the address is taken, the same statements run: a pending link for another address is
		// invalidated in both cases.
		token, err := s.issue(ctx, tx, !taken, changeEmail, u.ID, &email, verifyTTL)
		if err != nil {
			return err
		}
		m := s.linkMail(mail.ChangeEmail, email, u, verifyPage, token)
		if taken { // only its owner is informed
			m = attemptMail(other, suppressed)
		}
		return s.opts.Mail.Enqueue(ctx, tx, m)
	})
}
