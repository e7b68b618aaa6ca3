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

// fileURI returns the URI of an existing SQLite file.
func fileURI(path string, pragmas []string) string {
	return (&url.URL{
		Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(),
		RawQuery: url.Values{"mode": {"rw"}, "_pragma": pragmas}.Encode(),
	}).String()
}

// openFile opens an existing SQLite file on one connection.
func openFile(path string, pragmas ...string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", fileURI(path, pragmas))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// pagesInStep is how many pages are copied before the end of the context is noticed: 4 MB.
const pagesInStep = 1000

// copySQLite copies the database of a SQLite file into an empty file.
//
// It uses SQLite's online backup, inside a transaction that reads. So all steps copy the same
// snapshot, as any reader would see it, and no writer waits; without the transaction, each write of
// another process would make the copy start again. VACUUM INTO does the same, and takes more time
// from writers: see docs/backup.md.
func copySQLite(ctx context.Context, path, partial string) (f Figures, err error) {
	if _, err := os.Stat(path); err != nil {
		return f, fmt.Errorf("there is no database to back up: %w", err)
	}
	lock, err := store.LockSQLite(path, false)
	if errors.Is(err, store.ErrLocked) {
		return f,
			fmt.Errorf("%s is being replaced by parley restore: try again when that has ended",
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
	if err := copyPages(ctx, from, partial); err != nil {
		return f, fmt.Errorf("copy %s: %w", path, err)
	}
	// The header of the copy says that there is a -wal file.
	if err := closeWAL(ctx, partial); err != nil {
		return f, err
	}
	to, err := openFile(partial, "query_only(1)")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return readFigures(ctx, bun.NewDB(to, sqlitedialect.New()))
}

// pageCopier is a connection of the driver.
type pageCopier interface {
	NewBackup(to string) (*sqlite.Backup, error)
}

// copyPages copies one snapshot of a database into an empty file.
func copyPages(ctx context.Context, from *sql.DB, to string) (err error) {
	conn, err := from.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	defer func() {
		_, e := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		err = errors.Join(err, e)
	}()
	var tables int
	if err := conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").
		Scan(&tables); err != nil { // the snapshot is that of the first read
		return err
	}
	return conn.Raw(func(driverConn any) (err error) {
		copier, ok := driverConn.(pageCopier)
		if !ok {
			return errors.New("the driver of SQLite cannot copy pages")
		}
		pages, err := copier.NewBackup(fileURI(to, nil))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, pages.Finish()) }()
		for more := true; more; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if more, err = pages.Step(pagesInStep); err != nil {
				return err
			}
		}
		return nil
	})
}

// requireTables returns an error if a SQLite database is not one of Parley.
func requireTables(ctx context.Context, db bun.IDB, path string) error {
	n, err := db.NewSelect().TableExpr("sqlite_schema").Where("type = 'table'").
		Where("name IN (?)", bun.List([]string{
			"bun_migrations", "users", "conversations", "conversation_members", "messages",
			"events",
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
