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
