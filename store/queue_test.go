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

// timeout ends a test that waits for something that never comes.
const timeout = 30 * time.Second

func lock(ctx context.Context, tx *store.Tx, id model.UserID) error {
	return tx.Lock(ctx, (*model.User)(nil), "id = ?", id)
}

// whileLocked runs test while another node has a row locked. during ends before that node unlocks
// it.
func whileLocked(
	t *testing.T, test func(db, other *store.DB, id model.UserID, during context.Context),
) {
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
		during, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		test(db, other, ann.ID, during)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// waitUntilBlocked waits until n transactions wait for a lock.
func waitUntilBlocked(t *testing.T, other *store.DB, n int) {
	t.Helper()
	for waiting := 0; waiting < n; {
		err := other.NewRaw(
			"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "+
				"wait_event_type = 'Lock'").
			Scan(t.Context(), &waiting)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Transactions that wait for a lock have half of the connections at most. The others are there for
// reads and for InPgxTx.
func TestBlockedTransactionsLeaveConnections(t *testing.T) {
	t.Parallel()
	var waiting sync.WaitGroup
	defer waiting.Wait()
	whileLocked(t, func(db, other *store.DB, id model.UserID, during context.Context) {
		for range 20 {
			waiting.Go(func() {
				if err := db.InTx(t.Context(),
					func(ctx context.Context, tx *store.Tx) error {
						return lock(ctx, tx,
							id)
					}); err != nil {
					t.Error(err)
				}
			})
		}
		waitUntilBlocked(t, other, 2)
		for range 20 {
			if _, err := db.ExecContext(during, "SELECT 1"); err != nil {
				t.Fatalf("a read: %v", err)
			}
			err := db.InPgxTx(during, func(ctx context.Context, tx *store.PgxTx) error {
				return tx.Begin(ctx, batchOf("SELECT 1"))
			})
			if err != nil {
				t.Fatalf("a batch: %v", err)
			}
		}
		if n := db.Stats().InUse; n != 2 {
			t.Errorf("blocked transactions have %d of 4 connections", n)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		err := db.InTx(gone, func(context.Context, *store.Tx) error { return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a transaction whose context has ended: %v", err)
		}
	})
}

// However many transactions change one row, they wait for it with one connection. Transactions that
// change another row do not wait for them.
func TestQueuedTransactionsOfOneRowShareAConnection(t *testing.T) {
	t.Parallel()
	type row string
	var waiting sync.WaitGroup
	defer waiting.Wait()
	whileLocked(t, func(db, other *store.DB, id model.UserID, during context.Context) {
		cancelled, cancel := context.WithCancel(t.Context())
		defer cancel()
		var gone sync.WaitGroup
		for range 20 {
			waiting.Go(func() {
				if err := db.InQueuedTx(t.Context(), row("ann"),
					func(ctx context.Context, tx *store.Tx) error {
						return lock(ctx, tx,
							id)
					}); err != nil {
					t.Error(err)
				}
			})
		}
		waitUntilBlocked(t, other, 1)
		for range 20 {
			gone.Go(func() {
				err := db.InQueuedTx(cancelled, row("ann"),
					func(context.Context, *store.Tx) error { return nil })
				if !errors.Is(err, context.Canceled) {
					t.Errorf("a transaction whose context has ended: %v", err)
				}
			})
		}
		for range 20 {
			if err := db.InQueuedTx(during, row("ben"),
				func(context.Context, *store.Tx) error { return nil }); err != nil {
				t.Fatalf("a transaction about another row: %v", err)
			}
		}
		if n := db.Stats().InUse; n != 1 {
			t.Errorf("queued transactions have %d connections", n)
		}
		cancel()
		gone.Wait()
	})
}

func TestATransactionLeavesTheQueueHoweverItEnds(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		mine := errors.New("mine")
		for range 30 { // more than there are slots
			if err := db.InQueuedTx(t.Context(), 1,
				func(context.Context, *store.Tx) error { return mine }); !errors.Is(err, mine) {
				t.Errorf("an error: %v", err)
			}
			func() {
				defer func() {
					if recover() == nil {
						t.Error("it did not panic")
					}
				}()
				_ = db.InQueuedTx(t.Context(), 1,
					func(context.Context, *store.Tx) error { panic("a bug") })
			}()
		}
		if err := db.InQueuedTx(t.Context(), 1,
			func(context.Context, *store.Tx) error { return nil }); err != nil {
			t.Errorf("the next transaction: %v", err)
		}
	})
}
