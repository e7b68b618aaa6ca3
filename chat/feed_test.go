package chat

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// countReads counts what is read of the events of conversations.
type countReads struct{ n atomic.Int64 }

func (*countReads) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (c *countReads) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	if strings.HasPrefix(e.Query, "SELECT") && strings.Contains(e.Query, "events") {
		c.n.Add(1)
	}
}

// feed is the open one of a conversation.
func (w *world) feed(id model.ConversationID) *feed {
	w.feedsMu.Lock()
	defer w.feedsMu.Unlock()
	return w.feeds[id]
}

// idle reports whether a feed has nothing to do and waits for nothing.
func (f *feed) idle() bool {
	f.inboxMu.Lock()
	busy := f.working || len(f.inbox) > 0
	f.inboxMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	return !busy && f.gap == nil
}

// TestARemovalWhileSomebodyBeginsToFollow has the removal told after the membership was read, and
// before the follower is in the feed, which nobody else uses.
func TestARemovalWhileSomebodyBeginsToFollow(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		f := w.feedOf(c.ID)
		last, hidden, err := w.position(t.Context(), w.actor("ben"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		removal := w.remove("ben", c.ID)
		w.send("ann", c.ID, "not for ben")
		waitUntil(t, "the feed has taken the hints", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.early) == 2
		})
		fo := &follower{
			stream: newStream(), feed: f, actor: new(w.actor("ben")), id: c.ID, seen: last, hidden: hidden, checked: last,
		}
		defer fo.detach()
		f.join(fo, last)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var got []int64
		err = fo.run(ctx, func(item Followed, _ error) bool {
			if item.Event != nil {
				got = append(got, item.Event.Seq)
			}
			return item.Event == nil || item.Event.Seq <= removal.Seq
		})
		wantCode(t, err, errs.Forbidden)
		wantEqual(t, "seqs", []int64{removal.Seq}, got)
	})
}

// TestRemovedAndBackWhileReading has somebody removed and added again after they began to follow,
// of which no hint comes before they have read it themselves.
func TestRemovedAndBackWhileReading(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		w.publish = func(string, hint) {}
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1)
		f := w.feed(c.ID)
		if _, err := w.RemoveMember(t.Context(), w.actor("ann"), c.ID, w.id("ben")); err != nil {
			t.Fatal(err)
		}
		w.send("ann", c.ID, "while ben is away")
		if _, err := w.AddMembers(t.Context(), w.actor("ann"), c.ID, w.members("ben")); err != nil {
			t.Fatal(err)
		}
		f.doubt() // has followers read
		p.event(2)
		wantCode(t, p.end(), errs.Forbidden)
	})
}

func TestThousandsOfHintsInNoOrder(t *testing.T) {
	t.Parallel()
	const n = 1000
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		w.publish = func(string, hint) {}
		c := MustConversation(t, w, "ann", "ben")
		p, other := w.pull(t, "ben", c.ID, new(int64(0))), w.pull(t, "ann", c.ID, new(int64(0)))
		p.event(1)
		other.event(1)
		w.fill("ann", c, n)
		stored := w.stored(c.ID)
		var publishing sync.WaitGroup
		for worker := range 4 {
			publishing.Go(func() {
				for i := worker; i < n; i += 4 {
					e := stored[1+i*7919%n] // 7919 is prime, so each comes once
					w.hints.Publish(topicOf(c.ID), hint{seq: e.Seq, events: []*model.Event{e}})
				}
			})
		}
		wantEqual(t, "events", stored[1:], p.events(2, c.LastSeq), sameData())
		publishing.Wait()
		wantEqual(t, "events of the other", stored[1:], other.events(2, c.LastSeq), sameData())
		f := w.feed(c.ID)
		waitUntil(t, "nothing is left over", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.edge == c.LastSeq && len(f.early) == 0 && f.gap == nil
		})
	})
}

// TestPromisesThatAreNotKept has hints tell of what will never be: each is looked for once, and not
// again and again.
func TestPromisesThatAreNotKept(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		reads := &countReads{}
		db.Watch(reads)
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1)
		f := w.feed(c.ID)
		waitUntil(t, "it is idle", f.idle)
		reads.n.Store(0)
		const promises = 3
		for i := range promises {
			w.hints.Publish(topicOf(c.ID), hint{seq: int64(1_000_000 + i)})
			waitUntil(t, "it was looked for", func() bool { return f.idle() && reads.n.Load() == int64(i)+1 })
		}
		w.send("ann", c.ID, "true")
		p.event(2)
		waitUntil(t, "it is idle", f.idle)
		if n := reads.n.Load(); n != promises {
			t.Errorf("%d reads for %d promises", n, promises)
		}
	})
}

// TestForgedEventsDoNotStay has hints bring more events that will never be than a feed holds.
func TestForgedEventsDoNotStay(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1)
		f := w.feed(c.ID)
		for i := range 10 * maxEarly {
			e := &model.Event{ConversationID: c.ID, Seq: int64(1_000_000 + i), Kind: model.ConversationRenamed, Data: []byte("{}")}
			w.hints.Publish(topicOf(c.ID), hint{seq: e.Seq, events: []*model.Event{e}})
		}
		waitUntil(t, "it is idle", f.idle)
		w.sendMany("ann", c.ID, 3)
		p.events(2, 4)
		waitUntil(t, "it is idle", f.idle)
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.early) > maxEarly {
			t.Errorf("%d events wait for what will never come", len(f.early))
		}
	})
}

// TestTheDatabaseIsAwayAndComesBack ends every connection, again and again, while messages are sent
// of which no hint comes.
func TestTheDatabaseIsAwayAndComesBack(t *testing.T) {
	t.Parallel()
	url := storetest.PostgresURL(t)
	db, admin := storetest.MustOpen(t, url), storetest.MustOpen(t, url)
	admin.SetMaxOpenConns(1) // which is not ended, as it is the one that ends the others
	w := MustWorldWith(t, db, Options{CompareEvery: compareSoon, Log: slog.New(slog.DiscardHandler)}, "ann", "ben")
	sender := &world{Service: New(admin, Options{}), t: t, actors: w.actors}
	c := MustConversation(t, w, "ann", "ben")
	p := w.pull(t, "ben", c.ID, new(int64(0)))
	p.event(1)
	mine := w.pullMine(t, "ben", nil)
	mine.caughtUp()
	for seq := int64(2); seq <= 20; seq++ {
		sender.send("ann", c.ID, "not told")
		w.terminateOthers(t, admin)
		p.event(seq)
		mine.event(c.ID, seq)
	}
}

// terminateOthers ends every connection to the database but admin's one.
func (w *world) terminateOthers(t *testing.T, admin *store.DB) {
	t.Helper()
	var n int
	err := admin.NewRaw(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(t.Context(), &n)
	if err != nil {
		t.Fatal(err)
	}
}

// TestFollowersComeAndGo has followers join and leave one conversation while hints come.
func TestFollowersComeAndGo(t *testing.T) {
	t.Parallel()
	const sent, followers, times = 60, 6, 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		var all sync.WaitGroup
		all.Go(func() {
			for i := range sent {
				_, err := w.SendMessage(t.Context(), w.actors["ann"], SendMessage{ConversationID: c.ID, Content: fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
				}
			}
		})
		for i := range followers {
			all.Go(func() {
				seen := int64(0)
				for n := range times {
					events, err := w.Follow(t.Context(), w.actors["ben"], c.ID, &seen)
					if err != nil {
						t.Error(err)
						return
					}
					stop := min(seen+int64((n+i)%5)+1, sent/2)
					for e, err := range events {
						if err != nil || e.Seq != seen+1 {
							t.Errorf("got %+v (%v) after %d", e, err, seen)
							return
						}
						if seen++; seen >= stop {
							break
						}
					}
				}
			})
		}
		all.Wait()
		wantEqual(t, "topics that are left", []string{}, w.hints.Topics())
		if feeds := w.openFeeds(); len(feeds) != 0 {
			t.Errorf("%d feeds are left", len(feeds))
		}
	})
}

// TestARemovalOvertakesWhatIsMissing has the hint of an event before the removal lost, and events
// before that queued: the removal comes at once, and nothing else.
func TestARemovalOvertakesWhatIsMissing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		var lose atomic.Bool
		w.publish = func(topic string, h hint) {
			if !lose.Load() {
				w.hints.Publish(topic, h)
			}
		}
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1)
		w.sendMany("ann", c.ID, 3) // are queued
		f := w.feed(c.ID)
		waitUntil(t, "they are handed on", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.edge == 4 })
		lose.Store(true)
		w.send("ann", c.ID, "not told")
		lose.Store(false)
		removal := w.remove("ben", c.ID)
		waitUntil(t, "the removal is noticed", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			for fo := range f.followers {
				return fo.isRemoved()
			}
			return true
		})
		p.event(removal.Seq)
		wantCode(t, p.end(), errs.Forbidden)
	})
}

// TestAFollowerThatNeverTakes holds no more than its queue.
func TestAFollowerThatNeverTakes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1)
		mine := w.pullMine(t, "ben", nil)
		mine.caughtUp()
		f := w.feed(c.ID)
		w.sendMany("ann", c.ID, 3*followQueue)
		waitUntil(t, "all is handed on", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.edge == 1+3*followQueue })
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.early) != 0 {
			t.Errorf("the feed holds %d events", len(f.early))
		}
		for fo := range f.followers {
			fo.stream.mu.Lock()
			if len(fo.queue) != 0 || !fo.behind {
				t.Errorf("%d events are queued, behind is %v", len(fo.queue), fo.behind)
			}
			fo.stream.mu.Unlock()
		}
	})
}
