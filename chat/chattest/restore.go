package chattest

import (
	"context"
	"strings"
	"testing"

	"parley/store"
)

// Backup is a copy of all tables, as a dump that is restored into the same server.
type Backup struct {
	db     *store.DB
	tables []string
}

const backupPrefix = "backup_of_"

// MustBackUp copies all tables. A database has one backup: a new one replaces it.
func MustBackUp(t *testing.T, db *store.DB) *Backup {
	t.Helper()
	b := &Backup{db: db}
	query := "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
	if !db.Postgres() {
		query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'"
	}
	var all []string
	if err := db.NewRaw(query).Scan(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		for _, table := range all {
			// The index of words belongs to a virtual table.
			if strings.HasPrefix(table, "message_tokens") || strings.HasPrefix(table, "sqlite_") ||
				strings.HasPrefix(table, "bun_") || strings.HasPrefix(table, backupPrefix) {
				continue
			}
			if _, err := tx.ExecContext(ctx,
				"DROP TABLE IF EXISTS "+backupPrefix+table); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "CREATE TABLE "+backupPrefix+table+
				" AS SELECT * FROM "+table); err != nil {
				return err
			}
			b.tables = append(b.tables, table)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// MustRestore makes the tables what they were when they were copied.
func (b *Backup) MustRestore(t *testing.T) {
	t.Helper()
	err := b.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		withoutChecks := "PRAGMA defer_foreign_keys = ON"
		if tx.Postgres() {
			withoutChecks = "SET LOCAL session_replication_role = replica"
		}
		if _, err := tx.ExecContext(ctx, withoutChecks); err != nil {
			return err
		}
		for _, table := range b.tables {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+table); err != nil {
				return err
			}
		}
		for _, table := range b.tables {
			if _, err := tx.ExecContext(ctx, "INSERT INTO "+table+" SELECT * FROM "+backupPrefix+
				table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
