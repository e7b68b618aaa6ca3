package feed_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// mustHistoric is a fixture in which only the test reconciles.
func mustHistoric(t *testing.T, db *store.DB, nicknames ...string) *fixture {
	t.Helper()
	return mustFixtureWith(t, db, chattest.Options{
		ReconcileEvery: chattest.Never, Log: slog.New(slog.DiscardHandler),
	}, nicknames...)
}

func placeAt(e *model.Event) *feed.Place { return &feed.Place{Seq: e.Seq, Mark: e.Mark()} }

// wantChanged checks an error that reports another history, and that its cursor is a place in the
// history that the database has.
func (w *fixture) wantChanged(t *testing.T, err error, c *model.Conversation) {
	t.Helper()
	chattest.WantCode(t, err, errs.HistoryChanged)
	changed, _ := errors.AsType[*errs.Error](err)
	for _, e := range w.Stored(c.ID) {
		if changed.Cursor == feed.PlaceCursor(c.ID, *placeAt(e)) {
			return
		}
	}
	t.Errorf("the cursor %s is not in the history", changed.Cursor)
}

// A client comes back after a restore. The new history is shorter than what it has, as long, or
// longer.
func TestAPlaceProvesItsHistory(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustHistoric(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.SendMany("ann", c.ID, 3)
		backup := chattest.MustBackUp(t, db)
		w.SendMany("ann", c.ID, 5)
		old := w.Stored(c.ID) // up to seq 9; those after 4 are lost
		backup.MustRestore(t)
		for _, n := range []int64{4, 6, 9, 12} {
			if more := n - int64(len(w.Stored(c.ID))); more > 0 {
				w.SendMany("ann", c.ID, int(more))
			}
			for _, e := range old {
				p, err := w.PullAfter(t, "ben", c.ID, placeAt(e))
				if e.Seq <= 4 {
					if err != nil {
						t.Fatalf("%d events, after %d: %v", n, e.Seq, err)
					}
					p.Events(e.Seq+1, n)
					continue
				}
				if err == nil {
					err = p.End()
				}
				w.wantChanged(t, err, c)
			}
		}
	})
}

// A member is added again after a restore, and history begins with joining. What they have is lost,
// and below what is hidden from them now.
func TestALostPlaceThatIsHidden(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustHistoric(t, db, "ann", "ben")
		c := chattest.MustHidden(t, w.Fixture, "ann", "ben")
		w.SendMany("ann", c.ID, 3)
		backup := chattest.MustBackUp(t, db)
		kept := w.Stored(c.ID)
		w.SendMany("ann", c.ID, 3)
		old := w.Stored(c.ID)
		backup.MustRestore(t)
		w.SendMany("ann", c.ID, 5)
		w.RemoveBen(c)
		w.AddBen(c)
		_, err := w.Follow(t.Context(), w.Actor("ben"), c.ID, placeAt(old[len(old)-1]))
		if err == nil {
			t.Fatal("a place of the lost history is followed")
		}
		w.wantChanged(t, err, c)
		_, err = w.Follow(t.Context(), w.Actor("ben"), c.ID, placeAt(kept[len(kept)-1]))
		if err != nil {
			t.Errorf("after an event that is kept: %v", err)
		}
	})
}

// Followers are connected during the restore, which takes seqs 5 to 7 back. Then the new history
// comes to them in several ways. None of its events may be delivered after seq 7 of the old one.
func TestLiveFollowersNoticeAnotherHistory(t *testing.T) {
	t.Parallel()
	for how, come := range map[string]func(w *fixture, c *model.Conversation){
		"no new event": func(w *fixture, _ *model.Conversation) { w.reconcileNow() },
		"fewer events": func(w *fixture, c *model.Conversation) {
			w.SendMany("ann", c.ID, 1)
			w.reconcileNow()
		},
		"as many events": func(w *fixture, c *model.Conversation) { w.SendMany("ann", c.ID, 3) },
		"more events":    func(w *fixture, c *model.Conversation) { w.SendMany("ann", c.ID, 5) },
		"an event alone": func(w *fixture, c *model.Conversation) { w.hintOfTheLast(c, 4, true) },
		"a bare hint": func(w *fixture, c *model.Conversation) {
			w.hintOfTheLast(c, 6, false)
		},
		"edits, not sends": func(w *fixture, c *model.Conversation) { w.editMany(c, 4) },
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				w := mustHistoric(t, db, "ann", "ben", "cleo")
				c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cleo")
				w.SendMany("ann", c.ID, 3)
				backup := chattest.MustBackUp(t, db)
				early := w.Pull(t, "ann", c.ID, new(int64(1)))
				early.Events(2, 3) // and then it waits, before the place where the histories part
				live, into := w.Pull(t, "ben", c.ID, new(int64(0))), w.into("cleo", c.ID, nil)
				live.Events(1, 4)
				w.SendMany("ann", c.ID, 3)
				live.Events(5, 7)
				chattest.WantEqual(t, "cleo's", []int64{5, 6, 7}, into.seqs(3))
				backup.MustRestore(t)
				come(w, c)
				w.wantChanged(t, live.End(), c)
				w.wantChanged(t, <-into.end, c)
				if n := len(into.events); n > 0 {
					t.Errorf("cleo got %d events more", n)
				}
				stored := w.Stored(c.ID)
				for _, want := range stored[3:] {
					if got := early.Event(want.Seq); got.Mark() != want.Mark() {
						t.Errorf("seq %d is of the other history", want.Seq)
					}
				}
				w.Send("ann", c.ID, "and on")
				early.Event(int64(len(stored)) + 1)
			})
		})
	}
}

// A round of reconciling that began before a restore, and compares after the feed has found the
// other history by itself, must not report it a second time: all viewers would fetch again.
func TestReconcilingFindsAnotherHistoryOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustHistoric(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		backup := chattest.MustBackUp(t, db)
		stays, live := w.Pull(t, "ann", c.ID, new(int64(0))), w.Pull(t, "ben", c.ID, nil)
		stays.Event(1) // it keeps the feed open, and has nothing that is lost
		w.SendMany("ann", c.ID, 3)
		live.Events(2, 4)
		var found int64
		err := w.ReconcileAround(t.Context(), c.ID, func() {
			backup.MustRestore(t)
			w.SendMany("ann", c.ID, 5)
			w.wantChanged(t, live.End(), c)
			found = w.HistoriesFound()
		})
		if err != nil || found == 0 {
			t.Fatalf("another history was found %d times (%v)", found, err)
		}
		chattest.WantEqual(t, "findings", found, w.HistoriesFound())
		stays.Events(2, 6)
	})
}

// hintOfTheLast sends messages whose hints are lost, except for that of the last.
func (w *fixture) hintOfTheLast(c *model.Conversation, n int, carries bool) {
	w.T.Helper()
	var last feed.Hint
	w.Hints().Intercept(func(_ string, h feed.Hint) { last = h })
	w.SendMany("ann", c.ID, n)
	w.Hints().Intercept(nil)
	if !carries {
		last.Events = nil
	}
	w.Hints().PublishLocal(feed.Topic(c.ID), last)
}

// editMany makes events that are not messages.
func (w *fixture) editMany(c *model.Conversation, n int) {
	w.T.Helper()
	first := w.Stored(c.ID)[1].Message
	for i := range n {
		first = w.Edit("ann", first, fmt.Sprintf("edit %d", i))
	}
}

// A stream of everything is connected during the restore. Nothing of the new history comes before
// Reset, in any conversation, and after it comes what happens from then on.
func TestViewerEventsNoticeAnotherHistory(t *testing.T) {
	t.Parallel()
	for how, come := range map[string]func(w *fixture, lost, other *model.Conversation){
		"nothing happens": func(*fixture, *model.Conversation, *model.Conversation) {},
		"in the conversation that lost events": func(w *fixture, lost, _ *model.Conversation) {
			w.SendMany("ann", lost.ID, 5)
		},
		"in another conversation": func(w *fixture, _, other *model.Conversation) {
			w.SendMany("ann", other.ID, 1)
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				w := mustHistoric(t, db, "ann", "ben")
				lost := chattest.MustConversation(t, w.Fixture, "ann", "ben")
				other := chattest.MustConversation(t, w.Fixture, "ann", "ben")
				w.settle()
				before := w.PullEvents(t, "ben", nil)
				before.CaughtUp()
				before.Stop()
				w.Send("ann", lost.ID, "kept")
				w.settle()
				backup := chattest.MustBackUp(t, db)
				p := w.PullEvents(t, "ben", nil)
				p.CaughtUp()
				w.SendMany("ann", lost.ID, 3)
				p.Events(lost.ID, 3, 5)
				unsettled := p.Cursor // names the conversation
				w.settle()
				w.Send("ann", other.ID, "to move on")
				p.Event(other.ID, 2)
				settled := p.Cursor // its checkpoint is lost
				backup.MustRestore(t)
				w.SuspectHistory() // Run reconciles
				come(w, lost, other)
				p.Item("reset")
				p.CaughtUp()
				w.Send("ann", other.ID, "new")
				p.Event(other.ID, w.LastSeq(other.ID))
				for _, cursor := range []string{unsettled, settled} {
					again := w.PullEvents(t, "ben", &cursor)
					again.Item("reset")
					again.CaughtUp()
					again.Stop()
				}
				// A cursor from before the place where the histories part goes on.
				again := w.PullEvents(t, "ben", &before.Cursor)
				again.Event(lost.ID, 2)
			})
		})
	}
}

// A cursor names a membership that has ended, which the restore undoes.
func TestACursorAfterALostRemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustHistoric(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.settle()
		backup := chattest.MustBackUp(t, db)
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		w.RemoveBen(c)
		p.Items(removedAt(c, 2), fmt.Sprintf("%v: left", c.ID))
		p.Stop()
		backup.MustRestore(t)
		w.SendMany("ann", c.ID, 3)
		p = w.PullEvents(t, "ben", &p.Cursor)
		p.Item("reset")
	})
}

// A follower knows that its member is one up to seq 210, and has read a page of 200 events, when
// the database goes back to 205. The member is removed at 206.
func TestARemovalInAnotherHistory(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustHistoric(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.SendMany("ann", c.ID, 204)
		backup := chattest.MustBackUp(t, db)
		w.SendMany("ann", c.ID, 5)
		ben := w.slowly("ben", c.ID, new(int64(0)))
		<-ben.begun
		backup.MustRestore(t)
		w.reconcileNow()
		close(ben.goOn)
		chattest.WantEqual(t, "events", 205, len(ben.seqs(205)))
		w.Eventually(func() bool { return w.FeedOf(c.ID).Edge() == 205 })
		w.RemoveBen(c)
		w.SendMany("ann", c.ID, 3)
		chattest.WantEqual(t, "the last", []int64{206}, ben.seqs(1))
		chattest.WantCode(t, <-ben.end, errs.Forbidden)
	})
}

// The restore loses a message that was acknowledged. Sent again under its key, it is stored once.
func TestALostMessageIsStoredAgain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustHistoric(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		backup := chattest.MustBackUp(t, db)
		in := chat.SendMessage{
			ConversationID: c.ID, Content: "lost", IdempotencyKey: new("the key of this message"),
		}
		send := func() *model.Message {
			t.Helper()
			m, err := w.SendMessage(t.Context(), w.Actor("ann"), in)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		first := send()
		backup.MustRestore(t)
		again := send()
		if again.ID == first.ID {
			t.Error("the message has the id of the lost one")
		}
		chattest.WantEqual(t, "sent once more", again.ID, send().ID)
		chattest.WantEqual(t, "events", 2, len(w.Stored(c.ID)))
	})
}
