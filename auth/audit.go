package auth

import (
	"context"
	"log/slog"
	"time"

	"parley/model"
	"parley/store"
)

// action is the name of an event in the audit log.
type action string

const (
	registered       action = "registered"
	loggedIn         action = "logged_in"
	loginFailed      action = "login_failed"
	loggedOut        action = "logged_out"
	sessionRevoked   action = "session_revoked"
	refreshReused    action = "refresh_token_reused"
	refreshAhead     action = "refresh_token_ahead" // of the database: it was restored
	passwordChanged  action = "password_changed"
	passwordWrong    action = "password_wrong"
	resetRequested   action = "password_reset_requested"
	passwordReset    action = "password_reset"
	emailChangeAsked action = "email_change_requested"
	emailChanged     action = "email_changed"
	emailVerified    action = "email_verified"
	accountDeleted   action = "account_deleted"
)

// auditKept is how long entries stay in the audit log.
const auditKept = 365 * 24 * time.Hour

// audit adds an entry to the audit log, in the transaction of the change that it records, and logs
// it after the commit. The entry has the client's address and user agent; the log does not, because
// they are personal data.
//
// The account must be locked with lockedUser, so that no entry is written for one that is being
// removed.
func (s *Service) audit(
	ctx context.Context, tx *store.Tx, act action, user *model.UserID, session *model.SessionID,
	from Client,
) error {
	return s.auditWhen(ctx, tx, true, act, user, session, from)
}

// auditWhen is audit if stored is true, and otherwise runs its statement without storing an entry.
func (s *Service) auditWhen(
	ctx context.Context, tx *store.Tx, stored bool, act action, user *model.UserID,
	session *model.SessionID, from Client,
) error {
	entry := &model.AuditEntry{
		ID: model.NewAuditID(), At: tx.Now, Action: string(act), UserID: user, SessionID: session,
		IP: sanitize(from.IP), UserAgent: sanitize(from.UserAgent),
	}
	if err := tx.InsertWhen(ctx, stored, entry, ""); err != nil || !stored {
		return err
	}
	attrs := []slog.Attr{slog.String("action", string(act))}
	if user != nil {
		attrs = append(attrs, slog.String("user", user.String()))
	}
	if session != nil {
		attrs = append(attrs, slog.String("session", session.String()))
	}
	tx.AfterCommit(func() { s.opts.Log.LogAttrs(ctx, slog.LevelInfo, AuditLog, attrs...) })
	return nil
}
