package feed_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// seqs takes the seqs of n events.
func (to taken) seqs(n int) (seqs []int64) {
	for range n {
		e, more := <-to.events
		if !more {
			return seqs
		}
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

// followerOf returns a user's follower in a conversation.
func (w *fixture) followerOf(nickname string, id model.ConversationID) feed.FollowerState {
	w.T.Helper()
	for _, fo := range w.FeedOf(id).Followers() {
		if fo.Actor.UserID == w.UserID(nickname) {
			return fo
		}
	}
	w.T.Fatalf("%s does not follow", nickname)
	return feed.FollowerState{}
}

// Hints bring a feed events that one of its followers has read before, because the hints were lost
// first.
func TestASinkGetsNoEventTwice(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cleo")
		w.LoseHints()
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cleo")
		cleo := w.into("cleo", c.ID, nil) // opens the feed, which stands at 1 then
		w.SendMany("ann", c.ID, 3)
		ben := w.into("ben", c.ID, new(int64(0)))
		w.Eventually(func() bool { return !w.followerOf("ben", c.ID).Working })
		w.Send("ann", c.ID, "the last")
		for _, e := range w.Stored(c.ID)[1:] {
			w.Hints().PublishLocal(feed.Topic(c.ID),
				feed.Hint{Seq: e.Seq, Events: []*model.Event{e}})
		}
		chattest.WantEqual(t, "cleo's", []int64{2, 3, 4, 5}, cleo.seqs(4))
		chattest.WantEqual(t, "ben's", []int64{1, 2, 3, 4, 5}, ben.seqs(5))
	})
}

// atRead does something before events are read.
type atRead struct{ do atomic.Pointer[func()] }

func (a *atRead) BeforeQuery(ctx context.Context, e *bun.QueryEvent) context.Context {
	if isRead(e.Query, `FROM "events"`) {
		if do := a.do.Swap(nil); do != nil {
			(*do)()
		}
	}
	return ctx
}

func (*atRead) AfterQuery(context.Context, *bun.QueryEvent) {}

// The hint before the removal is lost. The missing event is not read before the membership ends.
func TestARemovalEndsASinkWhenItsHintComes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		hook := new(atRead)
		db.Watch(hook)
		w := mustFixture(t, db, "ann", "ben", "cleo")
		var lose atomic.Bool
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			if !lose.Load() {
				w.Hints().PublishLocal(topic, h)
			}
		})
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cleo")
		ben, cleo := w.into("ben", c.ID, nil), w.into("cleo", c.ID, nil)
		lose.Store(true)
		w.Send("ann", c.ID, "its hint is lost")
		lose.Store(false)
		fo, noticed := w.followerOf("ben", c.ID), make(chan bool, 1)
		hook.do.Store(new(func() { noticed <- fo.Now().Removed }))
		removal := w.EndMembership("ben", c.ID)
		if !<-noticed {
			t.Error("what is missing is read for a member who is gone")
		}
		chattest.WantEqual(t, "cleo's", []int64{2, 3}, cleo.seqs(2))
		chattest.WantEqual(t, "ben's", []int64{removal.Seq}, ben.seqs(1))
		chattest.WantCode(t, <-ben.end, errs.Forbidden)
	})
}

// slowSink takes an event when the test sends on goOn.
type slowSink struct {
	taken
	begun chan int64 // the seq that it is about to take
	goOn  chan struct{}
}

// slowly follows with a sink that never has room for live events.
func (w *fixture) slowly(nickname string, id model.ConversationID, after *int64) slowSink {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(w.T.Context(), chattest.Patience)
	w.T.Cleanup(cancel)
	to := slowSink{
		taken{make(chan *model.Event, 1000), make(chan error, 1)},
		make(chan int64, 1000),
		make(chan struct{}),
	}
	err := w.FollowInto(ctx, w.Actor(nickname), id, feed.AfterSeq(after), feed.Sink{
		Live: func(*model.Event) bool { return false },
		Replay: func(ctx context.Context, e *model.Event) error {
			to.begun <- e.Seq
			select {
			case <-to.goOn:
			case <-ctx.Done():
			}
			to.events <- e
			return nil
		},
		CaughtUp: func(context.Context, feed.Place) error { return nil },
		End:      func(err error) { close(to.events); to.end <- err },
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return to
}

// The removal comes while the sink takes one event of a page, or of the queue.
func TestARemovalEndsASlowSink(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		for _, of := range []string{"a page", "the queue"} {
			c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
			w.SendMany("ann", c.ID, 3)
			ben := w.slowly("ben", c.ID, new(int64(2)))
			if seq := <-ben.begun; seq != 3 {
				t.Fatalf("it begins with %d", seq)
			}
			fo, want := w.followerOf("ben", c.ID), []int64{3}
			if of == "the queue" {
				w.SendMany("ann", c.ID, 3)
				w.Eventually(func() bool { return fo.Now().Queued == 3 })
				for _, seq := range []int64{4, 5} {
					ben.goOn <- struct{}{}
					if got := <-ben.begun; got != seq {
						t.Fatalf("after it comes %d", got)
					}
					want = append(want, seq)
				}
			}
			removal := w.EndMembership("ben", c.ID)
			w.Eventually(func() bool { return fo.Now().Removed })
			close(ben.goOn)
			chattest.WantCode(t, <-ben.end, errs.Forbidden)
			var got []int64
			for e := range ben.events {
				got = append(got, e.Seq)
			}
			chattest.WantEqual(t, of, append(want, removal.Seq), got)
		}
	})
}

// A member is removed, added and removed again before the follower notices.
func TestTheFirstOfTwoRemovalsEndsASink(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		w.LoseHints()
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		ben := w.into("ben", c.ID, nil)
		removal := w.EndMembership("ben", c.ID)
		if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
			w.NewMembers("ben")); err != nil {
			t.Fatal(err)
		}
		w.EndMembership("ben", c.ID)
		w.FeedOf(c.ID).MarkGone()
		chattest.WantCode(t, <-ben.end, errs.Forbidden)
		chattest.WantEqual(t, "ben's", []int64{removal.Seq}, ben.seqs(1))
	})
}

// Accepts is called once, with what is hidden when following begins. A sink that does not accept is
// not followed into.
func TestASinkAcceptsOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cleo")
		c := chattest.MustHidden(t, w.Fixture, "ann", "cleo")
		w.Send("ann", c.ID, "hidden from ben")
		if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
			w.NewMembers("ben")); err != nil {
			t.Fatal(err)
		}
		for name, hidden := range map[string]int64{"ann": 0, "ben": 2, "cleo": 0} {
			var asked []int64
			err := w.FollowInto(t.Context(), w.Actor(name), c.ID, nil, feed.Sink{
				Accepts: func(hidden int64) bool {
					asked = append(asked, hidden)
					return false
				},
			})
			if !errors.Is(err, feed.ErrNotAccepted) || !slices.Equal(asked, []int64{hidden}) {
				t.Errorf("%s: %v, asked of %d", name, err, asked)
			}
		}
		chattest.WantEqual(t, "topics that are left", []string{}, w.Hints().Topics())
	})
}

// The newest message that is hidden from ben is edited, and the oldest one that is not. He gets
// both events, and only the second message.
func TestHiddenMessagesInAStream(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cleo")
		c := chattest.MustHidden(t, w.Fixture, "ann", "cleo")
		hidden := w.Send("ann", c.ID, "hidden")
		if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
			w.NewMembers("ben")); err != nil {
			t.Fatal(err)
		}
		shown := w.Send("ann", c.ID, "shown")
		live := w.into("ben", c.ID, new(int64(0)))
		w.Edit("ann", hidden, "hidden, edited")
		w.Edit("ann", shown, "shown, edited")
		replayed := w.into("ben", c.ID, new(int64(0)))
		for name, got := range map[string]taken{"live": live, "replayed": replayed} {
			for seq := shown.Seq - 1; seq <= shown.Seq+2; seq++ {
				e := <-got.events
				if e.Seq != seq {
					t.Fatalf("%s: got %d instead of %d", name, e.Seq, seq)
				}
				if is := e.Message != nil; is != (seq == shown.Seq || seq == shown.Seq+2) {
					t.Errorf("%s: event %d shows a message: %t", name, seq, is)
				}
			}
		}
	})
}
