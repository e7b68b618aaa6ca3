package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// readSQLite needs no retry after migrations: SQLite prepares stale statements again by itself.
func (db *DB) readSQLite(
	ctx context.Context, st *statement, args []any, scan func(rows, []string) error,
) (err error) {
	//nolint:sqlclosecheck // closed with the database
	prepared, err := st.prepareOn(ctx, db.readers)
	if err != nil {
		return err
	}
	values := make([]any, len(args))
	for i, arg := range args {
		if values[i], err = sqliteArgument(arg); err != nil {
			return err
		}
	}
	r, err := prepared.QueryContext(ctx, values...) //nolint:rowserrcheck // scan checks it
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, r.Close()) }()
	columns, err := r.Columns()
	if err != nil {
		return err
	}
	return scan(r, columns)
}

// prepareOn prepares the statement the first time. The pool prepares it on its other connections as
// it uses them.
func (st *statement) prepareOn(ctx context.Context, pool *sql.DB) (*sql.Stmt, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.prepared == nil {
		prepared, err := pool.PrepareContext(ctx, st.text)
		if err != nil {
			return nil, err
		}
		st.prepared = prepared
	}
	return st.prepared, nil
}

// sqliteArgument converts an argument that the driver would not write as Bun does: a list of ids
// becomes JSON for json_each.
func sqliteArgument(arg any) (any, error) {
	switch arg := arg.(type) {
	case [][16]byte:
		list := make([]string, len(arg))
		for i, id := range arg {
			list[i] = uuid.UUID(id).String()
		}
		text, err := json.Marshal(list)
		return string(text), err
	case time.Time:
		return SQLiteTime(arg), nil
	}
	return arg, nil
}
