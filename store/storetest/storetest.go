// Package storetest makes real databases for tests, SQLite and PostgreSQL. Each test has its own,
// with empty tables.
//
// A package that uses it calls Main from its TestMain. The first test of a process starts a private
// PostgreSQL server. Main ends it and looks for goroutines that are left.
package storetest

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"parley/migrations"
	"parley/store"
	"parley/store/privatepg"
)

// Skip is the environment variable that lists the parts of the tests to skip, separated by commas:
// "postgres", "browser". A test fails if its part is not installed and not in the list.
const Skip = "PARLEY_TEST_SKIP"

// Skipped reports whether the tests of a part are skipped.
func Skipped(part string) bool {
	for p := range strings.SplitSeq(os.Getenv(Skip), ",") {
		if strings.TrimSpace(p) == part {
			return true
		}
	}
	return false
}

// Each runs fn with a new SQLite database and with a new PostgreSQL database, as parallel subtests.
func Each(t *testing.T, fn func(t *testing.T, db *store.DB)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		fn(t, MustSQLite(t))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		fn(t, MustPostgres(t))
	})
}

// MustSQLite opens a database in a file of its own.
func MustSQLite(tb testing.TB) *store.DB {
	tb.Helper()
	return MustOpen(tb, SQLiteURL(tb))
}

// MustPostgres opens a database of its own on the process's private server.
func MustPostgres(tb testing.TB) *store.DB {
	tb.Helper()
	return MustOpen(tb, PostgresURL(tb))
}

// MustOpen opens a database and makes its tables. It closes the database when the test ends.
func MustOpen(tb testing.TB, url string) *store.DB {
	tb.Helper()
	db, err := store.Open(tb.Context(), url, store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	if _, err := migrations.Up(tb.Context(), db.DB); err != nil {
		tb.Fatal(err)
	}
	return db
}

// SQLiteURL returns the URL of a database that does not exist yet.
func SQLiteURL(tb testing.TB) string {
	tb.Helper()
	return "sqlite:" + filepath.Join(tb.TempDir(), "parley.db")
}

// PostgresURL returns the URL of a new, empty database on the process's private server.
func PostgresURL(tb testing.TB) string {
	tb.Helper()
	if Skipped("postgres") {
		tb.Skipf("%s names postgres", Skip)
	}
	server, err := postgres()
	if err != nil {
		tb.Fatalf("%v; to skip these tests, set %s=postgres", err, Skip)
	}
	name := fmt.Sprintf("test%d", databases.Add(1))
	admin, err := sql.Open("pgx", server.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	if _, err := admin.ExecContext(tb.Context(), "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	return server.URL(name)
}

//nolint:gochecknoglobals // one server for a process of tests
var (
	databases atomic.Int64
	running   atomic.Pointer[privatepg.Server]
	postgres  = sync.OnceValues(func() (*privatepg.Server, error) {
		server, err := privatepg.Start(context.Background())
		if err == nil {
			running.Store(server)
		}
		return server, err
	})
)

// Main runs the tests of a package. It fails if goroutines are left.
func Main(m *testing.M) {
	code := m.Run()
	if server := running.Load(); server != nil {
		if err := server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
			code = max(code, 1)
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
