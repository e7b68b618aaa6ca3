package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"parley/errs"
	"parley/store"
	"parley/store/storetest"
)

func batchOf(statements ...string) *pgx.Batch {
	b := &pgx.Batch{}
	for _, s := range statements {
		b.Queue(s)
	}
	return b
}

func TestPgxTransactions(t *testing.T) {
	t.Parallel()
	const insert = "INSERT INTO stream_epoch (epoch, reached) VALUES (7, 7)"
	mine := errors.New("mine")
	for name, c := range map[string]struct {
		fn     func(ctx context.Context, tx *store.PgxTx) error
		stored int
		check  func(error) bool
	}{
		"committed": {func(ctx context.Context, tx *store.PgxTx) error {
			if err := tx.Begin(ctx, batchOf("SELECT 1")); err != nil {
				return err
			}
			return tx.Commit(ctx, batchOf(insert, insert))
		}, 2, func(err error) bool { return err == nil }},
		"not committed": {func(ctx context.Context, tx *store.PgxTx) error {
			return tx.Begin(ctx, batchOf(insert))
		}, 0, func(err error) bool { return err == nil }},
		"an error of the function": {func(ctx context.Context, tx *store.PgxTx) error {
			if err := tx.Begin(ctx, batchOf(insert)); err != nil {
				return err
			}
			return mine
		}, 0, func(err error) bool { return errors.Is(err, mine) }},
		"a statement that fails": {func(ctx context.Context, tx *store.PgxTx) error {
			if err := tx.Begin(ctx, batchOf("SELECT 1")); err != nil {
				return err
			}
			return tx.Commit(ctx, batchOf(insert, "SELECT 1/(reached - reached) FROM stream_epoch",
				insert))
		}, 0, func(err error) bool {
			return err != nil && !errors.Is(err, store.ErrUnknown) &&
				!errs.Is(err, errs.Unavailable)
		}},
		"cut off before the end": {func(ctx context.Context, tx *store.PgxTx) error {
			return tx.Begin(ctx, batchOf(insert, "SELECT pg_terminate_backend(pg_backend_pid())"))
		}, 0, func(err error) bool {
			return errs.Is(err, errs.Unavailable) &&
				!errors.Is(err, store.ErrUnknown)
		}},
		"cut off at the end": {func(ctx context.Context, tx *store.PgxTx) error {
			if err := tx.Begin(ctx, batchOf("SELECT 1")); err != nil {
				return err
			}
			return tx.Commit(ctx, batchOf(insert, "SELECT pg_terminate_backend(pg_backend_pid())"))
		}, 0, func(err error) bool {
			return errs.Is(err, errs.Unavailable) &&
				errors.Is(err, store.ErrUnknown)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := storetest.MustPostgres(t)
			if err := db.InPgxTx(t.Context(), c.fn); !c.check(err) {
				t.Errorf("got %v", err)
			}
			var stored int
			if err := db.NewRaw("SELECT count(*) FROM stream_epoch WHERE epoch = 7").
				Scan(t.Context(), &stored); err != nil {
				t.Fatal(err)
			}
			if stored != c.stored {
				t.Errorf("%d rows are stored, want %d", stored, c.stored)
			}
			if n := db.Stats().InUse; n != 0 {
				t.Errorf("%d connections are in use", n)
			}
		})
	}
}

// A transaction that panics is rolled back, and its connection is not used again.
func TestAPgxTransactionThatPanics(t *testing.T) {
	t.Parallel()
	db := storetest.MustPostgres(t)
	func() {
		defer func() { _ = recover() }()
		_ = db.InPgxTx(t.Context(), func(ctx context.Context, tx *store.PgxTx) error {
			if err := tx.Begin(ctx, batchOf(
				"INSERT INTO stream_epoch (epoch, reached) VALUES (7, 7)")); err != nil {
				t.Error(err)
			}
			panic("a bug")
		})
	}()
	var stored int
	if err := db.NewRaw("SELECT count(*) FROM stream_epoch WHERE epoch = 7").
		Scan(t.Context(), &stored); err != nil || stored != 0 {
		t.Errorf("%d rows are stored, %v", stored, err)
	}
	if n := db.Stats().InUse; n != 0 {
		t.Errorf("%d connections are in use", n)
	}
}

// pgx closes the connection of a statement that is cancelled. It must not stay in the pool.
func TestACancelledStatementLeavesNoDeadConnectionInThePool(t *testing.T) {
	t.Parallel()
	const statement = "SELECT pg_sleep(600)"
	for name, run := range map[string]func(ctx context.Context, db *store.DB) error{
		"alone": func(ctx context.Context, db *store.DB) error {
			_, err := db.ExecContext(ctx, statement)
			return err
		},
		"with rows": func(ctx context.Context, db *store.DB) error {
			var nothing string
			return db.NewRaw(statement).Scan(ctx, &nothing)
		},
		"one of several": func(ctx context.Context, db *store.DB) error {
			return db.InPgxTx(ctx, func(ctx context.Context, tx *store.PgxTx) error {
				return tx.Begin(ctx, batchOf(statement))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := storetest.PostgresURL(t)
			db, other := storetest.MustOpen(t, url), storetest.MustOpen(t, url)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- run(ctx, db) }()
			for running := 0; running == 0; {
				err := other.NewRaw(
					"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "+
						"AND wait_event = 'PgSleep'").
					Scan(t.Context(), &running)
				if err != nil {
					t.Fatal(err)
				}
			}
			before := db.Stats().OpenConnections
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
			if n := db.Stats().OpenConnections; n != before-1 {
				t.Errorf("%d of %d connections are left in the pool, although one is closed", n,
					before)
			}
		})
	}
}

// A stale statement is prepared again, and the transaction is tried again.
func TestPgxTransactionsAfterAMigration(t *testing.T) {
	t.Parallel()
	const look = "SELECT reached, epoch FROM stream_epoch"
	for _, statement := range []string{
		"DEALLOCATE ALL",
		"ALTER TABLE stream_epoch ALTER COLUMN reached TYPE numeric",
	} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			db, _ := mustOneConnection(t)
			for range 2 {
				err := db.InPgxTx(t.Context(), func(ctx context.Context, tx *store.PgxTx) error {
					if err := tx.Begin(ctx, batchOf(look)); err != nil {
						return err
					}
					return tx.Commit(ctx, batchOf("UPDATE stream_epoch SET epoch = epoch + 1"))
				})
				if err != nil {
					t.Fatal(err)
				}
				mustExec(t, db, statement)
			}
			var epoch int
			if err := db.NewRaw("SELECT epoch FROM stream_epoch").
				Scan(t.Context(), &epoch); err != nil || epoch != 3 {
				t.Errorf("the epoch is %d (%v)", epoch, err)
			}
		})
	}
}
