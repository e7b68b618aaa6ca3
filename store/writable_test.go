package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"parley/errs"
	"parley/migrations"
	"parley/store"
	"parley/store/storetest"
)

// wantUnavailable checks that the client is asked to try again, and when.
func wantUnavailable(t *testing.T, err error) (retryAfter time.Duration) {
	t.Helper()
	known, ok := errors.AsType[*errs.Error](store.Error(err))
	if !ok || known.Code != errs.Unavailable || known.RetryAfter < time.Second {
		t.Errorf("got %v", err)
		return 0
	}
	return known.RetryAfter
}

// The file's owner is the operator, so the log says what is wrong, and clients try again later.
func TestASQLiteFileThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	db, err := store.Open(t.Context(), storetest.SQLiteURL(t),
		store.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := migrations.Up(t.Context(), db.DB); err != nil {
		t.Fatal(err)
	}
	write := func() error {
		return db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return insert(ctx, tx, user("ann"))
		})
	}
	must(t, db.CheckWritable)
	mustExec(t, db, "PRAGMA query_only = 1")
	must(t, db.CheckWritable) // nothing was written yet
	for range 2 {
		if again := wantUnavailable(t, write()); again < 10*time.Second {
			t.Errorf("clients try again after %v", again)
		}
		if err := db.CheckWritable(t.Context()); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("the check gives %v", err)
		}
	}
	if n := count(t, db); n != 0 { // reads go on
		t.Errorf("%d are stored", n)
	}
	mustExec(t, db, "PRAGMA query_only = 0")
	must(t, db.CheckWritable)
	if err := write(); err != nil {
		t.Error(err)
	}
	text := log.String()
	if strings.Count(text, "level=ERROR") != 1 || strings.Count(text, "level=INFO") != 1 ||
		!strings.Contains(text, "the file is read-only") || !strings.Contains(text, "parley.db") {
		t.Error(text)
	}
}

func TestAFullSQLiteFile(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	db, err := store.Open(t.Context(), storetest.SQLiteURL(t),
		store.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	mustExec(t, db, "CREATE TABLE written (text TEXT)")
	mustExec(t, db, "PRAGMA max_page_count = 4")
	_, err = db.ExecContext(t.Context(), "INSERT INTO written VALUES (?)",
		strings.Repeat("x", 1<<20))
	wantUnavailable(t, err)
	if !strings.Contains(log.String(), "the disk is full") {
		t.Error(log.String())
	}
	must(t, db.CheckWritable) // there is room for this
}

func TestAReadOnlyPostgres(t *testing.T) {
	t.Parallel()
	server := mustStartPostgres(t)
	db := storetest.MustOpen(t, server.URL("postgres"))
	for range 2 {
		must(t, db.CheckWritable)
		must(t, func(ctx context.Context) error { return server.SetReadOnly(ctx, true) })
		if err := db.CheckWritable(t.Context()); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("the check gives %v", err)
		}
		must(t, func(ctx context.Context) error { return server.SetReadOnly(ctx, false) })
	}
	standby := mustStandby(t, server)
	db, err := store.Open(t.Context(), standby.URL("postgres"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.CheckWritable(t.Context()); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("the check on a standby gives %v", err)
	}
	must(t, standby.Promote)
	must(t, db.CheckWritable)
}
