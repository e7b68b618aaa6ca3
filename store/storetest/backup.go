package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Backup makes a backup of a database, and returns a function that takes the database back to it.
// PostgreSQL may be in use meanwhile, also by running nodes: the rows are replaced in one
// transaction, and transaction ids go on. SQLite has to be closed while its file is replaced.
func Backup(tb testing.TB, url string) (restore func(testing.TB)) {
	tb.Helper()
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		return backupSQLite(tb, path)
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	schema := fmt.Sprintf("backup%d", backups.Add(1))
	tables, err := backupRows(tb.Context(), db, schema)
	if err != nil {
		tb.Fatal(err)
	}
	return func(tb testing.TB) {
		tb.Helper()
		db, err := sql.Open("pgx", url)
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if err := restoreRows(tb.Context(), db, schema, tables); err != nil {
			tb.Fatal(err)
		}
	}
}

//nolint:gochecknoglobals // numbers the backups of a process of tests
var backups atomic.Int64

func backupSQLite(tb testing.TB, path string) (restore func(testing.TB)) {
	tb.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	backup := filepath.Join(tb.TempDir(), "backup.db")
	if _, err := db.ExecContext(tb.Context(), "VACUUM INTO ?", backup); err != nil {
		tb.Fatal(err)
	}
	return func(tb testing.TB) {
		tb.Helper()
		for _, suffix := range []string{"-wal", "-shm"} {
			if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				tb.Fatal(err)
			}
		}
		content, err := os.ReadFile(backup)
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// backupRows copies all tables into a schema. The copies are of one moment.
func backupRows(
	ctx context.Context, db *sql.DB, schema string,
) (tables []string, err error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }()
	if tables, err = tablesOf(ctx, tx); err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, "CREATE SCHEMA "+schema); err != nil {
		return nil, err
	}
	for _, table := range tables {
		_, err := tx.ExecContext(ctx,
			fmt.Sprintf("CREATE TABLE %s.%s AS TABLE public.%s", schema, table, table))
		if err != nil {
			return nil, err
		}
	}
	return tables, tx.Commit()
}

func tablesOf(ctx context.Context, tx *sql.Tx) (tables []string, err error) {
	rows, err := tx.QueryContext(ctx,
		"SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, err
		}
		tables = append(tables, table)
	}
	return tables, rows.Err()
}

func restoreRows(ctx context.Context, db *sql.DB, schema string, tables []string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	// Foreign keys are not checked row by row: the copies are of one moment.
	statements := []string{
		"SET LOCAL session_replication_role = replica",
		"TRUNCATE public." + strings.Join(tables, ", public."),
	}
	for _, table := range tables {
		statements = append(statements,
			fmt.Sprintf("INSERT INTO public.%s SELECT * FROM %s.%s", table, schema, table))
	}
	for _, statement := range statements {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return tx.Commit()
}
