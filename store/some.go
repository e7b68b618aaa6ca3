package store

import (
	"context"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// SomeAtOnce is how many rows Some picks. With it a statement takes a few milliseconds, also where
// each row is in a full-text index.
const SomeAtOnce = 200

// Some is a condition on the rows of a table: SomeAtOnce, or fewer, of those that meet another
// condition. A statement that may concern any number of rows is run with it again and again, each
// time in a transaction of its own. So others write in between: on SQLite there is one writer, and
// whoever has it for seconds stops everybody.
func Some(postgres bool, table, where string, args ...any) schema.QueryWithArgs {
	args = append([]any{bun.Ident(table)}, args...)
	if postgres {
		return bun.SafeQuery("ctid = ANY (ARRAY(SELECT ctid FROM ? WHERE "+where+" LIMIT ?))", append(args, SomeAtOnce)...)
	}
	return bun.SafeQuery("rowid IN (SELECT rowid FROM ? WHERE "+where+" LIMIT ?)", append(args, SomeAtOnce)...)
}

// DeleteInBatches deletes all rows of a table that meet a condition, some in each transaction.
func (db *DB) DeleteInBatches(ctx context.Context, table, where string, args ...any) error {
	for {
		res, err := db.NewDelete().Table(table).Where("?", Some(db.postgres, table, where, args...)).Exec(ctx)
		if err != nil {
			return Error(err)
		}
		if n, err := res.RowsAffected(); err != nil || n < SomeAtOnce {
			return Error(err)
		}
	}
}

// DeleteSome deletes some of the rows of a table that meet a condition, and returns how many those
// were.
func (tx *Tx) DeleteSome(ctx context.Context, table, where string, args ...any) (int64, error) {
	res, err := tx.NewDelete().Table(table).Where("?", Some(tx.postgres, table, where, args...)).Exec(ctx)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// UpdateSome sets columns of some of the rows of a table that meet a condition, and returns how
// many those were. With the new values a row must not meet the condition any more.
func (tx *Tx) UpdateSome(ctx context.Context, table, set, where string, args ...any) (int64, error) {
	res, err := tx.NewUpdate().Table(table).Set(set).Where("?", Some(tx.postgres, table, where, args...)).Exec(ctx)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
