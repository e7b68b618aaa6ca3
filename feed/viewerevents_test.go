package feed_test

import (
	"context"
	"fmt"
	"testing"

	"parley/chat/chattest"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func (w *fixture) reconcileNow() {
	w.T.Helper()
	if err := w.ReconcileAll(w.T.Context()); err != nil {
		w.T.Fatal(err)
	}
}

func removedAt(c *model.Conversation, seq int64) string {
	return fmt.Sprintf("%v: %d member_removed", c.ID, seq)
}

func TestAClientThatStopsAfterTheRemovalGetsLeft(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		w.RemoveBen(c)
		p.Item(removedAt(c, 2))
		p = p.Again(w.Fixture, "ben")
		p.Item(fmt.Sprintf("%v: left", c.ID))
		p = p.Again(w.Fixture, "ben")
		p.CaughtUp()
	})
}

func TestAClientThatStopsAfterJoiningAgainGetsNothingTwice(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		w.RemoveBen(c)
		w.AddBen(c)
		p.Item(removedAt(c, 2))
		p.Item(fmt.Sprintf("%v: left", c.ID))
		p.Item(fmt.Sprintf("%v: joined", c.ID))
		w.Send("ann", c.ID, "welcome back")
		p.Event(c.ID, 4)
		for range 3 {
			p = p.Again(w.Fixture, "ben")
			p.CaughtUp()
		}
		w.Send("ann", c.ID, "once more")
		p.Event(c.ID, 5)
	})
}

// ben joins and leaves while his client is slow, and a round of reconciling is done before it takes
// the next item, which is the last one that it takes.
func TestTheLowWatermarkWaitsForMembershipHints(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		home, old := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		w.Send("ann", home.ID, "one")
		p.Event(home.ID, 2)
		w.Send("ann", home.ID, "two")
		f := w.FeedOf(home.ID)
		chattest.WaitUntil(t, "it is queued", func() bool { return f.Edge() == 3 })
		joined := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.Send("ann", joined.ID, "welcome")
		w.RemoveBen(old)
		w.settle()
		p.Item(fmt.Sprintf("%v: joined", joined.ID))
		p = p.Again(w.Fixture, "ben")
		p.Items(
			fmt.Sprintf("%v: left", old.ID), fmt.Sprintf("%v: 3 message_added", home.ID),
			fmt.Sprintf("%v: 2 message_added", joined.ID),
		)
		p.CaughtUp()
	})
}

// settle reconciles until everything that is stored now is below the low watermark.
func (w *fixture) settle() {
	w.T.Helper()
	now := w.positionNow()
	chattest.WaitUntil(w.T, "the low watermark has passed", func() bool {
		w.reconcileNow()
		return w.ReconciledLowWatermark() > now
	})
}

// positionNow returns the highest position that is stored.
func (w *fixture) positionNow() (position int64) {
	w.T.Helper()
	const query = `SELECT max(position) FROM (SELECT position FROM events
		UNION ALL SELECT position FROM conversation_members
		UNION ALL SELECT position FROM departures) AS p`
	if err := w.DB.NewRaw(query).Scan(w.T.Context(), &position); err != nil {
		w.T.Fatal(err)
	}
	return position
}

// lateSend is a transaction that sends a message. It is assigned its id at once, and waits before
// each step.
type lateSend struct {
	t           *testing.T
	began, done chan struct{}
	goOn        chan struct{}
	err         error
}

// sendLate begins a transaction of ann's, whose id is lower than those of all that begin later.
func (w *fixture) sendLate(t *testing.T, id model.ConversationID) *lateSend {
	t.Helper()
	l := &lateSend{
		t: t, began: make(chan struct{}), done: make(chan struct{}),
		goOn: make(chan struct{}),
	}
	m := &model.Message{
		ID: model.NewMessageID(), ConversationID: id,
		AuthorID: new(w.UserID("ann")), Content: "late",
	}
	ctx, cancel := context.WithTimeout(t.Context(), chattest.Patience)
	wait := func() error {
		select {
		case <-l.goOn:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	go func() {
		defer close(l.done)
		l.err = w.DB.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
			if _, err := tx.ExecContext(ctx, "SELECT pg_current_xact_id()"); err != nil {
				return err
			}
			close(l.began)
			if err := wait(); err != nil {
				return err
			}
			e := &model.Event{
				ConversationID: id, Kind: model.MessageAdded, ActorID: m.AuthorID, MessageID: &m.ID,
				Message: m,
			}
			if err := feed.TakeSeq(ctx, tx, e); err != nil {
				return err
			}
			m.Seq, m.CreatedAt = e.Seq, e.At
			if _, err := tx.NewInsert().Model(m).Exec(ctx); err != nil {
				return err
			}
			if err := w.AppendFirst(ctx, tx, e, struct{}{}); err != nil {
				return err
			}
			return wait()
		})
	}()
	t.Cleanup(func() { cancel(); <-l.done })
	select {
	case <-l.began:
	case <-l.done:
		t.Fatal(l.err)
	}
	return l
}

func (l *lateSend) write() { l.goOn <- struct{}{} }

func (l *lateSend) commit() {
	l.t.Helper()
	l.goOn <- struct{}{}
	if <-l.done; l.err != nil {
		l.t.Fatal(l.err)
	}
}

// A transaction is assigned its id early, and commits after others with higher ids, whose messages
// are delivered and whose cursors are used. lag is when it locks its conversation.
func TestALateCommitWithALowID(t *testing.T) {
	t.Parallel()
	for name, writes := range map[string]string{
		"writes before the others":                         "before",
		"writes after the others, in another conversation": "after",
		"writes after the others, in the same one":         "same",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := storetest.MustPostgres(t)
			w := mustFixture(t, db, "ann", "ben")
			x, y := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
				chattest.MustConversation(t, w.Fixture, "ann", "ben")
			p := w.PullEvents(t, "ben", nil)
			p.CaughtUp()
			late := w.sendLate(t, x.ID)
			if writes == "before" {
				late.write()
			}
			seqOfX := int64(2)
			w.Send("ann", y.ID, "of a higher id")
			p.Event(y.ID, 2)
			if writes == "same" {
				w.Send("ann", x.ID, "of a higher id, before the late one")
				p.Event(x.ID, seqOfX)
				seqOfX++
			}
			w.reconcileNow()
			cursors := []string{p.Cursor}
			snapshot, err := w.ViewerEventsCursor(t.Context(), w.Actor("ben"))
			if err != nil {
				t.Fatal(err)
			}
			p = p.Again(w.Fixture, "ben")
			p.CaughtUp()
			cursors = append(cursors, p.Cursor, snapshot)
			if writes != "before" {
				late.write()
			}
			w.reconcileNow()
			late.commit()
			p.Event(x.ID, seqOfX)
			// holds the low watermark between the positions of the two
			last := w.sendLate(t, y.ID)
			w.reconcileNow()
			for _, cursor := range cursors {
				again := w.PullEvents(t, "ben", &cursor)
				again.Event(x.ID, seqOfX)
				again.CaughtUp()
				again = again.Again(w.Fixture, "ben")
				again.CaughtUp()
			}
			p = p.Again(w.Fixture, "ben")
			p.CaughtUp()
			last.write()
			last.commit()
			p.Event(y.ID, 3)
			w.settle()
			for _, cursor := range cursors {
				again := w.PullEvents(t, "ben", &cursor)
				for range 2 { // in either order
					item, err, _ := again.Next()
					if err != nil || item.Event == nil ||
						*item.Event.MessageID == (model.MessageID{}) {
						t.Fatalf("got %s (%v)", chattest.ItemText(item), err)
					}
					again.Cursor = item.Cursor
				}
				again.CaughtUp()
			}
		})
	}
}

// An unrelated transaction runs for long: cursors stay right, and name only the conversations with
// events since.
func TestTheLowWatermarkIsHeldBack(t *testing.T) {
	t.Parallel()
	db := storetest.MustPostgres(t)
	w := mustFixture(t, db, "ann", "ben", "cleo")
	c, quiet := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
		chattest.MustConversation(t, w.Fixture, "ann", "ben")
	p := w.PullEvents(t, "ben", nil)
	p.CaughtUp()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE users SET about = 'long' WHERE id = ?",
		w.UserID("cleo")); err != nil {
		t.Fatal(err)
	}
	for seq := int64(2); seq <= 60; seq++ {
		w.Send("ann", c.ID, "x")
		p.Event(c.ID, seq)
		if seq%10 == 0 {
			w.reconcileNow()
			p = p.Again(w.Fixture, "ben")
			p.CaughtUp()
		}
	}
	cursor := w.mustReadCursor("ben", p.Cursor)
	if _, named := cursor.Seqs()[c.ID]; !named || len(cursor.Seqs()) > 2 {
		t.Errorf("the cursor names %v", cursor.Seqs())
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.Send("ann", quiet.ID, "y")
	p.Event(quiet.ID, 2)
	p = p.Again(w.Fixture, "ben")
	p.CaughtUp()
}
