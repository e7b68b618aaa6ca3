package store_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"strings"
	"testing"

	"parley/errs"
	"parley/store"
	"parley/store/privatepg"
	"parley/store/storetest"
)

// mustFill opens as many connections as the pool may have, and returns the processes at their other
// ends.
func mustFill(t *testing.T, db *store.DB) (processes map[string]bool) {
	t.Helper()
	processes = map[string]bool{}
	var held []*sql.Conn
	for range db.Stats().MaxOpenConnections {
		conn, err := db.DB.DB.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
		var process string
		if err := conn.QueryRowContext(t.Context(),
			"SELECT inet_server_port()::text || ' ' || pg_backend_pid()::text").
			Scan(&process); err != nil {
			t.Fatal(err)
		}
		processes[process] = true
	}
	for _, conn := range held {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return processes
}

func common(a, b map[string]bool) (n int) {
	for key := range a {
		if b[key] {
			n++
		}
	}
	return n
}

func mustOpenURL(t *testing.T, url string, opts store.Options) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func insertEpoch(ctx context.Context, db *store.DB) error {
	return db.InPgxTx(ctx, func(ctx context.Context, tx *store.PgxTx) error {
		if err := tx.Begin(ctx, batchOf("SELECT 1")); err != nil {
			return err
		}
		return tx.Commit(ctx,
			batchOf("INSERT INTO stream_epoch (epoch, reached) VALUES (7, 7)"))
	})
}

// After the first write that the old primary refuses, no connection to it is used again.
func TestASwitchover(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(context.Context, *store.DB) error{
		"in a batch": insertEpoch,
		"in a transaction": func(ctx context.Context, db *store.DB) error {
			return db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
				_, err := tx.ExecContext(ctx,
					"INSERT INTO stream_epoch (epoch, reached) VALUES (7, 7)")
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary := mustStartPostgres(t)
			standby := mustStandby(t, primary)
			url := privatepg.URL("postgres", primary, standby)
			storetest.MustOpen(t, url) // makes the tables
			must(t, standby.CatchUp)
			db := mustOpenURL(t, url, store.Options{MaxConns: 6})
			before := mustFill(t, db)

			must(t, func(ctx context.Context) error { return primary.SetReadOnly(ctx, true) })
			must(t, standby.Promote)
			err := write(t.Context(), db)
			if wantUnavailable(t, err); errors.Is(err, store.ErrUnknown) {
				t.Errorf("the server refused it, and the error is %v", err)
			}
			if err := write(t.Context(), db); err != nil {
				t.Errorf("the second write: %v", err)
			}
			if n := common(before, mustFill(t, db)); n != 0 {
				t.Errorf("%d connections lead to the old primary", n)
			}
			var stored int
			if err := db.NewRaw("SELECT count(*) FROM stream_epoch WHERE epoch = 7").
				Scan(t.Context(), &stored); err != nil || stored != 1 {
				t.Errorf("%d rows are stored (%v)", stored, err)
			}
		})
	}
}

// Until there is a new primary, nothing is answered. Then the pool finds it.
func TestAFailover(t *testing.T) {
	t.Parallel()
	primary := mustStartPostgres(t)
	standby := mustStandby(t, primary)
	url := privatepg.URL("postgres", primary, standby)
	storetest.MustOpen(t, url)
	must(t, standby.CatchUp)
	db := mustOpenURL(t, url, store.Options{MaxConns: 6})
	mustFill(t, db)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantUnavailable(t, insertEpoch(t.Context(), db))
	}
	must(t, standby.Promote)
	if err := insertEpoch(t.Context(), db); err != nil {
		t.Error(err)
	}
	// the former primary comes back as a standby, and the roles are exchanged again
	must(t, func(ctx context.Context) error { return primary.Follow(ctx, standby) })
	mustFill(t, db)
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	// One request notices it. The other connections, which have ended too, fail no other request.
	wantUnavailable(t, insertEpoch(t.Context(), db))
	must(t, primary.Promote)
	if err := insertEpoch(t.Context(), db); err != nil {
		t.Error(err)
	}
}

// A server that was read-only from the start answers reads, so its connections are kept, except the
// one that was used for a write: the URL may lead to another server now.
func TestAServerThatStaysReadOnly(t *testing.T) {
	t.Parallel()
	server := mustStartPostgres(t)
	storetest.MustOpen(t, server.URL("postgres"))
	must(t, func(ctx context.Context) error { return server.SetReadOnly(ctx, true) })
	const conns = 6
	db := mustOpenURL(t, server.URL("postgres"), store.Options{MaxConns: conns})
	before := mustFill(t, db)
	wantUnavailable(t, insertEpoch(t.Context(), db))
	if n := common(before, mustFill(t, db)); n != conns-1 {
		t.Errorf("%d of %d connections are kept", n, conns)
	}
}

func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	primary := mustStartPostgres(t)
	standby := mustStandby(t, primary)
	url := privatepg.URL("postgres", standby, primary)
	for query, writable := range map[string]bool{
		"":                                 true,
		"&target_session_attrs=read-write": true,
		"&target_session_attrs=primary":    true,
		"&target_session_attrs=any":        false, // the first
		"&target_session_attrs=standby":    false,
	} {
		db := mustOpenURL(t, url+query, store.Options{})
		err := db.CheckWritable(t.Context())
		if (err == nil) != writable || !writable && !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%q: %v", query, err)
		}
	}
}

func TestConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	url := storetest.PostgresURL(t)
	for name, c := range map[string]struct {
		opts store.Options
		kept bool
	}{
		"by default":       {store.Options{MaxConns: 1}, true},
		"after an instant": {store.Options{MaxConns: 1, MaxConnLifetime: 1}, false},
	} {
		db := mustOpenURL(t, url, c.opts)
		first := backend(t, db)
		if kept := backend(t, db) == first; kept != c.kept {
			t.Errorf("%s: kept %v", name, kept)
		}
	}
}

// A host that accepts connections and never answers does not keep the next from being tried, and
// alone it makes the database unavailable.
func TestASilentHost(t *testing.T) {
	t.Parallel()
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	url := storetest.PostgresURL(t) + "&connect_timeout=1"
	_, host, _ := strings.Cut(url, "@")
	host, _, _ = strings.Cut(host, "/")
	db := mustOpenURL(t, strings.Replace(url, host, silent.Addr().String()+","+host, 1),
		store.Options{})
	must(t, db.CheckWritable)

	_, err = store.Open(t.Context(), strings.Replace(url, host, silent.Addr().String(), 1),
		store.Options{})
	if !errs.Is(store.Error(err), errs.Unavailable) || t.Context().Err() != nil {
		t.Errorf("got %v", err)
	}
}

// One connection notices that the server has crashed, and the pool keeps no other.
func TestACrashEndsAllConnections(t *testing.T) {
	t.Parallel()
	server := mustStartPostgres(t)
	db := mustOpenURL(t, server.URL("postgres"), store.Options{})
	var held []*sql.Conn
	for range 3 {
		conn, err := db.DB.DB.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	_, err := held[0].ExecContext(t.Context(), "SELECT 1")
	wantUnavailable(t, err)
	for _, conn := range held {
		_ = conn.Close() // returns it to the pool
	}
	if n := db.Stats().OpenConnections; n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
