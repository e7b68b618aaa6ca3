package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
)

// Tx is a transaction, with the one time at which everything in it happens.
type Tx struct {
	bun.Tx
	Now      time.Time // UTC, cut to microseconds
	postgres bool
	after    []func()
}

// Postgres reports whether this is PostgreSQL, for the few statements that differ.
func (tx *Tx) Postgres() bool { return tx.postgres }

// AfterCommit has fn run once the transaction is in, in the order of the calls; never, when it
// fails. What others are told about a change waits here, because before the commit there is nothing
// to tell.
func (tx *Tx) AfterCommit(fn func()) { tx.after = append(tx.after, fn) }

// Lock keeps others from changing the rows, and from referring to them, until the transaction ends.
// On SQLite nobody else writes then in any case.
func (tx *Tx) Lock(ctx context.Context, table any, where string, args ...any) error {
	if !tx.postgres {
		return nil
	}
	_, err := tx.NewSelect().Model(table).ColumnExpr("1").Where(where, args...).For("UPDATE").Exec(ctx)
	return err
}

// maxTries bounds how often a transaction that the database gave up in favour of another is run
// again.
const maxTries = 5

// InTx runs fn in a transaction: committed when fn returns nil, rolled back when it returns an
// error or panics. Where the database gave the transaction up in favour of another (a deadlock, or
// what it refers to was removed meanwhile), nothing of it is stored, and fn runs again from the
// start; so fn must not change anything but what its transaction, and its own variables, hold.
// Errors of fn come back as they are; UNAVAILABLE where the database cannot be reached or the
// commit's outcome is unknown.
//
// On PostgreSQL such transactions have half of the connections at most; the next waits. Whatever
// they themselves wait for, the other half is there for reads and for InPgxTx. A transaction must
// not begin another.
func (db *DB) InTx(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	leave, err := db.takeSlot(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return untilSettled(func() error { return db.tryTx(ctx, fn) })
}

// untilSettled runs a transaction again that the database gave up in favour of another, or of which
// it did not know a prepared statement any more.
func untilSettled(try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil || n == maxTries || !gaveWay(err) && !outdated(err) {
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
		if gaveWay(err) {
			return err
		}
		return unknown(err)
	}
	done = true
	for _, fn := range tx.after {
		fn()
	}
	return nil
}

// ErrUnknown marks that a commit was asked for, and may or may not have been done.
var ErrUnknown = errors.New("the commit's outcome is unknown")

func unknown(err error) error {
	return errs.Wrap(errors.Join(ErrUnknown, err), errs.Unavailable, "The change may or may not be stored. Try again.")
}
