package chat

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"sync"
	"testing"

	"github.com/uptrace/bun"

	"parley/errs"
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

// pullMine follows everything of somebody until the test ends. Following begins with the first item that is taken.
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

// TestTheHorizonWaitsForNews has somebody join and leave while their client is slow, and a comparison done before it takes the
// next item: which is the last that it takes.
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
		p.item(fmt.Sprintf("%v: left", old.ID))
		p.event(home.ID, 3)
		p.event(joined.ID, 2)
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

// sendLate begins a transaction of ann's whose id is lower than those of all that begin from now on.
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

// TestALateCommitWithALowID has a transaction take its id early, and commit after others with higher ones, whose messages are
// told and whose cursors are used. lag is when it takes its place in its conversation.
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
			last := w.sendLate(t, y.ID) // holds the horizon where it is, between the positions of the two
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

// TestTheHorizonIsHeldBack has a transaction that has nothing to do with it run for long: cursors stay right, and name no more
// than the conversations in which something has happened meanwhile.
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
	cursor, err := readMyCursor(w.id("ben"), p.cursor)
	if err != nil {
		t.Fatal(err)
	}
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

func TestACursorStaysShort(t *testing.T) {
	t.Parallel()
	const many = 50
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		var all []*model.Conversation
		for range many {
			all = append(all, MustConversation(t, w, "ann", "ben"))
		}
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		for _, c := range all {
			w.send("ann", c.ID, "x")
			p.event(c.ID, 2)
		}
		w.settle()
		w.send("ann", all[0].ID, "after a while")
		p.event(all[0].ID, 3)
		cursor, err := readMyCursor(w.id("ben"), p.cursor)
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "what the cursor names", map[model.ConversationID]int64{all[0].ID: 3}, cursor.told)
		p = p.again(w, "ben")
		p.caughtUp()
	})
}

func TestWhatIsNoCursorOfMine(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		w.send("ann", c.ID, "x")
		p.event(c.ID, 2)
		bad := map[string]string{
			"empty": "", "text": "hello", "another list's": MessageCursor(&model.Message{Seq: 1}), "longer": p.cursor + "AAAA",
			"spaces": " " + p.cursor, "a line break": p.cursor[:4] + "\n" + p.cursor[4:], "twice": p.cursor + p.cursor,
		}
		for i := range p.cursor {
			cut, err := readMyCursor(w.id("ben"), p.cursor[:i])
			if err == nil && len(cut.told) > 0 { // cut between two conversations, it is one
				t.Errorf("%d of %d characters are a cursor: %+v", i, len(p.cursor), cut)
			}
			if err != nil {
				bad[fmt.Sprint("the first ", i)] = p.cursor[:i]
			}
		}
		for name, cursor := range bad {
			_, err := w.MyEvents(t.Context(), w.actor("ben"), &cursor)
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		_, err := w.MyEvents(t.Context(), w.actor("ann"), &p.cursor)
		wantCode(t, err, errs.BadUserInput)
	})
}

// TestCursorsThatLie have the right form. Whoever makes one harms nobody but their own stream, and the stream works.
func TestCursorsThatLie(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c, other := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
		for _, horizon := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
			for _, told := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
				cursor := myCursor{1, horizon, map[model.ConversationID]int64{
					c.ID: told, other.ID: told, model.NewConversationID(): told,
				}}.encode(w.id("ben"))
				p := w.pullMine(t, "ben", &cursor)
				for item, err, ok := p.next(); !item.CaughtUp; item, err, ok = p.next() {
					if err != nil || !ok {
						t.Fatalf("horizon %d, told %d: %v", horizon, told, err)
					}
				}
				p.stop()
			}
		}
	})
}

func FuzzMyCursor(f *testing.F) {
	ben := model.NewUserID()
	f.Add(myCursor{1, 42, map[model.ConversationID]int64{model.NewConversationID(): 7}}.encode(ben))
	f.Add(myCursor{1, 42, nil}.encode(ben))
	f.Add(myCursor{1, 42, nil}.encode(model.NewUserID()))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := readMyCursor(ben, s)
		if err != nil {
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := readMyCursor(ben, c.encode(ben))
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		wantEqual(t, "told", c.told, again.told)
	})
}

func TestACursorTooOldBeginsAnew(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: never, MaxReplayed: 10}, "ann", "ben")
		for name, age := range map[string]func(t *testing.T, c *model.Conversation, p *pulledMine) string{
			"of another epoch": func(t *testing.T, _ *model.Conversation, p *pulledMine) string {
				return changed(t, w, p.cursor, func(c *myCursor) { c.epoch-- })
			},
			"of a time to come": func(t *testing.T, _ *model.Conversation, p *pulledMine) string {
				return changed(t, w, p.cursor, func(c *myCursor) { c.horizon = 1 << 60 })
			},
			"too much was missed": func(_ *testing.T, c *model.Conversation, p *pulledMine) string {
				w.sendMany("ann", c.ID, 11)
				return p.cursor
			},
		} {
			t.Run(name, func(t *testing.T) {
				c := MustConversation(t, w, "ann", "ben")
				p := w.pullMine(t, "ben", nil)
				p.caughtUp()
				p.stop()
				cursor := age(t, c, p)
				last := int64(len(w.stored(c.ID)))
				p = w.pullMine(t, "ben", &cursor)
				p.item("reset")
				atReset := p.cursor
				p.caughtUp()
				w.sendMany("ann", c.ID, 2)
				p.event(c.ID, last+1)
				p = p.again(w, "ben")
				p.event(c.ID, last+2)
				p.caughtUp()
				again := w.pullMine(t, "ben", &atReset)
				again.events(c.ID, last+1, last+2)
				again.caughtUp()
			})
		}
		t.Run("as much as may be missed", func(t *testing.T) {
			c := MustConversation(t, w, "ann", "ben")
			p := w.pullMine(t, "ben", nil)
			p.caughtUp()
			w.sendMany("ann", c.ID, 10)
			p = p.again(w, "ben")
			p.events(c.ID, 2, 11)
			p.caughtUp()
		})
	})
}

func changed(t *testing.T, w *world, cursor string, change func(*myCursor)) string {
	t.Helper()
	c, err := readMyCursor(w.id("ben"), cursor)
	if err != nil {
		t.Fatal(err)
	}
	change(&c)
	return c.encode(w.id("ben"))
}

// TestNothingFallsBetweenACursorAndWhatIsRead reads a cursor and then the messages, while others send: what was not read is
// told.
func TestNothingFallsBetweenACursorAndWhatIsRead(t *testing.T) {
	t.Parallel()
	const senders, each, rounds = 3, 20, 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: compareSoon}, "ann", "ben")
		var all []*model.Conversation
		for range senders {
			all = append(all, MustConversation(t, w, "ann", "ben"))
		}
		var sending sync.WaitGroup
		failed := make([]error, senders)
		for i := range senders {
			sending.Go(func() {
				for n := range each {
					_, err := w.SendMessage(t.Context(), w.actors["ann"], SendMessage{
						ConversationID: all[(i+n)%len(all)].ID, Content: fmt.Sprint(n),
					})
					failed[i] = errors.Join(failed[i], err)
				}
			})
		}
		type read struct {
			cursor string
			seqs   map[model.ConversationID]int64
		}
		var reads []read
		for range rounds {
			r := read{seqs: map[model.ConversationID]int64{}}
			var err error
			if r.cursor, err = w.MyEventsCursor(t.Context(), w.actor("ben")); err != nil {
				t.Fatal(err)
			}
			for _, c := range all {
				if r.seqs[c.ID], _, err = w.position(t.Context(), w.actor("ben"), c.ID); err != nil {
					t.Fatal(err)
				}
			}
			reads = append(reads, r)
		}
		sending.Wait()
		if err := errors.Join(failed...); err != nil {
			t.Fatal(err)
		}
		for _, r := range reads {
			p := w.pullMine(t, "ben", &r.cursor)
			for item, err, _ := p.next(); !item.CaughtUp; item, err, _ = p.next() {
				if err != nil || item.Event == nil {
					t.Fatalf("got %s (%v)", tellItem(item), err)
				}
				e := item.Event
				if e.Seq > r.seqs[e.ConversationID]+1 {
					t.Fatalf("seq %d came after %d", e.Seq, r.seqs[e.ConversationID])
				}
				r.seqs[e.ConversationID] = max(r.seqs[e.ConversationID], e.Seq)
			}
			for _, c := range all {
				if want := int64(len(w.stored(c.ID))); r.seqs[c.ID] != want {
					t.Errorf("%v: told up to %d of %d", c.ID, r.seqs[c.ID], want)
				}
			}
		}
	})
}

func (w *world) mustEpoch(t *testing.T) int64 {
	t.Helper()
	epoch, err := w.epoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

func TestADatabaseFromAnotherServerBeginsAnEpoch(t *testing.T) {
	t.Parallel()
	for table, column := range map[string]string{
		"stream_epoch": "reached", "conversation_members": "position", "departures": "position",
	} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			db := storetest.MustPostgres(t)
			w := MustWorldWith(t, db, Options{CompareEvery: never, Log: slog.New(slog.DiscardHandler)}, "ann", "ben")
			c, left := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
			w.removeBen(left)
			p := w.pullMine(t, "ben", nil)
			p.caughtUp()
			p.stop()
			check := func(want int64) {
				t.Helper()
				if err := w.CheckEpoch(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantEqual(t, "epoch", want, w.mustEpoch(t))
			}
			check(1)
			if _, err := db.NewRaw("UPDATE ? SET ? = 1000000000000", bun.Ident(table), bun.Ident(column)).Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
			check(2)
			check(2)
			p = w.pullMine(t, "ben", &p.cursor)
			p.item("reset")
			p.caughtUp()
			w.send("ann", c.ID, "in the new epoch")
			p.event(c.ID, 2)
			p = p.again(w, "ben")
			p.caughtUp()
		})
	}
}

// TestANodeThatStartsWhileOthersWork checks the epoch, as it does then, while positions beyond its own transaction are taken.
func TestANodeThatStartsWhileOthersWork(t *testing.T) {
	t.Parallel()
	const workers, times = 4, 100
	db := storetest.MustPostgres(t)
	w := MustWorldWith(t, db, Options{CompareEvery: never, Log: slog.New(slog.DiscardHandler)}, "ann", "ben")
	var conversations []*model.Conversation
	for range workers {
		conversations = append(conversations, MustConversation(t, w, "ann", "ben"))
	}
	stop := make(chan struct{})
	var working sync.WaitGroup
	for i, c := range conversations {
		working.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				pinned := n%2 == 0
				_, err := w.UpdateMembership(t.Context(), w.actors["ben"], UpdateMembership{ConversationID: c.ID, Pinned: &pinned})
				if err != nil {
					t.Errorf("worker %d: %v", i, err)
					return
				}
			}
		})
	}
	var failed error
	for range times {
		failed = errors.Join(failed, w.CheckEpoch(t.Context()))
	}
	close(stop)
	working.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	wantEqual(t, "epoch", int64(1), w.mustEpoch(t))
}
