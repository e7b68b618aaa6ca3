package store

import (
	"context"
	"database/sql"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
)

// InSnapshot runs fn in a transaction that only reads. All its statements see the database as it
// was at the first one, and no writer waits for it. It may take long: until it ends, SQLite keeps
// in the -wal file, and PostgreSQL in the tables, what others change meanwhile.
func (db *DB) InSnapshot(ctx context.Context, fn func(ctx context.Context, tx bun.Tx) error) error {
	on, opts := db.DB, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	if !db.postgres {
		// The pool of readers: a transaction of db.DB would be on the connection that writes.
		on, opts = bun.NewDB(db.readers, sqlitedialect.New()), &sql.TxOptions{ReadOnly: true}
	}
	return Error(on.RunInTx(ctx, opts, fn))
}
