package chat

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"testing"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// pulledMine takes what MyEvents yields one at a time.
type pulledMine struct {
	t      *testing.T
	next   func() (MyEvent, error, bool)
	stop   func()
	cursor string // of the last item
}

// pullMine follows everything of somebody until the test ends. Following begins with the first item
// that is taken.
func (w *world) pullMine(t *testing.T, nickname string, after *string) *pulledMine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	items, err := w.MyEvents(ctx, w.actor(nickname), after)
	if err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(items)
	t.Cleanup(stop)
	return &pulledMine{t: t, next: next, stop: stop}
}

// again comes back with the cursor of the last item.
func (p *pulledMine) again(w *world, nickname string) *pulledMine {
	p.t.Helper()
	p.stop()
	return w.pullMine(p.t, nickname, &p.cursor)
}

// item takes the next one, which has to be this, in the words of tellItem.
func (p *pulledMine) item(want string) MyEvent {
	p.t.Helper()
	item, err, ok := p.next()
	if err != nil || !ok {
		p.t.Fatalf("got the end (%v) instead of %q", err, want)
	}
	if got := tellItem(item); got != want {
		p.t.Fatalf("got %q, want %q", got, want)
	}
	p.cursor = item.Cursor
	return item
}

// items takes as many items as there are, which have to be these, in any order.
func (p *pulledMine) items(want ...string) {
	p.t.Helper()
	var got []string
	for range want {
		item, err, ok := p.next()
		if err != nil || !ok {
			p.t.Fatalf("got the end (%v) after %q, want %q", err, got, want)
		}
		got = append(got, tellItem(item))
		p.cursor = item.Cursor
	}
	slices.Sort(got)
	slices.Sort(want)
	wantEqual(p.t, "items", want, got)
}

func (p *pulledMine) caughtUp() { p.t.Helper(); p.item("caught up") }

// event takes the next item, which has to be this event.
func (p *pulledMine) event(id model.ConversationID, seq int64) *model.Event {
	p.t.Helper()
	item, err, ok := p.next()
	if err != nil || !ok || item.Event == nil || item.Event.ConversationID != id || item.Event.Seq != seq {
		p.t.Fatalf("got %q (%v), want seq %d of %v", tellItem(item), err, seq, id)
	}
	p.cursor = item.Cursor
	return item.Event
}

func (p *pulledMine) events(id model.ConversationID, from, to int64) {
	p.t.Helper()
	for seq := from; seq <= to; seq++ {
		p.event(id, seq)
	}
}

func (w *world) removeBen(c *model.Conversation) {
	w.t.Helper()
	if _, err := w.RemoveMember(w.t.Context(), w.actor("ann"), c.ID, w.id("ben")); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) addBen(c *model.Conversation) {
	w.t.Helper()
	if _, err := w.AddMembers(w.t.Context(), w.actor("ann"), c.ID, w.members("ben")); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) compareNow() {
	w.t.Helper()
	if err := w.compareAll(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func removedAt(c *model.Conversation, seq int64) string {
	return fmt.Sprintf("%v: %d member_removed", c.ID, seq)
}

func TestWhoStopsAfterTheirRemovalIsToldThatTheyLeft(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		w.removeBen(c)
		p.item(removedAt(c, 2))
		p = p.again(w, "ben")
		p.item(fmt.Sprintf("%v: left", c.ID))
		p = p.again(w, "ben")
		p.caughtUp()
	})
}

func TestWhoStopsAfterJoiningAgainIsNotToldTwice(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		w.removeBen(c)
		w.addBen(c)
		p.item(removedAt(c, 2))
		p.item(fmt.Sprintf("%v: left", c.ID))
		p.item(fmt.Sprintf("%v: joined", c.ID))
		w.send("ann", c.ID, "welcome back")
		p.event(c.ID, 4)
		for range 3 {
			p = p.again(w, "ben")
			p.caughtUp()
		}
		w.send("ann", c.ID, "once more")
		p.event(c.ID, 5)
	})
}

// TestTheHorizonWaitsForNews has somebody join and leave while their client is slow, and a
// comparison done before it takes the next item: which is the last that it takes.
func TestTheHorizonWaitsForNews(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		home, old := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		w.send("ann", home.ID, "one")
		p.event(home.ID, 2)
		w.send("ann", home.ID, "two")
		f := w.feed(home.ID)
		waitUntil(t, "it is queued", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.edge == 3 })
		joined := MustConversation(t, w, "ann", "ben")
		w.send("ann", joined.ID, "welcome")
		w.removeBen(old)
		w.settle()
		p.item(fmt.Sprintf("%v: joined", joined.ID))
		p = p.again(w, "ben")
		p.items(
			fmt.Sprintf("%v: left", old.ID), fmt.Sprintf("%v: 3 message_added", home.ID), fmt.Sprintf("%v: 2 message_added", joined.ID),
		)
		p.caughtUp()
	})
}

// settle compares until everything that is stored now is below the horizon.
func (w *world) settle() {
	w.t.Helper()
	now := w.positionNow()
	waitUntil(w.t, "the horizon has passed", func() bool {
		w.compareNow()
		return w.settled.Load().horizon > now
	})
}

// positionNow is at or beyond all that is stored.
func (w *world) positionNow() (position int64) {
	w.t.Helper()
	query := "SELECT last FROM event_position"
	if w.db.Postgres() {
		query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1"
	}
	if err := w.db.NewRaw(query).Scan(w.t.Context(), &position); err != nil {
		w.t.Fatal(err)
	}
	return position
}

// lateSend is a transaction that sends a message, takes its id at once, and waits before each step.
type lateSend struct {
	t           *testing.T
	began, done chan struct{}
	goOn        chan struct{}
	err         error
}

// sendLate begins a transaction of ann's whose id is lower than those of all that begin from now
// on.
func (w *world) sendLate(t *testing.T, id model.ConversationID) *lateSend {
	t.Helper()
	l := &lateSend{t: t, began: make(chan struct{}), done: make(chan struct{}), goOn: make(chan struct{})}
	m := &model.Message{ID: model.NewMessageID(), ConversationID: id, AuthorID: new(w.id("ann")), Content: "late"}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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
		l.err = w.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
			if _, err := tx.ExecContext(ctx, "SELECT pg_current_xact_id()"); err != nil {
				return err
			}
			close(l.began)
			if err := wait(); err != nil {
				return err
			}
			p, err := nextPlace(ctx, tx, id, model.MessageAdded)
			if err != nil {
				return err
			}
			m.Seq, m.CreatedAt = p.seq, p.at
			if _, err := tx.NewInsert().Model(m).Exec(ctx); err != nil {
				return err
			}
			e := &model.Event{
				ConversationID: id, Seq: p.seq, At: p.at, Kind: model.MessageAdded, ActorID: m.AuthorID, MessageID: &m.ID, Message: m,
			}
			if err := w.appendEvent(ctx, tx, e, struct{}{}); err != nil {
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

// TestALateCommitWithALowID has a transaction take its id early, and commit after others with
// higher ones, whose messages are told and whose cursors are used. lag is when it takes its place
// in its conversation.
func TestALateCommitWithALowID(t *testing.T) {
	t.Parallel()
	for name, writes := range map[string]string{
		"writes before the others": "before", "writes after the others, in another conversation": "after",
		"writes after the others, in the same one": "same",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := storetest.MustPostgres(t)
			w := MustWorld(t, db, "ann", "ben")
			x, y := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
			p := w.pullMine(t, "ben", nil)
			p.caughtUp()
			late := w.sendLate(t, x.ID)
			if writes == "before" {
				late.write()
			}
			seqOfX := int64(2)
			w.send("ann", y.ID, "of a higher id")
			p.event(y.ID, 2)
			if writes == "same" {
				w.send("ann", x.ID, "of a higher id, before the late one")
				p.event(x.ID, seqOfX)
				seqOfX++
			}
			w.compareNow()
			cursors := []string{p.cursor}
			snapshot, err := w.MyEventsCursor(t.Context(), w.actor("ben"))
			if err != nil {
				t.Fatal(err)
			}
			p = p.again(w, "ben")
			p.caughtUp()
			cursors = append(cursors, p.cursor, snapshot)
			if writes != "before" {
				late.write()
			}
			w.compareNow()
			late.commit()
			p.event(x.ID, seqOfX)
			// holds the horizon where it is, between the positions of the two
			last := w.sendLate(t, y.ID)
			w.compareNow()
			for _, cursor := range cursors {
				again := w.pullMine(t, "ben", &cursor)
				again.event(x.ID, seqOfX)
				again.caughtUp()
				again = again.again(w, "ben")
				again.caughtUp()
			}
			p = p.again(w, "ben")
			p.caughtUp()
			last.write()
			last.commit()
			p.event(y.ID, 3)
			w.settle()
			for _, cursor := range cursors {
				again := w.pullMine(t, "ben", &cursor)
				for range 2 { // in either order
					item, err, _ := again.next()
					if err != nil || item.Event == nil || *item.Event.MessageID == (model.MessageID{}) {
						t.Fatalf("got %s (%v)", tellItem(item), err)
					}
					again.cursor = item.Cursor
				}
				again.caughtUp()
			}
		})
	}
}

// TestTheHorizonIsHeldBack has a transaction that has nothing to do with it run for long: cursors
// stay right, and name no more than the conversations in which something has happened meanwhile.
func TestTheHorizonIsHeldBack(t *testing.T) {
	t.Parallel()
	db := storetest.MustPostgres(t)
	w := MustWorld(t, db, "ann", "ben", "cleo")
	c, quiet := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
	p := w.pullMine(t, "ben", nil)
	p.caughtUp()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE users SET about = 'long' WHERE id = ?", w.id("cleo")); err != nil {
		t.Fatal(err)
	}
	for seq := int64(2); seq <= 60; seq++ {
		w.send("ann", c.ID, "x")
		p.event(c.ID, seq)
		if seq%10 == 0 {
			w.compareNow()
			p = p.again(w, "ben")
			p.caughtUp()
		}
	}
	cursor := w.mustReadCursor("ben", p.cursor)
	if _, named := cursor.told[c.ID]; !named || len(cursor.told) > 2 {
		t.Errorf("the cursor names %v", cursor.told)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.send("ann", quiet.ID, "y")
	p.event(quiet.ID, 2)
	p = p.again(w, "ben")
	p.caughtUp()
}
