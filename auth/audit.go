package auth

import (
	"context"
	"log/slog"
	"time"

	"parley/model"
	"parley/store"
)

// action is what the audit log calls what happened.
type action string

const (
	registered       action = "registered"
	loggedIn         action = "logged_in"
	loginFailed      action = "login_failed"
	loggedOut        action = "logged_out"
	sessionRevoked   action = "session_revoked"
	refreshReused    action = "refresh_token_reused"
	passwordChanged  action = "password_changed"
	passwordWrong    action = "password_wrong"
	resetRequested   action = "password_reset_requested"
	passwordReset    action = "password_reset"
	emailChangeAsked action = "email_change_requested"
	emailChanged     action = "email_changed"
	emailVerified    action = "email_verified"
	accountDeleted   action = "account_deleted"
)

// auditKept is how long the audit log goes back.
const auditKept = 365 * 24 * time.Hour

// audit records what happened, in the transaction in which it did: in the table with where it came
// from, and in the log without, because an address is personal data. An account that is named must
// be locked (lockedUser): one that is being removed must not come back into the log.
func (s *Service) audit(
	ctx context.Context, tx *store.Tx, what action, user *model.UserID, session *model.SessionID, from Client,
) error {
	return s.auditWhen(ctx, tx, true, what, user, session, from)
}

// auditWhen is audit if stored is true, and otherwise runs its statement without recording
// anything.
func (s *Service) auditWhen(
	ctx context.Context, tx *store.Tx, stored bool, what action, user *model.UserID, session *model.SessionID, from Client,
) error {
	entry := &model.AuditEntry{
		ID: model.NewAuditID(), At: tx.Now, Action: string(what), UserID: user, SessionID: session,
		IP: optional(from.IP, maxUserAgent), UserAgent: optional(from.UserAgent, maxUserAgent),
	}
	if err := tx.InsertWhen(ctx, stored, entry, ""); err != nil || !stored {
		return err
	}
	attrs := []slog.Attr{slog.String("action", string(what))}
	if user != nil {
		attrs = append(attrs, slog.String("user", user.String()))
	}
	if session != nil {
		attrs = append(attrs, slog.String("session", session.String()))
	}
	tx.AfterCommit(func() { s.opts.Log.LogAttrs(ctx, slog.LevelInfo, "account", attrs...) })
	return nil
}
