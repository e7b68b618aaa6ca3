// Package store opens the database, PostgreSQL or SQLite by URL, and has the parts that are the
// same for all packages that use it: transactions with one time and with functions that run after
// the commit, prepared reads, the translation of driver errors, and pages of lists.
//
// # Concurrency
//
// A DB may be used by any number of goroutines. SQLite has one connection that writes, and
// transactions run on it one after the other. A step of a transaction that used the DB instead of
// the Tx would wait for itself, so steps take the Tx, or a bun.IDB if they also run outside of
// transactions. Reads outside of transactions have a pool of their own and never wait for the
// writer.
//
// Lock order: the queue of a row (InQueuedTx) → a slot (InTx) → locks in the database. A
// transaction may wait for each after those before it, never after those behind it. If its context
// ends while it waits, it releases what it has.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// DB is a PostgreSQL or SQLite database.
type DB struct {
	*bun.DB
	postgres bool
	now      func() time.Time

	readers    *sql.DB         // SQLite only: the connections that read
	statements sync.Map        // of Read: from statementKey to *statement
	hooks      []bun.QueryHook // for the statements of Read; Bun calls them for its own
	slots      chan struct{}   // holds a value for each open transaction; nil on SQLite
	connector  *pgxConnector   // nil on SQLite
	lastWrite  *lastWrite      // nil on PostgreSQL
	queues     queues
}

// DefaultMaxConns is the default of Options.MaxConns.
const DefaultMaxConns = 20

// DefaultMaxConnLifetime is the default of Options.MaxConnLifetime.
const DefaultMaxConnLifetime = 30 * time.Minute

// Options are the settings of Open. The zero value has defaults.
type Options struct {
	MaxConns int // connections to PostgreSQL; 0 means DefaultMaxConns
	// MaxConnLifetime is how long a connection to PostgreSQL is used before another one takes its
	// place; 0 means DefaultMaxConnLifetime.
	MaxConnLifetime time.Duration
	Now             func() time.Time // the clock of transactions; nil means the system's
	Log             *slog.Logger     // nil means slog.Default
}

// Open opens the database of a URL, "postgres://…" or "sqlite:PATH", and checks that it answers. If
// the SQLite file does not exist, Open makes it and its folder; only the owner may read them.
func Open(ctx context.Context, databaseURL string, opts Options) (*DB, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	log := cmp.Or(opts.Log, slog.Default())
	db := &DB{now: opts.Now}
	scheme, rest, _ := strings.Cut(databaseURL, ":")
	var err error
	switch scheme {
	case "postgres", "postgresql":
		db.postgres = true
		db.DB, db.connector, err = openPostgres(databaseURL, opts, log)
	case "sqlite":
		if db.DB, db.readers, err = openSQLite(ctx, rest, log); err == nil {
			db.lastWrite = &lastWrite{path: strings.TrimPrefix(rest, "//"), log: log}
			db.DB = db.WithQueryHook(db.lastWrite)
		}
	default:
		return nil, fmt.Errorf("the database URL has to begin with postgres:// or sqlite:, not %q",
			scheme+":")
	}
	if err != nil {
		return nil, err
	}
	if db.postgres {
		db.slots = make(chan struct{}, max(1, db.Stats().MaxOpenConnections/2))
	}
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the database does not answer: %w", err), db.Close())
	}
	return db, nil
}

// Postgres reports whether this is PostgreSQL, for the statements that differ.
func (db *DB) Postgres() bool { return db.postgres }

// Now returns the time in UTC, cut to microseconds, which is what both databases store.
func (db *DB) Now() time.Time { return db.now().UTC().Truncate(time.Microsecond) }

// openSQLite opens the connection that writes, and those that read. Closing db closes both.
func openSQLite(
	ctx context.Context, path string, log *slog.Logger,
) (db *bun.DB, readers *sql.DB, err error) {
	path = strings.TrimPrefix(path, "//")
	if path == "" || strings.HasPrefix(path, ":memory:") {
		return nil, nil, errors.New("a SQLite URL names a file: sqlite:data/parley.db")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the folder of the SQLite file: %w", err)
	}
	lock, err := LockSQLite(path, false)
	if errors.Is(err, ErrLocked) {
		return nil, nil, fmt.Errorf("%s is being replaced by parley restore: try again when that "+
			"has ended", path)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Unlock())
		}
	}()
	if err := keepPrivate(ctx, path, log); err != nil {
		return nil, nil, fmt.Errorf("make the SQLite file: %w", err)
	}
	pragmas := url.Values{"_pragma": {
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "busy_timeout(10000)",
		"cache_size(-16000)",
		"secure_delete(1)", // overwrites deleted content in the file
	}}
	// Without "immediate", a transaction that reads and then writes fails if another one wrote in
	// between.
	writer, err := openSQLiteFile(path, pragmas, url.Values{"_txlock": {"immediate"}}, 1)
	if err != nil {
		return nil, nil, err
	}
	readers, err = openSQLiteFile(path, pragmas, url.Values{"_pragma": {"query_only(1)"}},
		max(4, runtime.NumCPU()))
	if err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	return bun.NewDB(writer, sqlitedialect.New(),
			bun.WithConnResolver(sqliteReaders{readers, lock})),
		readers, nil
}

// keepPrivate makes the file if there is none, and lets only the owner read and write it and the
// files that SQLite keeps next to it, because they have all messages in them. SQLite makes such
// files later with the mode of the first.
func keepPrivate(ctx context.Context, path string, log *slog.Logger) error {
	// A file that is there is not opened: closing it would release the locks that SQLite holds on it
	// in this process.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = file.Close()
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm()&0o077 == 0 {
			continue
		}
		if err := os.Chmod(path+suffix, 0o600); err != nil {
			log.WarnContext(ctx, "others on this machine may read the database", "file",
				path+suffix, "error", err)
			continue
		}
		log.WarnContext(ctx, "others on this machine could read the database; its mode is 0600 now",
			"file", path+suffix)
	}
	return nil
}

func openSQLiteFile(path string, base, extra url.Values, conns int) (*sql.DB, error) {
	query := url.Values{}
	for _, values := range []url.Values{base, extra} {
		for key, list := range values {
			query[key] = append(query[key], list...)
		}
	}
	dsn := (&url.URL{
		Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(),
		RawQuery: query.Encode(),
	}).String()
	pool, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open the SQLite file: %w", err)
	}
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	return pool, nil
}

// sqliteReaders makes Bun send reads outside of transactions to connections that cannot write. Bun
// closes it with the database, and it then releases the lock on the file.
type sqliteReaders struct {
	pool *sql.DB
	lock *FileLock
}

func (r sqliteReaders) ResolveConn(_ context.Context, query bun.Query) bun.IConn {
	if bun.IsReadOnlyQuery(query) {
		return r.pool
	}
	return nil
}

func (r sqliteReaders) Close() error { return errors.Join(r.pool.Close(), r.lock.Unlock()) }
