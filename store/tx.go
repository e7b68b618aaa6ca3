package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/uptrace/bun"
)

// Tx is a transaction. Everything in it happens at one time, Now.
type Tx struct {
	bun.Tx
	Now      time.Time // UTC, cut to microseconds
	postgres bool
	after    []func()
}

// Postgres reports whether this is PostgreSQL, for the statements that differ.
func (tx *Tx) Postgres() bool { return tx.postgres }

// AfterCommit registers a function that runs after the transaction is committed, and not if it
// fails. Functions run in the order in which they were registered. Publishing a change belongs
// here, because before the commit nobody can read it.
func (tx *Tx) AfterCommit(fn func()) { tx.after = append(tx.after, fn) }

// Lock locks rows until the transaction ends: other transactions can neither change nor refer to
// them. On SQLite it does nothing, because there no other transaction runs.
func (tx *Tx) Lock(ctx context.Context, table any, where string, args ...any) error {
	if !tx.postgres {
		return nil
	}
	_, err := tx.NewSelect().Model(table).ColumnExpr("1").Where(where, args...).For("UPDATE").
		Exec(ctx)
	return err
}

// maxTries is how often a transaction is tried.
const maxTries = 5

// InTx runs fn in a transaction, which is committed if fn returns nil, and rolled back if fn
// returns an error or panics. If the database rolls it back because of another transaction (a
// deadlock, or a row that it refers to was deleted meanwhile), fn runs again. So fn must change
// nothing outside of the transaction except variables that it sets each time.
//
// InTx returns the errors of fn as they are. The error is UNAVAILABLE if the database cannot be
// reached, and wraps ErrUnknown if the outcome of the commit is unknown.
//
// On PostgreSQL these transactions use at most half of the connections, and others wait. The rest
// is for reads and for InPgxTx, even if all transactions wait for locks. A transaction must not
// begin another.
func (db *DB) InTx(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	release, err := db.takeSlot(ctx)
	if err != nil {
		return err
	}
	defer release()
	return withRetries(func() error { return db.tryTx(ctx, fn) })
}

// withRetries tries a transaction again after a serialization failure or a stale plan.
func withRetries(try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil || n == maxTries || !isSerializationFailure(err) && !isStalePlan(err) {
			return err
		}
	}
}

func (db *DB) tryTx(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) (err error) {
	btx, err := db.BeginTx(ctx, &sql.TxOptions{})
	if err != nil {
		return Error(err)
	}
	tx := &Tx{Tx: btx, Now: db.Now(), postgres: db.postgres}
	done := false
	defer func() {
		if !done { // an error, or a panic on its way up
			_ = btx.Rollback()
		}
	}()
	if err := fn(ctx, tx); err != nil {
		return Error(err)
	}
	if err := btx.Commit(); err != nil {
		if isSerializationFailure(err) {
			return Error(err)
		}
		return unknown(err)
	}
	done = true
	for _, fn := range tx.after {
		fn()
	}
	return nil
}

// ErrUnknown marks that a commit was sent, and that its outcome is unknown.
var ErrUnknown = errors.New("the commit's outcome is unknown")

func unknown(err error) error {
	return Unavailable(errors.Join(ErrUnknown, err),
		"The change may or may not be stored. Try again.")
}
