package feed_test

import (
	"context"
	"testing"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// taken is what a sink has got, and the error that it ended with.
type taken struct {
	events chan *model.Event
	end    chan error
}

// into follows with a sink that takes everything at once. It returns when the sink has all stored
// events.
func (w *fixture) into(nickname string, id model.ConversationID, after *int64) taken {
	w.T.Helper()
	to, live := taken{make(chan *model.Event, 10_000), make(chan error, 1)}, make(chan struct{})
	err := w.FollowInto(w.T.Context(), w.Actor(nickname), id, feed.AfterSeq(after), feed.Sink{
		Live:     func(e *model.Event) bool { to.events <- e; return true },
		Replay:   func(_ context.Context, e *model.Event) error { to.events <- e; return nil },
		CaughtUp: func(context.Context, feed.Place) error { close(live); return nil },
		End:      func(err error) { to.end <- err },
	})
	if err != nil {
		w.T.Fatal(err)
	}
	<-live
	return to
}

// An old message is edited after ben's removal. Both happen between the statements that read
// earlier events, and above the page. ben, who is live, gets neither.
func TestARemovedMemberDoesNotReadLaterEdits(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		hook := &afterRead{text: `FROM "events"`}
		db.Watch(hook)
		w := mustFixture(t, db, "ann", "ben", "cleo")
		w.LoseHints()
		for _, missed := range []int{1, feed.ReadPage + 10} {
			c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cleo")
			ben, cleo := w.into("ben", c.ID, nil), w.into("cleo", c.ID, nil)
			old := w.Send("ann", c.ID, "old")
			c.LastSeq = old.Seq
			if missed > 1 {
				w.fill("ann", c, missed)
			}
			after := func() {
				w.EndMembership("ben", c.ID)
				w.Edit("ann", old, "not for ben")
			}
			if missed == 1 {
				hook.do.Store(&after) // between the events and their messages
			} else {
				after()
			}
			w.ReadNow(c.ID, old.Seq)
			if e := <-cleo.events; e.Message.Content != "not for ben" {
				t.Fatalf("this does not show what it is about: cleo reads %q", e.Message.Content)
			}
			if missed == 1 {
				w.ReadNow(c.ID, old.Seq+1)
			}
			chattest.WantCode(t, <-ben.end, errs.Forbidden)
			close(ben.events)
			for e := range ben.events {
				if e.Message != nil && e.Message.Content == "not for ben" {
					t.Errorf("%d events missed: ben is handed what was written after his removal",
						missed)
				}
			}
		}
	})
}

// An old message is edited between two memberships of ben's, before he has read it. The second one
// hides the history.
func TestAMemberAddedAgainDoesNotReadEditsFromBetween(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		w.LoseHints()
		c := chattest.MustHidden(t, w.Fixture, "ann", "ben")
		ben := w.into("ben", c.ID, nil)
		old := w.Send("ann", c.ID, "old")
		removal := w.EndMembership("ben", c.ID)
		w.Edit("ann", old, "not for ben")
		if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
			w.NewMembers("ben")); err != nil {
			t.Fatal(err)
		}
		w.FeedOf(c.ID).MarkGone()
		chattest.WantCode(t, <-ben.end, errs.Forbidden)
		chattest.WantEqual(t, "ben's", []int64{removal.Seq}, ben.seqs(1))
	})
}

// A hint is lost; the test counts the reads that the next one causes.
func TestAFeedReadsAGapOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		reads := &countReads{}
		db.Watch(reads)
		w := mustFixture(t, db, "ann", "ben")
		w.LoseHints()
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		ben := w.into("ben", c.ID, nil)
		w.SendMany("ann", c.ID, 2)
		w.ReadNow(c.ID, 3)
		chattest.WantEqual(t, "ben's", []int64{2, 3}, ben.seqs(2))
		chattest.WaitUntil(t, "it is idle", w.FeedOf(c.ID).IsIdle)
		third := w.Stored(c.ID)[2].Mark()
		before := reads.n.Load()
		w.Send("ann", c.ID, "hinted")
		e := &model.Event{
			ConversationID: c.ID, Seq: 4, Kind: model.MessageAdded,
			Before: third,
		}
		w.Hints().PublishLocal(feed.Topic(c.ID), feed.Hint{Seq: 4, Events: []*model.Event{e}})
		chattest.WantEqual(t, "ben's", []int64{4}, ben.seqs(1))
		if n := reads.n.Load(); n != before {
			t.Errorf("events were read %d times more", n-before)
		}
	})
}
