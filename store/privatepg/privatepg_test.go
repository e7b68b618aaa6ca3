package privatepg_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"parley/store/privatepg"
	"parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

func mustStart(t *testing.T) *privatepg.Server {
	t.Helper()
	if storetest.Skipped("postgres") {
		t.Skipf("%s names postgres", storetest.Skip)
	}
	server, err := privatepg.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stopLater(t, server)
	mustExec(t, server, "CREATE TABLE written (n int)")
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

func must(t *testing.T, step func(context.Context) error) {
	t.Helper()
	if err := step(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, server *privatepg.Server, statement string) error {
	t.Helper()
	db := open(t, server.URL("postgres"))
	_, err := db.ExecContext(t.Context(), statement)
	return errors.Join(err, db.Close())
}

func mustExec(t *testing.T, server *privatepg.Server, statement string) {
	t.Helper()
	if err := exec(t, server, statement); err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, server *privatepg.Server, n string) {
	t.Helper()
	mustExec(t, server, "INSERT INTO written VALUES ("+n+")")
}

func open(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func value[T any](t *testing.T, server *privatepg.Server, query string) (v T) {
	t.Helper()
	db := open(t, server.URL("postgres"))
	if err := errors.Join(db.QueryRowContext(t.Context(), query).Scan(&v), db.Close()); err != nil {
		t.Fatal(err)
	}
	return v
}

func wantWritten(t *testing.T, server *privatepg.Server, want string) {
	t.Helper()
	got := value[string](t, server, "SELECT coalesce(string_agg(n::text, ' ' ORDER BY n), '') "+
		"FROM written")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

func wantReadOnly(t *testing.T, err error) {
	t.Helper()
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "25006" {
		t.Errorf("a write gives %v", err)
	}
}

func TestAStandbyFollowsAndIsPromoted(t *testing.T) {
	t.Parallel()
	primary := mustStart(t)
	mustWrite(t, primary, "1")
	standby := mustStandby(t, primary)
	wantWritten(t, standby, "1")
	mustWrite(t, primary, "2")
	must(t, standby.CatchUp)
	wantWritten(t, standby, "1 2")
	wantReadOnly(t, exec(t, standby, "INSERT INTO written VALUES (3)"))

	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	must(t, standby.Promote)
	mustWrite(t, standby, "3")
	wantWritten(t, standby, "1 2 3")

	// the old primary comes back, at its address
	url := primary.URL("postgres")
	must(t, func(ctx context.Context) error { return primary.Follow(ctx, standby) })
	if got := primary.URL("postgres"); got != url {
		t.Errorf("it moved from %s to %s", url, got)
	}
	mustWrite(t, standby, "4")
	must(t, primary.CatchUp)
	wantWritten(t, primary, "1 2 3 4")
	must(t, primary.Promote)
	mustWrite(t, primary, "5")
}

// A detached standby is promoted without the last transactions.
func TestADetachedStandbyStaysBehind(t *testing.T) {
	t.Parallel()
	primary := mustStart(t)
	mustWrite(t, primary, "1")
	standby := mustStandby(t, primary)
	must(t, standby.Detach)
	mustWrite(t, primary, "2")
	// The primary keeps it for the standby, and the standby has it when it is attached again.
	for range 8 { // more than it would keep otherwise
		mustExec(t, primary, "SELECT pg_switch_wal()")
		mustWrite(t, primary, "2")
	}
	mustExec(t, primary, "CHECKPOINT")
	mustExec(t, primary, "CHECKPOINT")
	mustExec(t, primary, "DELETE FROM written WHERE n = 2")
	mustWrite(t, primary, "2")
	wantWritten(t, standby, "1")
	must(t, standby.Attach)
	must(t, standby.CatchUp)
	wantWritten(t, standby, "1 2")

	must(t, standby.Detach)
	mustWrite(t, primary, "3")
	must(t, standby.Promote)
	wantWritten(t, standby, "1 2")
	mustWrite(t, standby, "4")
	wantWritten(t, standby, "1 2 4")
	wantWritten(t, primary, "1 2 3")
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	primary := mustStart(t)
	old, err := pgx.Connect(t.Context(), primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close(t.Context()) }()
	const write = "INSERT INTO written VALUES (1)"
	readOnly := func(on bool) {
		t.Helper()
		must(t, func(ctx context.Context) error { return primary.SetReadOnly(ctx, on) })
	}
	standby := mustStandby(t, primary)
	for range 2 {
		readOnly(true)
		must(t, standby.CatchUp)
		_, err := old.Exec(t.Context(), write)
		wantReadOnly(t, err)
		wantReadOnly(t, exec(t, primary, write))
		readOnly(false)
		if _, err := old.Exec(t.Context(), write); err != nil {
			t.Error(err)
		}
		mustExec(t, primary, write)
	}
}

func TestSaveAndRestore(t *testing.T) {
	t.Parallel()
	primary := mustStart(t)
	mustWrite(t, primary, "1")
	dir := filepath.Join(t.TempDir(), "copy")
	must(t, func(ctx context.Context) error { return primary.Save(ctx, dir) })
	const identity = "SELECT system_identifier::text || ' ' || " +
		"substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM pg_control_system()"
	const started = "SELECT pg_postmaster_start_time()::text"
	before, startedBefore := value[string](t, primary, identity), value[string](t, primary, started)
	url := primary.URL("postgres")
	for _, n := range []string{"2", "3"} {
		mustWrite(t, primary, n)
		wantWritten(t, primary, "1 "+n)
		must(t, func(ctx context.Context) error { return primary.RestoreFrom(ctx, dir) })
		wantWritten(t, primary, "1")
	}
	if got := value[string](t, primary, identity); got != before {
		t.Errorf("the server was %s and is %s", before, got)
	}
	if got := value[string](t, primary, started); got == startedBefore {
		t.Errorf("its start time is still %s", got)
	}
	if got := primary.URL("postgres"); got != url {
		t.Errorf("it moved from %s to %s", url, got)
	}
}
