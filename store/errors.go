package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"parley/errs"
)

// Constraint is a constraint of the database. An error of PostgreSQL has its name in it, an error
// of SQLite its columns.
type Constraint struct {
	postgres string
	sqlite   string
}

// The constraints whose violation a client can cause.
//
//nolint:gochecknoglobals // a constant table
var (
	UniqueEmail          = Constraint{"users_email_key_unique", "users.email_key"}
	UniqueNickname       = Constraint{"users_nickname_key_unique", "users.nickname_key"}
	UniqueIdempotencyKey = Constraint{
		"messages_idempotency_key_unique",
		"messages.conversation_id, messages.author_id, messages.idempotency_key",
	}
)

// BrokenBy reports whether err is a violation of this constraint.
func (c Constraint) BrokenBy(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.ConstraintName == c.postgres
	}
	if liteErr, ok := errors.AsType[*sqlite.Error](err); ok {
		if code := liteErr.Code(); code != sqlite3.SQLITE_CONSTRAINT_UNIQUE &&
			code != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY {
			return false
		}
		_, columns, _ := strings.Cut(liteErr.Error(), "UNIQUE constraint failed: ")
		columns, _, _ = strings.Cut(columns, " (") // the driver appends the code
		return columns == c.sqlite
	}
	return false
}

// isSerializationFailure reports whether the database rolled the transaction back because of
// another one, so that it should be tried again.
func isSerializationFailure(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch pgErr.Code {
	case "40001", // serialization_failure
		"40P01", // deadlock_detected
		// foreign_key_violation: fn read the row, which was then deleted; next time fn finds none
		"23503":
		return true
	}
	return false
}

const readOnlySQLTransaction = "25006" // SQLSTATE: a standby, or default_transaction_read_only

// Error gives err the code UNAVAILABLE if the database is the reason, not the request. It returns
// other errors as they are.
func Error(err error) error {
	if err == nil || !isUnavailable(err) {
		return err
	}
	if _, known := errors.AsType[*errs.Error](err); known {
		return err
	}
	return errs.Wrap(err, errs.Unavailable, "The database cannot be reached just now. Try again.")
}

func isUnavailable(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false // the request has ended
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		// idle_in_transaction_session_timeout: this node was frozen or cut off
		if pgErr.Code == "25P03" {
			return true
		}
		switch pgErr.Code[:2] {
		case "08", // connection exception
			"53", // insufficient resources
			"57": // operator intervention: shutting down, starting up
			return pgErr.Code != "57014" // query_canceled: the request has ended
		}
		return false
	}
	if liteErr, ok := errors.AsType[*sqlite.Error](err); ok {
		switch liteErr.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
			sqlite3.SQLITE_CANTOPEN:
			return true
		}
		return false
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	// The end of an idle connection is noticed only when it is used again.
	return errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}
