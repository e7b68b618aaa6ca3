package feed_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// countReads counts reads of events.
type countReads struct{ n atomic.Int64 }

func (*countReads) BeforeQuery(
	ctx context.Context, _ *bun.QueryEvent,
) context.Context {
	return ctx
}

func (c *countReads) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	if strings.HasPrefix(e.Query, "SELECT") && strings.Contains(e.Query, "events") {
		c.n.Add(1)
	}
}

// The removal is published after the membership is read, and before the follower joins the feed,
// which has no other user.
func TestARemovalWhileAFollowerStarts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		f := w.AcquireFeed(c.ID)
		bounds, err := membership.Bounds(t.Context(), db, w.Actor("ben"), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		removal := w.EndMembership("ben", c.ID)
		w.Send("ann", c.ID, "not for ben")
		chattest.WaitUntil(t, "the feed has taken the hints", func() bool { return f.Early() == 2 })
		ctx, cancel := context.WithTimeout(t.Context(), chattest.Patience)
		defer cancel()
		var got []int64
		err = f.Run(ctx, w.Actor("ben"), bounds, func(item feed.Followed, _ error) bool {
			if item.Event != nil {
				got = append(got, item.Event.Seq)
			}
			return item.Event == nil || item.Event.Seq <= removal.Seq
		})
		chattest.WantCode(t, err, errs.Forbidden)
		chattest.WantEqual(t, "seqs", []int64{removal.Seq}, got)
	})
}

// A member is removed and added again after they begin to follow. No hint of it comes before they
// read it.
func TestAMemberAddedAgainWhileReading(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		w.LoseHints()
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		f := w.FeedOf(c.ID)
		if _, err := w.RemoveMember(t.Context(), w.Actor("ann"), c.ID,
			w.UserID("ben")); err != nil {
			t.Fatal(err)
		}
		w.Send("ann", c.ID, "while ben is away")
		if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
			w.NewMembers("ben")); err != nil {
			t.Fatal(err)
		}
		f.MarkGone()
		p.Event(2)
		chattest.WantCode(t, p.End(), errs.Forbidden)
	})
}

func TestThousandsOfHintsInNoOrder(t *testing.T) {
	t.Parallel()
	const n = 1000
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		w.LoseHints()
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p, other := w.Pull(t, "ben", c.ID, new(int64(0))), w.Pull(t, "ann", c.ID, new(int64(0)))
		p.Event(1)
		other.Event(1)
		w.fill("ann", c, n)
		stored := w.Stored(c.ID)
		var publishing sync.WaitGroup
		for worker := range 4 {
			publishing.Go(func() {
				for i := worker; i < n; i += 4 {
					e := stored[1+i*7919%n] // 7919 is prime, so each comes once
					w.Hints().PublishLocal(feed.Topic(c.ID),
						feed.Hint{Seq: e.Seq, Events: []*model.Event{e}})
				}
			})
		}
		chattest.WantEqual(t, "events", stored[1:], p.Events(2, c.LastSeq), sameData())
		publishing.Wait()
		chattest.WantEqual(t, "events of the other", stored[1:], other.Events(2, c.LastSeq),
			sameData())
		f := w.FeedOf(c.ID)
		chattest.WaitUntil(t, "nothing is left over", func() bool {
			return f.Edge() == c.LastSeq && f.Early() == 0 && f.IsIdle()
		})
	})
}

// Hints have seqs that do not exist: the feed reads once for each, not again and again.
func TestHintsOfEventsThatNeverCome(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		reads := &countReads{}
		db.Watch(reads)
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		f := w.FeedOf(c.ID)
		chattest.WaitUntil(t, "it is idle", f.IsIdle)
		reads.n.Store(0)
		const promises = 3
		for i := range promises {
			w.Hints().PublishLocal(feed.Topic(c.ID), feed.Hint{Seq: int64(1_000_000 + i)})
			chattest.WaitUntil(t, "it was looked for",
				func() bool { return f.IsIdle() && reads.n.Load() == int64(i)+1 })
		}
		w.Send("ann", c.ID, "true")
		p.Event(2)
		chattest.WaitUntil(t, "it is idle", f.IsIdle)
		if n := reads.n.Load(); n != promises {
			t.Errorf("%d reads for %d promises", n, promises)
		}
	})
}

// Hints carry more events that do not exist than a feed keeps.
func TestForgedEventsAreDropped(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		f := w.FeedOf(c.ID)
		for i := range 10 * feed.MaxEarly {
			e := &model.Event{
				ConversationID: c.ID, Seq: int64(1_000_000 + i),
				Kind: model.ConversationRenamed, Data: []byte("{}"),
			}
			w.Hints().PublishLocal(feed.Topic(c.ID),
				feed.Hint{Seq: e.Seq, Events: []*model.Event{e}})
		}
		chattest.WaitUntil(t, "it is idle", f.IsIdle)
		w.SendMany("ann", c.ID, 3)
		p.Events(2, 4)
		chattest.WaitUntil(t, "it is idle", f.IsIdle)
		if n := f.Early(); n > feed.MaxEarly {
			t.Errorf("%d events wait for what will never come", n)
		}
	})
}

// Every connection to the database is closed, again and again, while messages are sent whose hints
// are lost.
func TestFollowersOutliveADatabaseOutage(t *testing.T) {
	t.Parallel()
	url := storetest.PostgresURL(t)
	db, admin := storetest.MustOpen(t, url), storetest.MustOpen(t, url)
	admin.SetMaxOpenConns(1) // which is not ended, as it is the one that ends the others
	w := mustFixtureWith(t, db, chattest.Options{
		ReconcileEvery: chattest.ReconcileSoon,
		Log:            slog.New(slog.DiscardHandler),
	}, "ann", "ben")
	sender := &fixture{chattest.NewIdle(t, admin, chattest.Options{}, w.Actors)}
	c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
	p := w.Pull(t, "ben", c.ID, new(int64(0)))
	p.Event(1)
	events := w.PullEvents(t, "ben", nil)
	events.CaughtUp()
	for seq := int64(2); seq <= 20; seq++ {
		sender.Send("ann", c.ID, "its hint is lost")
		w.terminateOthers(t, admin)
		p.Event(seq)
		events.Event(c.ID, seq)
	}
}

// terminateOthers closes every connection to the database except admin's.
func (w *fixture) terminateOthers(t *testing.T, admin *store.DB) {
	t.Helper()
	var n int
	err := admin.NewRaw(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(t.Context(), &n)
	if err != nil {
		t.Fatal(err)
	}
}

// Followers join and leave one conversation while hints come.
func TestFollowersComeAndGo(t *testing.T) {
	t.Parallel()
	const sent, followers, times = 60, 6, 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		var all sync.WaitGroup
		all.Go(func() {
			for i := range sent {
				_, err := w.SendMessage(t.Context(), w.Actors["ann"],
					chat.SendMessage{ConversationID: c.ID, Content: fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
				}
			}
		})
		for i := range followers {
			all.Go(func() {
				seen := int64(0)
				for n := range times {
					events, err := w.Follow(t.Context(), w.Actors["ben"], c.ID,
						feed.AfterSeq(&seen))
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
		chattest.WantEqual(t, "topics that are left", []string{}, w.Hints().Topics())
		if n := w.Stats().Feeds; n != 0 {
			t.Errorf("%d feeds are left", n)
		}
	})
}

// The hint before the removal is lost, and earlier events are queued: the removal is delivered at
// once, and nothing else.
func TestARemovalOvertakesMissingEvents(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		var lose atomic.Bool
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			if !lose.Load() {
				w.Hints().PublishLocal(topic, h)
			}
		})
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		w.SendMany("ann", c.ID, 3) // are queued
		f := w.FeedOf(c.ID)
		chattest.WaitUntil(t, "they are handed on", func() bool { return f.Edge() == 4 })
		lose.Store(true)
		w.Send("ann", c.ID, "its hint is lost")
		lose.Store(false)
		removal := w.EndMembership("ben", c.ID)
		chattest.WaitUntil(t, "the removal is noticed", func() bool {
			for _, fo := range f.Followers() {
				return fo.Removed
			}
			return true
		})
		p.Event(removal.Seq)
		chattest.WantCode(t, p.End(), errs.Forbidden)
	})
}

// A follower that never drains keeps no more events than its queue.
func TestAFollowerThatNeverDrainsHoldsOneQueue(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		events := w.PullEvents(t, "ben", nil)
		events.CaughtUp()
		f := w.FeedOf(c.ID)
		w.SendMany("ann", c.ID, 3*feed.FollowQueue)
		chattest.WaitUntil(t, "all is handed on",
			func() bool { return f.Edge() == 1+3*feed.FollowQueue })
		if n := f.Early(); n != 0 {
			t.Errorf("the feed holds %d events", n)
		}
		for _, fo := range f.Followers() {
			if fo.Queued != 0 || !fo.Behind {
				t.Errorf("%d events are queued, behind is %v", fo.Queued, fo.Behind)
			}
		}
	})
}
