package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// patience ends a test that waits for what never comes. It is no measure of speed.
const patience = 30 * time.Second

func lock(ctx context.Context, tx *store.Tx, id model.UserID) error {
	return tx.Lock(ctx, (*model.User)(nil), "id = ?", id)
}

// besideALock runs test while another node has a row locked, and returns once it has let go of it.
// during ends before.
func besideALock(t *testing.T, test func(db, other *store.DB, id model.UserID, during context.Context)) {
	t.Helper()
	url := storetest.PostgresURL(t)
	other := storetest.MustOpen(t, url)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	ann := user("ann")
	if err := insert(t.Context(), other, ann); err != nil {
		t.Fatal(err)
	}
	err = other.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := lock(ctx, tx, ann.ID); err != nil {
			return err
		}
		during, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		test(db, other, ann.ID, during)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// untilWaiting returns once so many transactions wait for a lock.
func untilWaiting(t *testing.T, other *store.DB, n int) {
	t.Helper()
	for waiting := 0; waiting < n; {
		err := other.NewRaw("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").
			Scan(t.Context(), &waiting)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// However many transactions wait for a lock, they leave connections for what does not.
func TestTransactionsThatWaitLeaveConnections(t *testing.T) {
	t.Parallel()
	var waiting sync.WaitGroup
	defer waiting.Wait()
	besideALock(t, func(db, other *store.DB, id model.UserID, during context.Context) {
		for range 20 {
			waiting.Go(func() {
				if err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error { return lock(ctx, tx, id) }); err != nil {
					t.Error(err)
				}
			})
		}
		untilWaiting(t, other, 2)
		for range 20 {
			if _, err := db.ExecContext(during, "SELECT 1"); err != nil {
				t.Fatalf("a read: %v", err)
			}
			err := db.InPgxTx(during, func(ctx context.Context, tx *store.PgxTx) error { return tx.Begin(ctx, batchOf("SELECT 1")) })
			if err != nil {
				t.Fatalf("a batch: %v", err)
			}
		}
		if n := db.Stats().InUse; n != 2 {
			t.Errorf("%d of 4 connections wait", n)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		err := db.InTx(gone, func(context.Context, *store.Tx) error { return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("whoever gives up: %v", err)
		}
	})
}

// Those who change one row wait for it with one connection, whatever their number; others are not
// behind them.
func TestTurns(t *testing.T) {
	t.Parallel()
	type row string
	var waiting sync.WaitGroup
	defer waiting.Wait()
	besideALock(t, func(db, other *store.DB, id model.UserID, during context.Context) {
		hangUp, cancel := context.WithCancel(t.Context())
		defer cancel()
		var gone sync.WaitGroup
		for range 20 {
			waiting.Go(func() {
				if err := db.InQueuedTx(t.Context(), row("ann"), func(ctx context.Context, tx *store.Tx) error { return lock(ctx, tx, id) }); err != nil {
					t.Error(err)
				}
			})
		}
		untilWaiting(t, other, 1)
		for range 20 {
			gone.Go(func() {
				err := db.InQueuedTx(hangUp, row("ann"), func(context.Context, *store.Tx) error { return nil })
				if !errors.Is(err, context.Canceled) {
					t.Errorf("whoever hangs up: %v", err)
				}
			})
		}
		for range 20 {
			if err := db.InQueuedTx(during, row("ben"), func(context.Context, *store.Tx) error { return nil }); err != nil {
				t.Fatalf("a transaction about another row: %v", err)
			}
		}
		if n := db.Stats().InUse; n != 1 {
			t.Errorf("%d connections wait", n)
		}
		cancel()
		gone.Wait()
	})
}

// A turn ends with its transaction, however that ends.
func TestTurnsEnd(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		mine := errors.New("mine")
		for range 30 { // more than there are places
			if err := db.InQueuedTx(t.Context(), 1, func(context.Context, *store.Tx) error { return mine }); !errors.Is(err, mine) {
				t.Errorf("an error: %v", err)
			}
			func() {
				defer func() {
					if recover() == nil {
						t.Error("it did not panic")
					}
				}()
				_ = db.InQueuedTx(t.Context(), 1, func(context.Context, *store.Tx) error { panic("a bug") })
			}()
		}
		if err := db.InQueuedTx(t.Context(), 1, func(context.Context, *store.Tx) error { return nil }); err != nil {
			t.Errorf("after them: %v", err)
		}
	})
}
