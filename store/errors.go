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

// Constraint is a rule that the database itself holds. PostgreSQL names the rule it was broken by,
// SQLite the columns.
type Constraint struct {
	postgres string
	sqlite   string
}

// The rules whose breach means something to a person.
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

// BrokenBy reports whether err is the database's refusal to break this rule.
func (c Constraint) BrokenBy(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.ConstraintName == c.postgres
	}
	if liteErr, ok := errors.AsType[*sqlite.Error](err); ok {
		if code := liteErr.Code(); code != sqlite3.SQLITE_CONSTRAINT_UNIQUE && code != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY {
			return false
		}
		_, columns, _ := strings.Cut(liteErr.Error(), "UNIQUE constraint failed: ")
		columns, _, _ = strings.Cut(columns, " (") // the driver appends the code
		return columns == c.sqlite
	}
	return false
}

// gaveWay reports that the database rolled the transaction back in favour of another, and running
// it again is the cure.
func gaveWay(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch pgErr.Code {
	case "40001", // serialization_failure
		"40P01", // deadlock_detected
		// foreign_key_violation: it was there when fn looked; the next time fn sees that it is gone
		"23503":
		return true
	}
	return false
}

// Error gives err the code UNAVAILABLE where the database, not the request, is the reason; any
// other comes back as it is.
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
		return false // the request's own end
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		if pgErr.Code == "25P03" { // idle_in_transaction_session_timeout: this node was away
			return true
		}
		switch pgErr.Code[:2] {
		case "08", // connection exception
			"53", // insufficient resources
			"57": // operator intervention: shutting down, starting up
			return pgErr.Code != "57014" // query_canceled is the request's own end too
		}
		return false
	}
	if liteErr, ok := errors.AsType[*sqlite.Error](err); ok {
		switch liteErr.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
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
	// A connection that ended while it was idle is noticed only when it is used again.
	return errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}
