package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrReadOnly is returned by CheckWritable.
var ErrReadOnly = errors.New("the database is read-only")

// CheckWritable returns an error if the database does not answer. The error wraps ErrReadOnly if
// the database answers and takes no writes: a PostgreSQL standby, default_transaction_read_only,
// several hosts without a primary, or a SQLite file that could not be written the last time.
//
// It costs one round trip on PostgreSQL. On SQLite it reads, and writes only after a write has
// failed.
func (db *DB) CheckWritable(ctx context.Context) error {
	if db.postgres {
		var readOnly bool
		err := db.readPostgres(ctx, "SELECT current_setting('transaction_read_only')::bool", nil,
			func(r rows, _ []string) error {
				for r.Next() {
					if err := r.Scan(&readOnly); err != nil {
						return err
					}
				}
				return r.Err()
			})
		switch {
		case err == nil && readOnly:
			return ErrReadOnly
		// of several hosts, those that answer refuse writes
		case errors.Is(err, pgconn.ErrReadOnlyConnection),
			errors.Is(err, pgconn.ErrStandbyConnection):
			return errors.Join(ErrReadOnly, err)
		}
		return err
	}
	if _, err := db.NewSelect().ColumnExpr("1").Exec(ctx); err != nil {
		return err
	}
	if !db.lastWrite.failed.Load() {
		return nil
	}
	if err := db.tryToWrite(ctx); err != nil {
		return errors.Join(ErrReadOnly, err)
	}
	db.lastWrite.succeeded(ctx)
	return nil
}

// tryToWrite writes a number into the file's header that is there already.
func (db *DB) tryToWrite(ctx context.Context) error {
	return db.RunInTx(ctx, &sql.TxOptions{}, func(ctx context.Context, tx bun.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
}

// lastWrite records that a write to a SQLite file failed because of the file or its disk, until
// CheckWritable can write, and logs both for the operator. It is a hook of all of Bun's statements.
type lastWrite struct {
	failed atomic.Bool
	path   string
	log    *slog.Logger
}

// BeforeQuery implements bun.QueryHook.
func (w *lastWrite) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	return ctx
}

// AfterQuery implements bun.QueryHook.
func (w *lastWrite) AfterQuery(ctx context.Context, event *bun.QueryEvent) {
	if event.Err != nil && isUnwritable(event.Err) && !w.failed.Swap(true) {
		w.log.ErrorContext(ctx, "the SQLite file cannot be written; clients are asked to try again",
			"file", w.path, "reason", unwritableReason(event.Err), "error", event.Err)
	}
}

func (w *lastWrite) succeeded(ctx context.Context) {
	if w.failed.Swap(false) {
		w.log.InfoContext(ctx, "the SQLite file can be written again", "file", w.path)
	}
}

// unwritableReason describes what the operator has to look at.
func unwritableReason(err error) string {
	liteErr, _ := errors.AsType[*sqlite.Error](err) // isUnwritable has found one
	switch liteErr.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return "the disk is full"
	case sqlite3.SQLITE_READONLY:
		return "the file is read-only, or was moved or replaced while it was open"
	default:
		return "the disk fails, or its file system is read-only"
	}
}
