package store_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

func user(nickname string) *model.User {
	return &model.User{
		ID: model.NewUserID(), Email: nickname + "@example.org",
		EmailKey: nickname + "@example.org",
		Nickname: nickname, NicknameKey: nickname, SearchKey: nickname, CreatedAt: time.Now().UTC().
				Truncate(time.Microsecond),
	}
}

func insert(ctx context.Context, db bun.IDB, u *model.User) error {
	_, err := db.NewInsert().Model(u).Exec(ctx)
	return err
}

func count(t *testing.T, db *store.DB) int64 {
	t.Helper()
	n, err := db.NewSelect().Model((*model.User)(nil)).Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"", "mysql://x", "sqlite:", "sqlite::memory:", "postgres://%zz",
		"postgres://127.0.0.1:1/x",
	} {
		if db, err := store.Open(t.Context(), url, store.Options{}); err == nil {
			t.Errorf("%q was opened", url)
			_ = db.Close()
		}
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var ran []string
		err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			tx.AfterCommit(func() { ran = append(ran, "first") })
			tx.AfterCommit(func() {
				if n := count(t, db); n != 1 {
					t.Errorf("others see %d users when the function runs", n)
				}
				ran = append(ran, "second")
			})
			if tx.Now.Location() != time.UTC || tx.Now.Nanosecond()%1000 != 0 {
				t.Errorf("%v is not UTC in microseconds", tx.Now)
			}
			return insert(ctx, tx, user("ann"))
		})
		if err != nil || strings.Join(ran, " ") != "first second" {
			t.Fatalf("functions %v ran (%v)", ran, err)
		}

		failure := errors.New("no")
		err = db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			tx.AfterCommit(func() { t.Error("a function ran after a rollback") })
			if err := insert(ctx, tx, user("bob")); err != nil {
				return err
			}
			return failure
		})
		if !errors.Is(err, failure) || count(t, db) != 1 {
			t.Fatalf("%v; %d users", err, count(t, db))
		}

		func() {
			defer func() { _ = recover() }()
			_ = db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				if err := insert(ctx, tx, user("cat")); err != nil {
					t.Error(err)
				}
				panic("a bug")
			})
		}()
		if count(t, db) != 1 {
			t.Fatal("a panic committed")
		}
	})
}

// Two transactions lock two rows in opposite order. The database rolls one back, and InTx tries it
// again.
func TestInTxRunsAgainAfterADeadlock(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ann, bob := user("ann"), user("bob")
		for _, u := range []*model.User{ann, bob} {
			if err := insert(t.Context(), db, u); err != nil {
				t.Fatal(err)
			}
		}
		touch := func(ctx context.Context, tx *store.Tx, u *model.User) error {
			_, err := tx.NewUpdate().Model(u).Set("display_name = 'x'").WherePK().Exec(ctx)
			return err
		}
		var once [2]sync.Once
		var both sync.WaitGroup
		both.Add(2)
		var wg sync.WaitGroup
		for i, order := range [][2]*model.User{{ann, bob}, {bob, ann}} {
			wg.Go(func() {
				err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
					if err := touch(ctx, tx, order[0]); err != nil {
						return err
					}
					if db.Postgres() { // SQLite runs one after the other, so there is no deadlock
						once[i].Do(both.Done)
						both.Wait()
					}
					return touch(ctx, tx, order[1])
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func TestBrokenBy(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ann := user("ann")
		if err := insert(t.Context(), db, ann); err != nil {
			t.Fatal(err)
		}
		sameEmail, sameNickname := user("bob"), user("cat")
		sameEmail.EmailKey, sameNickname.NicknameKey = ann.EmailKey, ann.NicknameKey
		for _, c := range []struct {
			name            string
			u               *model.User
			email, nickname bool
		}{{"email", sameEmail, true, false}, {"nickname", sameNickname, false, true}} {
			err := insert(t.Context(), db, c.u)
			if store.UniqueEmail.BrokenBy(err) != c.email ||
				store.UniqueNickname.BrokenBy(err) != c.nickname {
				t.Errorf("%s: %v", c.name, err)
			}
			if errs.Is(store.Error(err), errs.Unavailable) {
				t.Errorf("%s: a violated constraint is not an outage", c.name)
			}
		}
	})
}

func TestALostConnectionIsUnavailable(t *testing.T) {
	t.Parallel()
	db := storetest.MustPostgres(t)
	ctx := t.Context()
	_, err := db.ExecContext(ctx, "SELECT pg_terminate_backend(pg_backend_pid())")
	if !errs.Is(store.Error(err), errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	err = db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, "SELECT pg_terminate_backend(pg_backend_pid())")
		return err
	})
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAClosedConnectionIsUnavailable(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), storetest.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); !errs.Is(store.Error(err), errs.Unavailable) {
		t.Errorf("got %v", err)
	}
}

// A read inside a transaction sees its changes. A read outside does not wait for it.
func TestSQLiteReadsInsideAndOutsideATransaction(t *testing.T) {
	t.Parallel()
	db := storetest.MustSQLite(t)
	err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := insert(ctx, tx, user("ann")); err != nil {
			return err
		}
		if n, err := tx.NewSelect().Model((*model.User)(nil)).Count(ctx); err != nil || n != 1 {
			t.Errorf("inside: %d (%v)", n, err)
		}
		if n := count(t, db); n != 0 {
			t.Errorf("outside: %d", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
