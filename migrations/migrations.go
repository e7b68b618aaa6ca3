// Package migrations has the tables as numbered SQL files. The files are templates for both
// databases: the fields of Dialect stand for what differs. A migration that is on the main branch
// never changes; checksums.txt and a test hold that. A change is a new migration.
//
// # Beside running nodes
//
// Nodes of the version before run while Up applies migrations, so a migration only adds. What it
// replaces is removed by a later one, which names in a line of its file the migration that a
// version has to know to work without it:
//
//	-- requires: 20270101000001
//
// Each migration runs in a transaction of its own, which also records it (migration_records): it is
// applied and recorded, or neither. It waits for the lock of a table only for Options.LockTimeout,
// because all statements of other transactions on the table queue behind it meanwhile. Then it is
// rolled back, and tried again with backoff.
//
// # Concurrency
//
// Several nodes may call Up at once. On PostgreSQL an advisory lock makes them take turns. It is
// held by a transaction, not by a session, so that it also works through PgBouncer in transaction
// mode. On SQLite each migration has the file's write lock and looks again whether it is missing.
package migrations

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/migrate"
)

//go:embed *.sql
var files embed.FS

// Dialect is the data of the templates.
type Dialect struct {
	Postgres bool
	// UUID is 16 bytes on PostgreSQL, and their text of 36 characters on SQLite, where a type named
	// "uuid" would have NUMERIC affinity.
	UUID  string
	Time  string // UTC with microseconds
	JSON  string
	Bytes string
	// SortedText compares by code point on both databases, so that pages have the same order in
	// every locale.
	SortedText string
}

func dialectOf(db *bun.DB) Dialect {
	if db.Dialect().Name() == dialect.PG {
		return Dialect{
			Postgres: true, UUID: "uuid", Time: "timestamptz", JSON: "jsonb", Bytes: "bytea",
			SortedText: `text COLLATE "C"`,
		}
	}
	return Dialect{UUID: "text", Time: "text", JSON: "text", Bytes: "blob", SortedText: "text"}
}

// The defaults of Options.
const (
	// DefaultLockTimeout is shorter than PostgreSQL's deadlock_timeout of a second, so that in a
	// deadlock with a request the migration gives way, not the request.
	DefaultLockTimeout = 500 * time.Millisecond
	DefaultPatience    = 5 * time.Minute
)

// Options are the settings of New. The zero value has defaults.
type Options struct {
	Log *slog.Logger // nil means slog.Default
	// Files are the SQL files of a version; nil means those of this one.
	Files fs.FS
	// LockTimeout is how long a migration waits for a lock at a time, on PostgreSQL. On SQLite it
	// is the timeout of the connection.
	LockTimeout time.Duration
	// Patience is how long a migration is tried again while others hold locks that it needs.
	Patience time.Duration
}

// Migrator applies and reverts the migrations of one version, and checks whether this version can
// use the database.
type Migrator struct {
	db    *bun.DB
	opts  Options
	known []known // oldest first

	logged atomic.Pointer[string] // the unknown migrations that were logged last
}

// known is a migration of this version.
type known struct {
	name     string // its number
	comment  string
	checksum string // "" for a migration that is not a file
	requires string // "" if any version can use the database after it
}

func (k known) String() string { return k.name + "_" + k.comment }

// goMigration is a migration in Go. It has no checksum.
type goMigration struct {
	name, comment string
	up, down      func(ctx context.Context, tx bun.Tx) error
}

func goMigrations() []goMigration {
	return []goMigration{
		{"20261122000005", "tokens", indexMessages, keepTokens},
	}
}

// New returns a migrator. It does not use the database yet.
func New(db *bun.DB, opts Options) (*Migrator, error) {
	opts.Log = cmp.Or(opts.Log, slog.Default())
	opts.LockTimeout = cmp.Or(opts.LockTimeout, DefaultLockTimeout)
	opts.Patience = cmp.Or(opts.Patience, DefaultPatience)
	if opts.Files == nil {
		opts.Files = files
	}
	m := &Migrator{db: db, opts: opts}
	discovered, err := m.discover(hooks{})
	if err != nil {
		return nil, err
	}
	for _, migration := range discovered.Sorted() {
		k := known{name: migration.Name, comment: migration.Comment}
		if err := k.read(opts.Files); err != nil {
			return nil, fmt.Errorf("migration %s: %w", k, err)
		}
		m.known = append(m.known, k)
	}
	return m, nil
}

// requiresLine is the line of a file that says which migration a version has to know.
var requiresLine = regexp.MustCompile(`(?m)^-- requires: (\d+)\s*$`)

// read reads the file of a migration, if it is one.
func (k *known) read(files fs.FS) error {
	text, err := fs.ReadFile(files, k.String()+".tx.up.sql")
	if errors.Is(err, fs.ErrNotExist) {
		for _, g := range goMigrations() {
			if g.name == k.name {
				return nil
			}
		}
		return errors.New("its files have to end in .tx.up.sql and .tx.down.sql, " +
			"so that it runs in a transaction")
	}
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	k.checksum = hex.EncodeToString(sum[:])
	if found := requiresLine.FindSubmatch(text); found != nil {
		k.requires = string(found[1])
	}
	return nil
}

// hooks run in the transaction of each migration, before and after it.
type hooks struct{ before, after migrate.MigrationHook }

func (m *Migrator) discover(h hooks) (*migrate.Migrations, error) {
	found := migrate.NewMigrations()
	if err := found.Discover(m.opts.Files); err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	for _, g := range goMigrations() {
		found.Add(migrate.Migration{
			Name: g.name, Comment: g.comment, Up: h.inTx(g.up), Down: h.inTx(g.down),
		})
	}
	return found, nil
}

// inTx makes a migration in Go run as Bun runs a file: in a transaction, between the hooks.
func (h hooks) inTx(
	fn func(context.Context, bun.Tx) error,
) func(context.Context, *migrate.Migrator, *migrate.Migration) error {
	return func(ctx context.Context, m *migrate.Migrator, migration *migrate.Migration) error {
		return m.DB().RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			if err := h.before(ctx, tx, migration); err != nil {
				return err
			}
			if err := fn(ctx, tx); err != nil {
				return err
			}
			return h.after(ctx, tx, migration)
		})
	}
}

// Up applies the migrations of this version that are missing, with the default options. It returns
// their names.
func Up(ctx context.Context, db *bun.DB) (applied []string, err error) {
	m, err := New(db, Options{})
	if err != nil {
		return nil, err
	}
	return m.Up(ctx)
}
