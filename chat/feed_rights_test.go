package chat

import (
	"context"
	"testing"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// taken is what a sink was handed, and what it ended with.
type taken struct {
	events chan *model.Event
	end    chan error
}

// into follows with a sink that takes everything at once. It returns when all that is stored has
// been handed on.
func (w *world) into(nickname string, id model.ConversationID, after *int64) taken {
	w.t.Helper()
	to, live := taken{make(chan *model.Event, 10_000), make(chan error, 1)}, make(chan struct{})
	err := w.FollowInto(w.t.Context(), w.actor(nickname), id, after, Sink{
		Live:     func(e *model.Event) bool { to.events <- e; return true },
		Replay:   func(_ context.Context, e *model.Event) error { to.events <- e; return nil },
		CaughtUp: func(context.Context, int64) error { close(live); return nil },
		End:      func(err error) { to.end <- err },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	<-live
	return to
}

// TestWhatIsWrittenAfterARemovalIsNotRead has an old message edited after ben's removal, between
// the statements that read the events before, and beyond the page that is read. ben, who is live,
// is handed neither.
func TestWhatIsWrittenAfterARemovalIsNotRead(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		hook := &afterRead{text: `FROM "events"`}
		db.Watch(hook)
		w := MustWorld(t, db, "ann", "ben", "cleo")
		w.publish = func(string, hint) {}
		for _, missed := range []int{1, feedPage + 10} {
			c := MustConversation(t, w, "ann", "ben", "cleo")
			ben, cleo := w.into("ben", c.ID, nil), w.into("cleo", c.ID, nil)
			old := w.send("ann", c.ID, "old")
			c.LastSeq = old.Seq
			if missed > 1 {
				w.fill("ann", c, missed)
			}
			after := func() {
				w.remove("ben", c.ID)
				w.edit("ann", old, "not for ben")
			}
			if missed == 1 {
				hook.do.Store(&after) // between the events and their messages
			} else {
				after()
			}
			w.hints.Publish(topicOf(c.ID), hint{seq: old.Seq, read: true})
			if e := <-cleo.events; e.Message.Content != "not for ben" {
				t.Fatalf("this does not show what it is about: cleo reads %q", e.Message.Content)
			}
			if missed == 1 {
				w.hints.Publish(topicOf(c.ID), hint{seq: old.Seq + 1, read: true})
			}
			wantCode(t, <-ben.end, errs.Forbidden)
			close(ben.events)
			for e := range ben.events {
				if e.Message != nil && e.Message.Content == "not for ben" {
					t.Errorf("%d events missed: ben is handed what was written after his removal", missed)
				}
			}
		}
	})
}

// TestRemovedAndBackIsNotShownWhatCameBetween has an old message edited while ben is away, before
// he has read it. He is added again without the history, and reads nothing of it.
func TestRemovedAndBackIsNotShownWhatCameBetween(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		w.publish = func(string, hint) {}
		c := MustHidden(t, w, "ann", "ben")
		ben := w.into("ben", c.ID, nil)
		old := w.send("ann", c.ID, "old")
		removal := w.remove("ben", c.ID)
		w.edit("ann", old, "not for ben")
		if _, err := w.AddMembers(t.Context(), w.actor("ann"), c.ID, w.members("ben")); err != nil {
			t.Fatal(err)
		}
		w.feed(c.ID).doubt() // has followers read
		wantCode(t, <-ben.end, errs.Forbidden)
		wantEqual(t, "ben's", []int64{removal.Seq}, ben.seqs(1))
	})
}

// TestWhatAFeedHasReadIsNotReadAgain has a hint lost, and looks at what the one after it costs.
func TestWhatAFeedHasReadIsNotReadAgain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		reads := &countReads{}
		db.Watch(reads)
		w := MustWorld(t, db, "ann", "ben")
		w.publish = func(string, hint) {}
		c := MustConversation(t, w, "ann", "ben")
		ben := w.into("ben", c.ID, nil)
		w.sendMany("ann", c.ID, 2)
		w.hints.Publish(topicOf(c.ID), hint{seq: 3, read: true})
		wantEqual(t, "ben's", []int64{2, 3}, ben.seqs(2))
		waitUntil(t, "it is idle", w.feed(c.ID).idle)
		before := reads.n.Load()
		w.send("ann", c.ID, "told")
		e := &model.Event{ConversationID: c.ID, Seq: 4, Kind: model.MessageAdded}
		w.hints.Publish(topicOf(c.ID), hint{seq: 4, events: []*model.Event{e}})
		wantEqual(t, "ben's", []int64{4}, ben.seqs(1))
		if n := reads.n.Load(); n != before {
			t.Errorf("events were read %d times more", n-before)
		}
	})
}
