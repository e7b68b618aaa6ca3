package feed_test

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

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestACursorStaysShort(t *testing.T) {
	t.Parallel()
	const many = 50
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		var all []*model.Conversation
		for range many {
			all = append(all, chattest.MustConversation(t, w.Fixture, "ann", "ben"))
		}
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		for _, c := range all {
			w.Send("ann", c.ID, "x")
			p.Event(c.ID, 2)
		}
		w.settle()
		w.Send("ann", all[0].ID, "after a while")
		p.Event(all[0].ID, 3)
		chattest.WantEqual(t, "what the cursor names", map[model.ConversationID]int64{all[0].ID: 3},
			w.mustReadCursor("ben", p.Cursor).Seqs())
		p = p.Again(w.Fixture, "ben")
		p.CaughtUp()
	})
}

func TestAnInvalidCursorIsRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		w.Send("ann", c.ID, "x")
		p.Event(c.ID, 2)
		bad := map[string]string{
			"empty": "", "text": "hello", "another list's": feed.MessageCursor(
				&model.Message{Seq: 1}), "longer": p.Cursor + "AAAA",
			"spaces": " " + p.Cursor, "a line break": p.Cursor[:4] + "\n" + p.Cursor[4:],
			"twice": p.Cursor + p.Cursor,
		}
		for i := range p.Cursor {
			bad[fmt.Sprint("the first ", i)] = p.Cursor[:i]
			other := "A"
			if p.Cursor[i] == 'A' {
				other = "B"
			}
			bad[fmt.Sprint("changed at ", i)] = p.Cursor[:i] + other + p.Cursor[i+1:]
		}
		read := countStatements(w.DB)
		for name, cursor := range bad {
			_, err := w.ViewerEvents(t.Context(), w.Actor("ben"), &cursor)
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		_, err := w.ViewerEvents(t.Context(), w.Actor("ann"), &p.Cursor)
		chattest.WantCode(t, err, errs.BadUserInput)
		chattest.WantEqual(t, "statements for cursors that are refused", int64(0), read.Load())
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

// mustCursorKey returns the database's cursor key.
func (w *fixture) mustCursorKey() feed.CursorKey {
	w.T.Helper()
	key, err := w.ReadCursorKey(w.T.Context())
	if err != nil {
		w.T.Fatal(err)
	}
	return key
}

func (w *fixture) mustReadCursor(nickname, cursor string) feed.ViewerCursor {
	w.T.Helper()
	c, err := feed.ReadViewerCursor(w.mustCursorKey(), w.UserID(nickname), cursor)
	if err != nil {
		w.T.Fatal(err)
	}
	return c
}

// The cursors have the right form, but an HMAC of another database's key, or of none.
func TestAForgedCursorIsRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.SendMany("ann", c.ID, 5)
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		chattest.WantEqual(t, "bytes of the key", 32, len(w.mustCursorKey()))
		other := chattest.NewServices(storetest.MustSQLite(t), chattest.Options{})
		otherKey, err := other.ReadCursorKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		read := countStatements(w.DB)
		for name, key := range map[string]feed.CursorKey{
			"another key": otherKey, "no key": nil,
			"zeros": make(feed.CursorKey, 32),
		} {
			forged := feed.NewViewerCursor(1, 0, model.ConversationID{},
				map[model.ConversationID]int64{c.ID: 1}).Encode(key, w.UserID("ben"))
			_, err := w.ViewerEvents(t.Context(), w.Actor("ben"), &forged)
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		chattest.WantEqual(t, "statements for cursors that are refused", int64(0), read.Load())
	})
}

// A client resumes on a node that has just started, and on one that does not know the cursor's
// version.
func TestACursorOutlivesItsNode(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		w.Send("ann", c.ID, "x")
		next := mustFixture(t, db)
		next.Actors = w.Actors
		p = p.Again(next.Fixture, "ben")
		p.Event(c.ID, 2)
		p.CaughtUp()

		content := []byte{feed.CursorVersion + 1, 'w', 'h', 'a', 't', 'e', 'v', 'e', 'r'}
		newer := store.NewCursor(feed.ViewerEventsList).
			Bytes(w.mustCursorKey().MAC(w.UserID("ben"), content)).Bytes(content).String()
		p = next.PullEvents(t, "ben", &newer)
		p.Item("reset")
		p.CaughtUp()
	})
}

// Cursors are authentic but do not fit, as after the database was set back. The stream works all
// the same.
func TestAuthenticCursorsWithWrongContent(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c, other := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for _, position := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
			for _, seq := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
				cursor := feed.NewViewerCursor(1, position, model.ConversationID{},
					map[model.ConversationID]int64{
						c.ID: seq, other.ID: seq, model.NewConversationID(): seq,
					}).Encode(w.mustCursorKey(), w.UserID("ben"))
				p := w.PullEvents(t, "ben", &cursor)
				for item, err, ok := p.Next(); !item.CaughtUp; item, err, ok = p.Next() {
					if err != nil || !ok {
						t.Fatalf("position %d, seq %d: %v", position, seq, err)
					}
				}
				p.Stop()
			}
		}
	})
}

func FuzzViewerCursor(f *testing.F) {
	ben, key := model.NewUserID(), feed.CursorKey("a key")
	at := model.NewConversationID()
	f.Add(feed.NewViewerCursor(1, 42, at,
		map[model.ConversationID]int64{model.NewConversationID(): 7}).Encode(key, ben),
		[]byte{feed.CursorVersion, 2, 84})
	f.Add(feed.NewViewerCursor(1, 42, at, nil).Encode(key, ben), []byte{})
	f.Add(feed.NewViewerCursor(1, 42, at, nil).Encode(key, model.NewUserID()),
		[]byte{feed.CursorVersion})
	f.Add("", []byte{feed.CursorVersion + 1})
	f.Fuzz(func(t *testing.T, s string, content []byte) {
		if _, err := feed.ReadViewerCursor(key, ben, s); err != nil &&
			!errs.Is(err, errs.BadUserInput) {
			t.Errorf("%q: %v", s, err)
		}
		// Authentic content is decoded, whatever it is.
		authentic := store.NewCursor(feed.ViewerEventsList).Bytes(key.MAC(ben, content)).
			Bytes(content).String()
		c, err := feed.ReadViewerCursor(key, ben, authentic)
		if err != nil {
			return
		}
		again, err := feed.ReadViewerCursor(key, ben, c.Encode(key, ben))
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		chattest.WantEqual(t, "seqs", c.Seqs(), again.Seqs())
		chattest.WantEqual(t, "low watermark", c.Low(), again.Low(),
			cmp.AllowUnexported(feed.Watermark{}))
	})
}

func TestAStreamTooFarBehindIsReset(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{
			ReconcileEvery: chattest.Never,
			MaxReplayed:    10,
		}, "ann", "ben")
		for name, age := range map[string]func(t *testing.T, c *model.Conversation,
			p *chattest.PulledEvents) string{
			"of an unknown checkpoint": func(t *testing.T, _ *model.Conversation,
				p *chattest.PulledEvents,
			) string {
				return changed(t, w, p.Cursor, func(c *feed.ViewerCursor) { c.SetCheckpoint(1) })
			},
			"of a time to come": func(t *testing.T, _ *model.Conversation,
				p *chattest.PulledEvents,
			) string {
				return changed(t, w, p.Cursor,
					func(c *feed.ViewerCursor) { c.SetPosition(1 << 60) })
			},
			"too much was missed": func(_ *testing.T, c *model.Conversation,
				p *chattest.PulledEvents,
			) string {
				w.SendMany("ann", c.ID, 11)
				return p.Cursor
			},
		} {
			t.Run(name, func(t *testing.T) {
				c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
				p := w.PullEvents(t, "ben", nil)
				p.CaughtUp()
				p.Stop()
				cursor := age(t, c, p)
				last := int64(len(w.Stored(c.ID)))
				p = w.PullEvents(t, "ben", &cursor)
				p.Item("reset")
				atReset := p.Cursor
				p.CaughtUp()
				w.SendMany("ann", c.ID, 2)
				p.Event(c.ID, last+1)
				p = p.Again(w.Fixture, "ben")
				p.Event(c.ID, last+2)
				p.CaughtUp()
				again := w.PullEvents(t, "ben", &atReset)
				again.Events(c.ID, last+1, last+2)
				again.CaughtUp()
			})
		}
		t.Run("as much as may be missed", func(t *testing.T) {
			c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
			p := w.PullEvents(t, "ben", nil)
			p.CaughtUp()
			w.SendMany("ann", c.ID, 10)
			p = p.Again(w.Fixture, "ben")
			p.Events(c.ID, 2, 11)
			p.CaughtUp()
		})
	})
}

func changed(t *testing.T, w *fixture, cursor string, change func(*feed.ViewerCursor)) string {
	t.Helper()
	c := w.mustReadCursor("ben", cursor)
	change(&c)
	return c.Encode(w.mustCursorKey(), w.UserID("ben"))
}

// A client reads a cursor and then the messages, while others send: the stream delivers what it did
// not read.
func TestNoEventFallsBetweenACursorAndALaterRead(t *testing.T) {
	t.Parallel()
	const senders, each, rounds = 3, 20, 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{ReconcileEvery: chattest.ReconcileSoon}, "ann",
			"ben")
		var all []*model.Conversation
		for range senders {
			all = append(all, chattest.MustConversation(t, w.Fixture, "ann", "ben"))
		}
		var sending sync.WaitGroup
		failed := make([]error, senders)
		for i := range senders {
			sending.Go(func() {
				for n := range each {
					_, err := w.SendMessage(t.Context(), w.Actors["ann"], chat.SendMessage{
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
			if r.cursor, err = w.ViewerEventsCursor(t.Context(), w.Actor("ben")); err != nil {
				t.Fatal(err)
			}
			for _, c := range all {
				if r.seqs[c.ID], _, err = w.Bounds(t.Context(), w.Actor("ben"), c.ID); err != nil {
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
			p := w.PullEvents(t, "ben", &r.cursor)
			for item, err, _ := p.Next(); !item.CaughtUp; item, err, _ = p.Next() {
				if err != nil || item.Event == nil {
					t.Fatalf("got %s (%v)", chattest.ItemText(item), err)
				}
				e := item.Event
				if e.Seq > r.seqs[e.ConversationID]+1 {
					t.Fatalf("seq %d came after %d", e.Seq, r.seqs[e.ConversationID])
				}
				r.seqs[e.ConversationID] = max(r.seqs[e.ConversationID], e.Seq)
			}
			for _, c := range all {
				if want := int64(len(w.Stored(c.ID))); r.seqs[c.ID] != want {
					t.Errorf("%v: delivered up to %d of %d", c.ID, r.seqs[c.ID], want)
				}
			}
		}
	})
}

// mustCheck calls CheckPositions, and reports whether the checkpoints are kept.
func (w *fixture) mustCheck(t *testing.T) (kept bool) {
	t.Helper()
	newest, err := w.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.CheckPositions(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept, err = w.HasCheckpoint(t.Context(), newest); err != nil {
		t.Fatal(err)
	}
	return kept
}

func TestADatabaseFromAnotherServer(t *testing.T) {
	t.Parallel()
	for table, column := range map[string]string{
		"checkpoints": "low", "conversation_members": "position", "departures": "position",
	} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			db := storetest.MustPostgres(t)
			w := mustFixtureWith(t, db, chattest.Options{
				ReconcileEvery: chattest.Never,
				Log:            slog.New(slog.DiscardHandler),
			}, "ann", "ben")
			c, left := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
				chattest.MustConversation(t, w.Fixture, "ann", "ben")
			w.RemoveBen(left)
			p := w.PullEvents(t, "ben", nil)
			p.CaughtUp()
			p.Stop()
			chattest.WantEqual(t, "kept", true, w.mustCheck(t))
			if _, err := db.NewRaw("UPDATE ? SET ? = 1000000000000", bun.Ident(table),
				bun.Ident(column)).Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
			chattest.WantEqual(t, "kept", false, w.mustCheck(t))
			chattest.WantEqual(t, "kept", true, w.mustCheck(t))
			p = w.PullEvents(t, "ben", &p.Cursor)
			p.Item("reset")
			p.CaughtUp()
			w.Send("ann", c.ID, "on the new server")
			p.Event(c.ID, 2)
			p = p.Again(w.Fixture, "ben")
			p.CaughtUp()
		})
	}
}

// CheckPositions runs while other transactions are assigned positions above its own.
func TestANodeThatStartsWhileOthersWork(t *testing.T) {
	t.Parallel()
	const workers, times = 4, 100
	db := storetest.MustPostgres(t)
	w := mustFixtureWith(t, db, chattest.Options{
		ReconcileEvery: chattest.Never,
		Log:            slog.New(slog.DiscardHandler),
	}, "ann", "ben")
	var conversations []*model.Conversation
	for range workers {
		conversations = append(conversations, chattest.MustConversation(t, w.Fixture, "ann", "ben"))
	}
	newest, err := w.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
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
				_, err := w.UpdateMembership(t.Context(), w.Actors["ben"],
					chat.UpdateMembership{ConversationID: c.ID, Pinned: &pinned})
				if err != nil {
					t.Errorf("worker %d: %v", i, err)
					return
				}
			}
		})
	}
	var failed error
	for range times {
		failed = errors.Join(failed, w.CheckPositions(t.Context()))
	}
	close(stop)
	working.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	if kept, err := w.HasCheckpoint(t.Context(), newest); err != nil || !kept {
		t.Errorf("the positions were forgotten (%v)", err)
	}
}
