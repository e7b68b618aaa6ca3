package store_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"parley/store"
	"parley/store/privatepg"
	"parley/store/storetest"
)

func mustStartPostgres(t *testing.T) *privatepg.Server {
	t.Helper()
	if storetest.Skipped("postgres") {
		t.Skipf("%s names postgres", storetest.Skip)
	}
	// commits survive a restart, though not of the machine
	server, err := privatepg.Start(t.Context(), "fsync = off")
	if err != nil {
		t.Fatal(err)
	}
	stopLater(t, server)
	return server
}

func stopLater(t *testing.T, server *privatepg.Server) {
	t.Helper()
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func mustStandby(t *testing.T, primary *privatepg.Server) *privatepg.Server {
	t.Helper()
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stopLater(t, standby)
	return standby
}

// must runs a step that has to succeed.
func must(t *testing.T, step func(context.Context) error) {
	t.Helper()
	if err := step(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mustConnect takes connections from the pool until one is new.
func mustConnect(t *testing.T, db *store.DB) {
	t.Helper()
	var held []*sql.Conn
	for opened := db.Stats().OpenConnections; db.Stats().OpenConnections <= opened; {
		conn, err := db.DB.DB.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	for _, conn := range held {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// mustRecover uses the pool until the database answers on it.
func mustRecover(t *testing.T, db *store.DB) {
	t.Helper()
	if err := store.RetryWhileUnavailable(t.Context(), func() error {
		_, err := db.ExecContext(t.Context(), "SELECT 1")
		return store.Error(err)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestServerChanges(t *testing.T) {
	t.Parallel()
	primary := mustStartPostgres(t)
	standby := mustStandby(t, primary)
	db := storetest.MustOpen(t, privatepg.URL("postgres", primary, standby))
	changes, open := 0, 0
	db.OnServerChange(func() {
		changes++
		open = db.Stats().InUse
	})
	want := func(n int, after string) {
		t.Helper()
		if changes != n {
			t.Fatalf("%d changes are reported after %s, want %d", changes, after, n)
		}
	}
	mustConnect(t, db)
	want(0, "another connection to the same server")

	copied := filepath.Join(t.TempDir(), "copy")
	must(t, func(ctx context.Context) error { return primary.Save(ctx, copied) })
	mustConnect(t, db)
	want(0, "a copy")

	must(t, func(ctx context.Context) error { return primary.Restart(ctx, 0) })
	mustRecover(t, db)
	want(1, "a restart")
	if open == 0 {
		t.Error("the change was reported after the connection was in the pool")
	}
	must(t, func(ctx context.Context) error { return primary.RestoreFrom(ctx, copied) })
	mustRecover(t, db)
	want(2, "a restored copy")

	must(t, func(ctx context.Context) error { return primary.SetReadOnly(ctx, true) })
	must(t, standby.Promote)
	mustConnect(t, db)
	want(3, "a switchover")
	mustConnect(t, db)
	want(3, "another connection to the new server")
}

// A promotion does not restart the server, nor end its sessions.
func TestAPromotionIsAServerChange(t *testing.T) {
	t.Parallel()
	primary := mustStartPostgres(t)
	storetest.MustOpen(t, primary.URL("postgres"))
	standby := mustStandby(t, primary)
	db, err := store.Open(t.Context(), standby.URL("postgres"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	changes := 0
	db.OnServerChange(func() { changes++ })
	mustConnect(t, db)
	must(t, standby.Promote)
	if mustConnect(t, db); changes != 1 {
		t.Errorf("%d changes are reported", changes)
	}
}

// Tables that are made again have another history.
func TestANewTableIsAServerChange(t *testing.T) {
	t.Parallel()
	url := storetest.PostgresURL(t)
	db, admin := storetest.MustOpen(t, url), storetest.MustOpen(t, url)
	changes := 0
	db.OnServerChange(func() { changes++ })
	mustConnect(t, db)
	mustExec(t, admin, "ALTER TABLE events RENAME TO older")
	mustConnect(t, db) // whether there is none or not yet, nobody knows
	mustExec(t, admin, "CREATE TABLE events (n int)")
	if mustConnect(t, db); changes != 1 {
		t.Errorf("%d changes are reported", changes)
	}
}

// What an ordinary role may not read is left out.
func TestServerChangesWithoutRights(t *testing.T) {
	t.Parallel()
	server := mustStartPostgres(t)
	admin := storetest.MustOpen(t, server.URL("postgres"))
	for _, statement := range []string{
		"CREATE ROLE ann LOGIN",
		"REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
		"REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC",
	} {
		mustExec(t, admin, statement)
	}
	url := strings.Replace(server.URL("postgres"), "parley@", "ann@", 1)
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	changes := 0
	db.OnServerChange(func() { changes++ })
	mustConnect(t, db)
	if changes != 0 {
		t.Errorf("%d changes are reported", changes)
	}
	must(t, func(ctx context.Context) error { return server.Restart(ctx, 0) })
	mustRecover(t, db)
	if changes != 1 {
		t.Errorf("after a restart, %d changes are reported", changes)
	}
}

func TestSQLiteServerNeverChanges(t *testing.T) {
	t.Parallel()
	db := storetest.MustSQLite(t)
	db.OnServerChange(func() { t.Error("a change is reported") })
	mustExec(t, db, "SELECT 1")
}
