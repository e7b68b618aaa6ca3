package feed_test

import (
	"context"
	"errors"
	"testing"

	"parley/chat/chattest"
	"parley/store"
	"parley/store/privatepg"
	"parley/store/storetest"
)

// mustCrashing returns a database on a PostgreSQL server of its own. What is committed survives
// when the server is killed.
func mustCrashing(t *testing.T) (*store.DB, *privatepg.Server) {
	t.Helper()
	if storetest.Skipped("postgres") {
		t.Skipf("%s names postgres", storetest.Skip)
	}
	server, err := privatepg.Start(t.Context(), "fsync = off", "synchronous_commit = on",
		"full_page_writes = off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return storetest.MustOpen(t, server.URL("postgres")), server
}

var errRollBack = errors.New("this transaction is not to be")

// PostgreSQL crashes and assigns the id of a transaction that was rolled back again. A cursor from
// between the two must not skip the second one.
func TestATransactionIDThatIsAssignedAgain(t *testing.T) {
	t.Parallel()
	db, server := mustCrashing(t)
	w := mustFixture(t, db, "ann", "ben")
	// Every 15 seconds PostgreSQL stores the next id, which is then not assigned again.
	for range 5 {
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.settle()
		rolledBack := w.rollBack()
		atQuery, err := w.ViewerEventsCursor(t.Context(), w.Actor("ben"))
		if err != nil {
			t.Fatal(err)
		}
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		p.Stop()
		if err := server.Restart(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		chattest.WaitUntil(t, "the database is there", func() bool {
			_, err := w.Checkpoint(t.Context())
			return err == nil
		})
		w.Send("ann", c.ID, "after the crash")
		for _, cursor := range []string{atQuery, p.Cursor} {
			p := w.PullEvents(t, "ben", &cursor)
			p.Event(c.ID, 2)
			p.CaughtUp()
			p.Stop()
		}
		if w.Stored(c.ID)[1].Position == rolledBack {
			return
		}
	}
	t.Error("PostgreSQL has given no id again")
}

// rollBack rolls a transaction back, and returns its id.
func (w *fixture) rollBack() (id int64) {
	w.T.Helper()
	err := w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := tx.NewRaw("SELECT pg_current_xact_id()::text::bigint").
			Scan(ctx, &id); err != nil {
			return err
		}
		return errRollBack
	})
	if !errors.Is(err, errRollBack) {
		w.T.Fatal(err)
	}
	return id
}
