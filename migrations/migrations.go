// Package migrations has the tables as numbered SQL files. The files are templates for both
// databases: the fields of Dialect stand for what differs.
//
// A released migration is never changed. A change is a new migration.
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

// Status is a migration, and whether it is applied.
type Status struct {
	Name    string
	Applied bool
}

// Up applies the migrations that are missing, and returns their names. Several nodes may call it at
// once: on PostgreSQL they wait for each other with an advisory lock, and SQLite has one process.
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

// Down reverts the newest group of migrations that were applied together, and deletes their data.
// It returns their names.
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

// List returns all migrations, oldest first.
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

// advisoryLock is the key of the lock: "parley" in ASCII, which nothing else in the database uses.
const advisoryLock = 0x7061726c6579

func locked(ctx context.Context, db *bun.DB, fn func(*migrate.Migrator) error) (err error) {
	found := migrate.NewMigrations()
	if err := found.Discover(files); err != nil {
		return fmt.Errorf("read the embedded migrations: %w", err)
	}
	found.Add(migrate.Migration{
		Name: "20261122000005", Comment: "tokens", Up: indexMessages, Down: keepTokens,
	})
	if db.Dialect().Name() == dialect.PG {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		// The lock belongs to the connection and ends with it at the latest.
		defer func() { _ = conn.Close() }()
		if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock(?)", advisoryLock); err != nil {
			return fmt.Errorf("wait for other nodes' migrations: %w", err)
		}
		defer func() {
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock(?)",
				advisoryLock)
		}()
	}
	m := migrate.NewMigrator(db, found, migrate.WithTemplateData(dialectOf(db)),
		migrate.WithMarkAppliedOnSuccess(true))
	if err := m.Init(ctx); err != nil {
		return fmt.Errorf("make the table of migrations: %w", err)
	}
	return fn(m)
}
