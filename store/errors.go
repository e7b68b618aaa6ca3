package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

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
	case serializationFailure, deadlockDetected,
		// foreign_key_violation: fn read the row, which was then deleted; next time fn finds none
		"23503":
		return true
	}
	return false
}

// SQLSTATEs of PostgreSQL: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	readOnlySQLTransaction          = "25006" // a standby, or default_transaction_read_only
	idleInTransactionSessionTimeout = "25P03"
	transactionTimeout              = "25P04"
	serializationFailure            = "40001"
	deadlockDetected                = "40P01"
	lockNotAvailable                = "55P03" // lock_timeout
	queryCanceled                   = "57014" // statement_timeout, or the request has ended
)

// firstRetryAfter is the least time after which a client is asked to try again.
const firstRetryAfter = time.Second

// Unavailable returns an error that asks the client to try again. The time after which to try is
// random, one to two seconds, so that the clients of an outage do not all come back at once.
func Unavailable(cause error, format string, args ...any) *errs.Error {
	e := errs.Wrap(cause, errs.Unavailable, format, args...)
	e.RetryAfter = firstRetryAfter + rand.N(firstRetryAfter)
	return e
}

// Error gives err the code UNAVAILABLE if the database is the reason, not the request, and a time
// after which to try again. It returns other errors as they are.
func Error(err error) error {
	if err == nil || !isUnavailable(err) {
		return err
	}
	if _, known := errors.AsType[*errs.Error](err); known {
		return err
	}
	e := Unavailable(err, "The database cannot be used just now. Try again.")
	if isUnwritable(err) { // until the operator does something
		e.RetryAfter *= 10
	}
	return e
}

func isUnavailable(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false // the request has ended
	}
	// It may wrap what a server answered, and the timeout for connecting looks like the end of the
	// request.
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return false // the request has ended
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return isUnavailableCode(pgErr.Code)
	}
	if liteErr, ok := errors.AsType[*sqlite.Error](err); ok {
		switch liteErr.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN:
			return true
		}
		return isUnwritable(err)
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	// The end of an idle connection is noticed only when it is used again.
	return errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// isUnavailableCode reports whether a SQLSTATE means that the same request may succeed later, or on
// another connection.
func isUnavailableCode(code string) bool {
	switch code {
	case readOnlySQLTransaction,
		// this node was frozen or cut off
		idleInTransactionSessionTimeout, transactionTimeout,
		// the retries of InTx were used up, or a standby cancelled the statement
		serializationFailure, deadlockDetected,
		lockNotAvailable:
		return true
	case queryCanceled:
		return false
	}
	switch code[:min(2, len(code))] {
	case "08", // connection exception
		"53", // insufficient resources: connections, memory, disk
		"57", // operator intervention: shutting down, starting up
		"58": // system error: a disk that fails
		return true
	}
	return false
}

// isUnwritable reports whether SQLite could not write its file: because of the file itself, a full
// disk, or one that fails.
func isUnwritable(err error) bool {
	liteErr, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	switch liteErr.Code() & 0xff {
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR:
		return true
	}
	return false
}
