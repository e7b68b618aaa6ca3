package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

const readUsers = `SELECT ?TableColumns FROM users AS u WHERE u.id IN (?1...) ORDER BY u.nickname_key`

// mustUsers stores n users. Every second one has values in its optional columns.
func mustUsers(t *testing.T, db *store.DB, n int) (ids []model.UserID) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("u%02d", i)
		u := &model.User{
			ID: model.NewUserID(), Email: name, EmailKey: name, Nickname: name, NicknameKey: name,
			SearchKey: name, CreatedAt: db.Now(), ShowPresence: i%3 == 0,
		}
		if i%2 == 0 {
			u.DisplayName, u.About = &name, &name
			at := db.Now().Truncate(time.Second)
			u.EmailVerifiedAt = &at
		}
		if _, err := db.NewInsert().Model(u).Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, u.ID)
	}
	return ids
}

func mustRead(t *testing.T, db *store.DB, ids []model.UserID) []*model.User {
	t.Helper()
	found, err := store.Read[model.User](t.Context(), db, readUsers, store.IDs(ids))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReadReturnsTheSameAsBun(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ids := mustUsers(t, db, 5)
		var want []*model.User
		err := db.NewSelect().Model(&want).Where("u.id IN (?)", bun.List(ids[1:4])).
			OrderExpr("u.nickname_key").Scan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, mustRead(t, db, ids[1:4])); diff != "" || len(want) != 3 {
			t.Errorf("%d users (-Bun +Read): %s", len(want), diff)
		}
		if found := mustRead(t, db, nil); len(found) != 0 {
			t.Errorf("no ids bring %d users", len(found))
		}

		c := &model.Conversation{
			ID: model.NewConversationID(), Kind: model.Group, History: model.FromJoining,
			CreatedAt: db.Now(), LastActivityAt: db.Now(),
		}
		answered := model.NewMessageID()
		messages := []*model.Message{
			{
				ID: answered, ConversationID: c.ID, Seq: 1, Content: "gone", CreatedAt: db.Now(),
				DeletedAt: &c.CreatedAt,
			},
			{
				ID: model.NewMessageID(), ConversationID: c.ID, Seq: 2, AuthorID: &ids[0],
				Content: "?1", ReplyToID: &answered, CreatedAt: db.Now(), EditedAt: &c.CreatedAt,
				IdempotencyKey: &c.Title, RequestHash: []byte{1, 0, 2},
			},
		}
		for _, row := range []any{c, &messages} {
			if _, err := db.NewInsert().Model(row).Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		found, err := store.Read[model.Message](t.Context(), db,
			`SELECT ?TableColumns FROM messages AS m
			WHERE m.conversation_id = ?1 AND m.created_at <= ?2 ORDER BY m.seq`, c.ID, db.Now())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(messages, found); diff != "" {
			t.Errorf("messages (-stored +Read): %s", diff)
		}
		conversations, err := store.Read[model.Conversation](t.Context(), db,
			`SELECT ?TableColumns FROM conversations AS c WHERE (c.last_activity_at, c.id) <= (?1, ?2)`,
			c.LastActivityAt, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]*model.Conversation{c}, conversations); diff != "" {
			t.Errorf("conversations (-stored +Read): %s", diff)
		}
	})
}

func TestErrorsOfReads(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for text, want := range map[string]string{
			`SELECT 1 AS nothing`:                   "nothing",
			`SELECT u.id FROM nobody AS u`:          "nobody",
			`SELECT CAST(NULL AS text) AS nickname`: "NULL",
		} {
			_, err := store.Read[model.User](t.Context(), db, text)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v", text, err)
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := store.Read[model.User](gone, db, readUsers, store.IDs([]model.UserID{}))
		if !errors.Is(err, context.Canceled) || errs.Is(err, errs.Unavailable) {
			t.Errorf("a request that has ended: got %v", err)
		}
		if found := mustRead(t, db, mustUsers(t, db, 2)); len(found) != 2 {
			t.Errorf("%d users afterwards", len(found))
		}
	})
}

func TestReadsAtTheSameTime(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ids := mustUsers(t, db, 10)
		var all sync.WaitGroup
		for n := range 40 {
			all.Go(func() {
				some := ids[:1+n%len(ids)]
				found, err := store.Read[model.User](t.Context(), db, readUsers, store.IDs(some))
				if err != nil || len(found) != len(some) || found[0].ID != ids[0] {
					t.Errorf("%d users of %d (%v)", len(found), len(some), err)
				}
			})
		}
		all.Wait()
		if n := db.Stats().InUse; n != 0 {
			t.Errorf("%d connections are in use", n)
		}
	})
}

// mustOneConnection opens a PostgreSQL database with one connection, so that each statement runs
// after the others on the same connection. other has connections of its own.
func mustOneConnection(t *testing.T) (db, other *store.DB) {
	t.Helper()
	url := storetest.PostgresURL(t)
	other = storetest.MustOpen(t, url)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db, other
}

func mustExec(t *testing.T, db *store.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// backend returns the process id of the server's end of the connection.
func backend(t *testing.T, db *store.DB) (pid int) {
	t.Helper()
	if err := db.NewRaw("SELECT pg_backend_pid()").Scan(t.Context(), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// A prepared statement becomes stale when its connection ends and after some migrations. The read
// works all the same.
func TestReadsPrepareStaleStatementsAgain(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(t *testing.T, db, other *store.DB){
		"the connection ends": func(t *testing.T, db, other *store.DB) {
			pid := backend(t, db)
			mustExec(t, other, fmt.Sprintf("SELECT pg_terminate_backend(%d, 60000)", pid))
		},
		"a column gets another type": func(t *testing.T, _, other *store.DB) {
			mustExec(t, other, "ALTER TABLE users ALTER COLUMN about TYPE varchar(1000)")
		},
		"a column is added": func(t *testing.T, _, other *store.DB) {
			mustExec(t, other, "ALTER TABLE users ADD COLUMN another text")
		},
		"an index is dropped": func(t *testing.T, _, other *store.DB) {
			mustExec(t, other, "ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE")
		},
		"the server deallocates": func(t *testing.T, db, _ *store.DB) {
			mustExec(t, db, "DEALLOCATE ALL")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, other := mustOneConnection(t)
			ids := mustUsers(t, db, 3)
			before := mustRead(t, db, ids)
			happens(t, db, other)
			if diff := cmp.Diff(before, mustRead(t, db, ids)); diff != "" || len(before) != 3 {
				t.Errorf("%d users (-before +after): %s", len(before), diff)
			}
			if n := db.Stats().InUse; n != 0 {
				t.Errorf("%d connections are in use", n)
			}
		})
	}
}

func TestReadsOfSQLiteOutliveMigrations(t *testing.T) {
	t.Parallel()
	db := storetest.MustSQLite(t)
	ids := mustUsers(t, db, 3)
	before := mustRead(t, db, ids)
	mustExec(t, db, "ALTER TABLE users ADD COLUMN another text")
	mustExec(t, db, "CREATE INDEX users_about ON users (about)")
	if diff := cmp.Diff(before, mustRead(t, db, ids)); diff != "" || len(before) != 3 {
		t.Errorf("%d users (-before +after): %s", len(before), diff)
	}
}

func TestReadsOfSQLiteCannotWrite(t *testing.T) {
	t.Parallel()
	db := storetest.MustSQLite(t)
	mustUsers(t, db, 1)
	_, err := store.Read[model.User](t.Context(), db, `DELETE FROM users RETURNING id`)
	if err == nil {
		t.Error("a read has written")
	}
	if n, err := db.NewSelect().Model((*model.User)(nil)).Count(t.Context()); err != nil || n != 1 {
		t.Errorf("%d users are left (%v)", n, err)
	}
}

// A read does not wait for transactions, although on SQLite one holds the only connection that
// writes.
func TestReadsDoNotWaitForTransactions(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ids := mustUsers(t, db, 2)
		err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.NewUpdate().Model((*model.User)(nil)).Set("nickname = 'new'").
				Where("id = ?", ids[0]).Exec(ctx)
			if err != nil {
				return err
			}
			if found := mustRead(t, db, ids); len(found) != 2 || found[0].Nickname != "u00" {
				t.Errorf("read %+v", found[0])
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if found := mustRead(t, db, ids); found[0].Nickname != "new" {
			t.Errorf("read %+v afterwards", found[0])
		}
	})
}

func TestTheSettingsOfAReadEndWithIt(t *testing.T) {
	t.Parallel()
	db, _ := mustOneConnection(t)
	for setting, during := range map[string]string{
		"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off",
	} {
		var before, after string
		ask := "SELECT current_setting('" + setting + "')"
		if err := db.NewRaw(ask).Scan(t.Context(), &before); err != nil {
			t.Fatal(err)
		}
		for range 2 { // when it is prepared, and when it is already
			found, err := store.Read[model.User](t.Context(), db, ask+" AS nickname")
			if err != nil || len(found) != 1 || found[0].Nickname != during {
				t.Errorf("%s is %+v during a read (%v)", setting, found, err)
			}
		}
		err := db.NewRaw(ask).Scan(t.Context(), &after)
		if err != nil || after != before || after == during {
			t.Errorf("%s was %q before and is %q after (%v)", setting, before, after, err)
		}
		_, err = store.Read[model.User](t.Context(), db, "SELECT CAST(1/0 AS text) AS nickname")
		if err == nil {
			t.Fatal("divided by zero")
		}
		if err := db.NewRaw(ask).Scan(t.Context(), &after); err != nil || after != before {
			t.Errorf("%s was %q before and is %q after a read that failed (%v)",
				setting, before, after, err)
		}
	}
}
