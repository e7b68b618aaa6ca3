package store

import (
	"context"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// SomeAtOnce is how many rows Some picks at most. A statement that changes so many takes a few
// milliseconds, even if each row is in a full-text index.
const SomeAtOnce = 200

// Some narrows a condition to SomeAtOnce of the rows that meet it. A change of any number of rows
// is made of statements with it, each in a transaction of its own. So other transactions run in
// between: SQLite has one writer, and a statement that takes seconds would block all of them.
func Some(postgres bool, table, where string, args ...any) schema.QueryWithArgs {
	args = append([]any{bun.Ident(table)}, args...)
	if postgres {
		return bun.SafeQuery("ctid = ANY (ARRAY(SELECT ctid FROM ? WHERE "+where+" LIMIT ?))",
			append(args, SomeAtOnce)...)
	}
	return bun.SafeQuery("rowid IN (SELECT rowid FROM ? WHERE "+where+" LIMIT ?)",
		append(args, SomeAtOnce)...)
}

// DeleteInBatches deletes all rows of a table that meet a condition, SomeAtOnce in each
// transaction.
func (db *DB) DeleteInBatches(ctx context.Context, table, where string, args ...any) error {
	for {
		res, err := db.NewDelete().Table(table).
			Where("?", Some(db.postgres, table, where, args...)).Exec(ctx)
		if err != nil {
			return Error(err)
		}
		if n, err := res.RowsAffected(); err != nil || n < SomeAtOnce {
			return Error(err)
		}
	}
}

// DeleteSome deletes SomeAtOnce of the rows of a table that meet a condition, or all if there are
// fewer, and returns how many it deleted.
func (tx *Tx) DeleteSome(ctx context.Context, table, where string, args ...any) (int64, error) {
	res, err := tx.NewDelete().Table(table).Where("?", Some(tx.postgres, table, where, args...)).
		Exec(ctx)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// UpdateSome is DeleteSome for an update. A row with the new values must no longer meet the
// condition.
func (tx *Tx) UpdateSome(
	ctx context.Context, table, set, where string, args ...any,
) (int64, error) {
	res, err := tx.NewUpdate().Table(table).Set(set).
		Where("?", Some(tx.postgres, table, where, args...)).Exec(ctx)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
