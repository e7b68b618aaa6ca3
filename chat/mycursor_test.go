package chat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

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
		wantEqual(t, "what the cursor names", map[model.ConversationID]int64{all[0].ID: 3}, w.mustReadCursor("ben", p.cursor).told)
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
			bad[fmt.Sprint("the first ", i)] = p.cursor[:i]
			other := "A"
			if p.cursor[i] == 'A' {
				other = "B"
			}
			bad[fmt.Sprint("changed at ", i)] = p.cursor[:i] + other + p.cursor[i+1:]
		}
		read := countStatements(w.db)
		for name, cursor := range bad {
			_, err := w.MyEvents(t.Context(), w.actor("ben"), &cursor)
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		_, err := w.MyEvents(t.Context(), w.actor("ann"), &p.cursor)
		wantCode(t, err, errs.BadUserInput)
		wantEqual(t, "statements for cursors that are refused", int64(0), read.Load())
	})
}

// countStatements counts statements from now on.
func countStatements(db *store.DB) *atomic.Int64 {
	counter := &statementsSeen{}
	db.Watch(counter)
	return &counter.n
}

type statementsSeen struct{ n atomic.Int64 }

func (*statementsSeen) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	return ctx
}
func (c *statementsSeen) AfterQuery(context.Context, *bun.QueryEvent) { c.n.Add(1) }

// mustCursorKey is the database's.
func (w *world) mustCursorKey() cursorKey {
	w.t.Helper()
	key, err := w.cursorKey(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

func (w *world) mustReadCursor(nickname, cursor string) myCursor {
	w.t.Helper()
	c, err := readMyCursor(w.mustCursorKey(), w.id(nickname), cursor)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// TestAForgedCursorIsRefused makes cursors of the right form without the key: with that of another
// database, and with none.
func TestAForgedCursorIsRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		w.sendMany("ann", c.ID, 5)
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		wantEqual(t, "bytes of the key", 32, len(w.mustCursorKey()))
		other := New(storetest.MustSQLite(t), Options{})
		otherKey, err := other.cursorKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		read := countStatements(w.db)
		for name, key := range map[string]cursorKey{"another key": otherKey, "no key": nil, "zeros": make(cursorKey, 32)} {
			forged := myCursor{1, lowWatermark{}, map[model.ConversationID]int64{c.ID: 1}}.encode(key, w.id("ben"))
			_, err := w.MyEvents(t.Context(), w.actor("ben"), &forged)
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		wantEqual(t, "statements for cursors that are refused", int64(0), read.Load())
	})
}

// TestACursorOutlivesItsNode comes back to a node that has just started, and to one before whose
// time the cursor's form is.
func TestACursorOutlivesItsNode(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		w.send("ann", c.ID, "x")
		next := MustWorld(t, db)
		next.actors = w.actors
		p = p.again(next, "ben")
		p.event(c.ID, 2)
		p.caughtUp()

		content := []byte{cursorVersion + 1, 'w', 'h', 'a', 't', 'e', 'v', 'e', 'r'}
		newer := store.NewCursor(myStreamList).Bytes(w.mustCursorKey().mac(w.id("ben"), content)).Bytes(content).String()
		p = next.pullMine(t, "ben", &newer)
		p.item("reset")
		p.caughtUp()
	})
}

// TestCursorsThatLie are authentic, as one is that was made before the database was set back. The
// stream works all the same.
func TestCursorsThatLie(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c, other := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
		for _, horizon := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
			for _, told := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
				cursor := myCursor{1, lowWatermark{position: horizon}, map[model.ConversationID]int64{
					c.ID: told, other.ID: told, model.NewConversationID(): told,
				}}.encode(w.mustCursorKey(), w.id("ben"))
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
	ben, key := model.NewUserID(), cursorKey("a key")
	low := lowWatermark{42, model.NewConversationID()}
	f.Add(myCursor{1, low, map[model.ConversationID]int64{model.NewConversationID(): 7}}.encode(key, ben), []byte{cursorVersion, 2, 84})
	f.Add(myCursor{1, low, nil}.encode(key, ben), []byte{})
	f.Add(myCursor{1, low, nil}.encode(key, model.NewUserID()), []byte{cursorVersion})
	f.Add("", []byte{cursorVersion + 1})
	f.Fuzz(func(t *testing.T, s string, content []byte) {
		if _, err := readMyCursor(key, ben, s); err != nil && !errs.Is(err, errs.BadUserInput) {
			t.Errorf("%q: %v", s, err)
		}
		// What is authentic is read whatever it is.
		authentic := store.NewCursor(myStreamList).Bytes(key.mac(ben, content)).Bytes(content).String()
		c, err := readMyCursor(key, ben, authentic)
		if err != nil {
			return
		}
		again, err := readMyCursor(key, ben, c.encode(key, ben))
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		wantEqual(t, "told", c.told, again.told)
		wantEqual(t, "low watermark", c.low, again.low, cmp.AllowUnexported(lowWatermark{}))
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
				return changed(t, w, p.cursor, func(c *myCursor) { c.low.position = 1 << 60 })
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
	c := w.mustReadCursor("ben", cursor)
	change(&c)
	return c.encode(w.mustCursorKey(), w.id("ben"))
}

// TestNothingFallsBetweenACursorAndWhatIsRead reads a cursor and then the messages, while others
// send: what was not read is told.
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

// TestANodeThatStartsWhileOthersWork checks the epoch, as it does then, while positions beyond its
// own transaction are taken.
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
