// Package migrations has the tables, as numbered SQL files: one set for both databases, in which
// templates stand where their type names or abilities differ (the fields of Dialect).
//
// A migration that has been released is never changed; another one follows it.
package migrations

import (
	"context"
	"embed"
	"fmt"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/migrate"
)

//go:embed *.sql
var files embed.FS

// Dialect is what the templates see.
type Dialect struct {
	Postgres bool
	// 16 bytes; on SQLite their 36-character text, because "uuid" would have NUMERIC affinity there
	UUID  string
	Time  string // UTC with microseconds
	JSON  string
	Bytes string
	// Sorted text compares by code point on both databases, so that pages come in the same order
	// whatever the locale.
	SortedText string
}

func dialectOf(db *bun.DB) Dialect {
	if db.Dialect().Name() == dialect.PG {
		return Dialect{
			Postgres: true, UUID: "uuid", Time: "timestamptz", JSON: "jsonb", Bytes: "bytea", SortedText: `text COLLATE "C"`,
		}
	}
	return Dialect{UUID: "text", Time: "text", JSON: "text", Bytes: "blob", SortedText: "text"}
}

// Status is one migration and whether the database has it.
type Status struct {
	Name    string
	Applied bool
}

// Up applies whatever is missing, and says what that was. Several nodes may call it at once: on
// PostgreSQL an advisory lock makes them take turns, and on SQLite there is one process.
func Up(ctx context.Context, db *bun.DB) (applied []string, err error) {
	err = locked(ctx, db, func(m *migrate.Migrator) error {
		group, err := m.Migrate(ctx)
		if err != nil {
			return err
		}
		for _, migration := range group.Migrations {
			applied = append(applied, migration.String())
		}
		return nil
	})
	return applied, err
}

// Down takes back the newest group of migrations that was applied together, data included.
func Down(ctx context.Context, db *bun.DB) (reverted []string, err error) {
	err = locked(ctx, db, func(m *migrate.Migrator) error {
		group, err := m.Rollback(ctx)
		if err != nil {
			return err
		}
		for _, migration := range group.Migrations {
			reverted = append(reverted, migration.String())
		}
		return nil
	})
	return reverted, err
}

// List says which migrations there are and which of them the database has, oldest first.
func List(ctx context.Context, db *bun.DB) (list []Status, err error) {
	err = locked(ctx, db, func(m *migrate.Migrator) error {
		all, err := m.MigrationsWithStatus(ctx)
		if err != nil {
			return err
		}
		for _, migration := range all {
			list = append(list, Status{Name: migration.String(), Applied: migration.IsApplied()})
		}
		return nil
	})
	return list, err
}

// advisoryLock is any number that nothing else in the database locks: "parley" in ASCII.
const advisoryLock = 0x7061726c6579

func locked(ctx context.Context, db *bun.DB, fn func(*migrate.Migrator) error) (err error) {
	found := migrate.NewMigrations()
	if err := found.Discover(files); err != nil {
		return fmt.Errorf("read the embedded migrations: %w", err)
	}
	found.Add(migrate.Migration{Name: "20261122000005", Comment: "tokens", Up: indexMessages, Down: forgetTokens})
	if db.Dialect().Name() == dialect.PG {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		// The lock belongs to the connection, and so ends with it, whatever happens in between.
		defer func() { _ = conn.Close() }()
		if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock(?)", advisoryLock); err != nil {
			return fmt.Errorf("wait for other nodes' migrations: %w", err)
		}
		defer func() {
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock(?)", advisoryLock)
		}()
	}
	m := migrate.NewMigrator(db, found, migrate.WithTemplateData(dialectOf(db)), migrate.WithMarkAppliedOnSuccess(true))
	if err := m.Init(ctx); err != nil {
		return fmt.Errorf("make the table of migrations: %w", err)
	}
	return fn(m)
}
