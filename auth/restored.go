package auth

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"parley/model"
	"parley/store"
)

// An AuditLine is an entry of the audit log as it is in the structured log.
type AuditLine struct {
	At      time.Time
	Action  string
	User    *model.UserID
	Session *model.SessionID
}

// AuditLog is the message of those log lines.
const AuditLog = "audit"

// Undone is what a restore has undone.
type Undone string

const (
	NothingUndone  Undone = ""
	SessionUndone  Undone = "session"  // that was ended is live again
	PasswordUndone Undone = "password" // that was replaced works again
	EmailUndone    Undone = "email"    // the account has the address that was replaced
)

// CanBeUndone reports whether UndoneBy looks for the changes of an action.
func CanBeUndone(name string) bool {
	switch action(name) { //nolint:exhaustive // the others change nothing that a restore undoes
	case loggedOut, sessionRevoked, refreshReused, passwordChanged, passwordReset, emailChanged:
		return true
	}
	return false
}

// lineDelay is how much later than its entry a log line may be.
const lineDelay = 30 * time.Second

// UndoneBy returns what a restore has undone of the change that a line of the log is about, if the
// database does not know the change.
func UndoneBy(ctx context.Context, db *store.DB, line AuditLine) (undone Undone, err error) {
	switch action(line.Action) { //nolint:exhaustive // as CanBeUndone says
	case loggedOut, sessionRevoked, refreshReused:
		if line.Session == nil {
			return NothingUndone, nil
		}
		is, err := db.NewSelect().Model((*model.Session)(nil)).Where("s.id = ?", *line.Session).
			ApplyQueryBuilder(live(db.Now())).Exists(ctx)
		return undoneIf(is, SessionUndone), store.Error(err)
	case passwordChanged, passwordReset:
		is, err := lacksEntry(ctx, db, line, passwordChanged, passwordReset)
		return undoneIf(is, PasswordUndone), err
	case emailChanged:
		is, err := lacksEntry(ctx, db, line, emailChanged)
		return undoneIf(is, EmailUndone), err
	}
	return NothingUndone, nil
}

func undoneIf(is bool, what Undone) Undone {
	if is {
		return what
	}
	return NothingUndone
}

// lacksEntry reports whether the account of a line exists, and the audit log has neither the entry
// of the line nor a later one with one of the actions.
func lacksEntry(
	ctx context.Context, db *store.DB, line AuditLine, actions ...action,
) (bool, error) {
	if line.User == nil {
		return false, nil
	}
	there, err := AccountExists(ctx, db, *line.User)
	if err != nil || !there {
		return false, err
	}
	var later []string
	err = db.NewSelect().Model((*model.AuditEntry)(nil)).Column("action").
		Where("user_id = ?", *line.User).Where("at > ?", line.At.UTC().Add(-lineDelay)).
		Scan(ctx, &later)
	known := slices.ContainsFunc(later,
		func(a string) bool { return slices.Contains(actions, action(a)) })
	return !known, store.Error(err)
}

// AccountExists reports whether there is an account that is not being removed.
func AccountExists(ctx context.Context, db *store.DB, id model.UserID) (bool, error) {
	there, err := db.NewSelect().Model((*model.User)(nil)).Where("u.id = ?", id).Exists(ctx)
	return there, store.Error(err)
}

// EndAgain ends a session that a restore has brought back. Running nodes close its connections
// within a second. It reports false if the session has ended or does not exist.
func EndAgain(
	ctx context.Context, db *store.DB, log *slog.Logger, id model.SessionID,
) (ended bool, err error) {
	s := &Service{db: db, opts: Options{Log: log}} // for the audit log
	err = db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		ended = false
		row, err := liveSecrets(ctx, tx, id)
		if err != nil || row == nil {
			return err
		}
		if _, err := lockedUser(ctx, tx, row.UserID); err != nil {
			if errors.Is(err, errSessionEnded) {
				return nil // the account is being removed
			}
			return err
		}
		if err := s.audit(ctx, tx, sessionRevoked, &row.UserID, &id, Client{}); err != nil {
			return err
		}
		ended = true
		return revoke(ctx, tx, []model.SessionID{id})
	})
	return ended && err == nil, err
}
