package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"parley/store"
)

// openFile opens an existing SQLite file on one connection.
func openFile(path string, pragmas ...string) (*sql.DB, error) {
	dsn := (&url.URL{
		Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(),
		RawQuery: url.Values{"mode": {"rw"}, "_pragma": pragmas}.Encode(),
	}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// copySQLite copies the database of a SQLite file into an empty file.
//
// VACUUM INTO reads one snapshot, as any reader does, so that it holds up no writer; docs/backup.md
// has figures. The copy has no free pages, and so nothing that was deleted. SQLite's online backup
// would start again whenever another process writes, unless it copied everything in one step.
func copySQLite(ctx context.Context, path, partial string) (f Figures, err error) {
	if _, err := os.Stat(path); err != nil {
		return f, fmt.Errorf("there is no database to back up: %w", err)
	}
	lock, err := store.LockSQLite(path, false)
	if errors.Is(err, store.ErrLocked) {
		return f, fmt.Errorf("%s is being replaced by parley restore: try again when that has ended",
			path)
	}
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	from, err := openFile(path, "busy_timeout(10000)", "synchronous(FULL)")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if err := requireTables(ctx, bun.NewDB(from, sqlitedialect.New()), path); err != nil {
		return f, err
	}
	if _, err := from.ExecContext(ctx, "VACUUM INTO ?", partial); err != nil {
		return f, fmt.Errorf("copy %s: %w", path, err)
	}
	to, err := openFile(partial, "query_only(1)")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return readFigures(ctx, bun.NewDB(to, sqlitedialect.New()))
}

// requireTables returns an error if a SQLite database is not one of Parley.
func requireTables(ctx context.Context, db bun.IDB, path string) error {
	n, err := db.NewSelect().TableExpr("sqlite_schema").Where("type = 'table'").
		Where("name IN (?)", bun.List([]string{
			"bun_migrations", "users", "conversations", "conversation_members", "messages", "events",
		})).Count(ctx)
	if err == nil && n < 6 {
		return fmt.Errorf("%s has no tables of Parley", path)
	}
	return err
}

// isCorrupt reports whether SQLite cannot read a file because it is damaged.
func isCorrupt(err error) bool {
	liteErr, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	code := liteErr.Code() & 0xff
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}

// isBusy reports whether another connection has a SQLite file open.
func isBusy(err error) bool {
	liteErr, ok := errors.AsType[*sqlite.Error](err)
	return ok && liteErr.Code()&0xff == sqlite3.SQLITE_BUSY
}
