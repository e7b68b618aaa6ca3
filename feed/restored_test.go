package feed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

const skip = 1000

// longAgo is before every run: the time of a backup that the database was restored from.
func longAgo(db *store.DB) time.Time { return db.Now().Add(-time.Hour) }

// raise raises all conversations by skip.
func (w *fixture) raise(t *testing.T) feed.Restoration {
	t.Helper()
	run, err := w.RaiseSeqs(t.Context(), longAgo(w.DB), skip, nil)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// wantRestored checks that an event says which range it leaves out.
func wantRestored(t *testing.T, e *model.Event, first int64) {
	t.Helper()
	var data model.HistoryRestoredData
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	if e.Kind != model.HistoryRestored || data.First != first || e.ActorID != nil ||
		e.MessageID != nil {
		t.Errorf("got %+v with %s, want history_restored from %d", e, e.Data, first)
	}
}

// seqs returns the seqs of the stored events.
func (w *fixture) seqs(id model.ConversationID) (seqs []int64) {
	for _, e := range w.Stored(id) {
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

func TestRaiseSeqsLeavesARangeOut(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.SendMany("ann", c.ID, 3)
		other := chattest.MustConversation(t, w.Fixture, "ben", "ann")
		before := w.conversation(t, c.ID)
		unread := w.unread(t, "ben", c.ID)

		run := w.raise(t)
		if run.Raised != 2 || run.FinishedAt == nil || run.Skip != skip {
			t.Errorf("the run is %+v", run)
		}
		events := w.Stored(c.ID)
		wantRestored(t, events[4], 5)
		if diff := cmp.Diff([]int64{1, 2, 3, 4, 4 + skip}, w.seqs(c.ID)); diff != "" {
			t.Errorf("seqs (-want +got):\n%s", diff)
		}
		wantRestored(t, w.Stored(other.ID)[1], 2)
		if events[4].At.Before(events[3].At) || events[4].Position <= events[3].Position {
			t.Error("the event is before the one before it")
		}
		after := w.conversation(t, c.ID)
		if !after.LastActivityAt.Equal(before.LastActivityAt) ||
			after.LastMessageSeq != before.LastMessageSeq {
			t.Errorf("the event counts as activity: %+v, before %+v", after, before)
		}
		if diff := cmp.Diff(unread, w.unread(t, "ben", c.ID)); diff != "" {
			t.Errorf("unread (-before +after):\n%s", diff)
		}
		if m := w.Send("ann", c.ID, "next"); m.Seq != 5+skip {
			t.Errorf("the next message has seq %d", m.Seq)
		}
	})
}

func (w *fixture) conversation(t *testing.T, id model.ConversationID) *model.Conversation {
	t.Helper()
	c := new(model.Conversation)
	if err := w.DB.NewSelect().Model(c).Where("c.id = ?", id).Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *fixture) unread(t *testing.T, nickname string, id model.ConversationID) model.Unread {
	t.Helper()
	found, err := w.Unread(t.Context(), w.Actor(nickname), []model.ConversationID{id})
	if err != nil {
		t.Fatal(err)
	}
	return found[id]
}

// A run that is interrupted goes on, and one that is finished is not repeated. A later restore has
// a run of its own.
func TestRaiseSeqsOncePerRestore(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		conversations := make([]model.ConversationID, 2*feed.RaiseAtOnce+1)
		for i := range conversations {
			conversations[i] = chattest.MustConversation(t, w.Fixture, "ann", "ben").ID
		}
		backup := longAgo(db)
		ctx, interrupt := context.WithCancel(t.Context())
		run, err := w.RaiseSeqs(ctx, backup, skip, func(feed.Restoration) { interrupt() })
		if err == nil || run.FinishedAt != nil {
			t.Fatalf("the run was not interrupted: %+v", run)
		}
		if n := w.countRestored(t); n != feed.RaiseAtOnce {
			t.Fatalf("%d conversations were raised before the interrupt", n)
		}
		_, err = w.RaiseSeqs(t.Context(), backup, skip+1, nil)
		chattest.WantCode(t, err, errs.BadUserInput)
		late := chattest.MustConversation(t, w.Fixture, "ann", "ben").ID // has lost nothing
		for range 2 {
			run, err = w.RaiseSeqs(t.Context(), backup.Add(time.Minute), skip, nil)
			if err != nil || run.FinishedAt == nil || int(run.Raised) != len(conversations) {
				t.Fatalf("got %+v (%v)", run, err)
			}
		}
		for _, id := range conversations {
			if got := w.seqs(id); !slices.Equal(got, []int64{1, 1 + skip}) {
				t.Fatalf("seqs %v", got)
			}
		}
		if got := w.seqs(late); len(got) != 1 {
			t.Errorf("the conversation from after the restore has seqs %v", got)
		}
		again, err := w.RaiseSeqs(t.Context(), db.Now(), skip, nil)
		if err != nil || again.BeganAt.Equal(run.BeganAt) ||
			int(again.Raised) != len(conversations)+1 {
			t.Errorf("after another restore: %+v (%v)", again, err)
		}
		if got := w.seqs(conversations[0]); !slices.Equal(got, []int64{1, 1 + skip, 1 + 2*skip}) {
			t.Errorf("after another restore: seqs %v", got)
		}
	})
}

func (w *fixture) countRestored(t *testing.T) int {
	t.Helper()
	n, err := w.DB.NewSelect().Table("events").Where("kind = ?", model.HistoryRestored).
		Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// Two processes that run at once share the work.
func TestRaiseSeqsTwiceAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		var ids []model.ConversationID
		for range feed.RaiseAtOnce + 1 {
			ids = append(ids, chattest.MustConversation(t, w.Fixture, "ann", "ben").ID)
		}
		backup := longAgo(db)
		done := make(chan error)
		for range 2 {
			go func() {
				_, err := w.RaiseSeqs(t.Context(), backup, skip, nil)
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := w.countRestored(t); n != len(ids) {
			t.Errorf("%d events for %d conversations", n, len(ids))
		}
	})
}

// The API has seqs of 32 bits.
func TestRaiseSeqsRefusesToOverflow(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.Exec("UPDATE conversations SET last_seq = ?", math.MaxInt32-skip+1)
		for _, n := range []int64{-1, 0, 1, math.MaxInt32 + 1, math.MaxInt64, skip} {
			_, err := w.RaiseSeqs(t.Context(), longAgo(db), n, nil)
			chattest.WantCode(t, err, errs.BadUserInput)
		}
		if n, err := db.NewSelect().Table("restorations").Count(t.Context()); err != nil || n != 0 {
			t.Errorf("%d runs are stored (%v)", n, err)
		}
		run, err := w.RaiseSeqs(t.Context(), longAgo(db), skip-1, nil)
		if err != nil || run.Raised != 1 || w.LastSeq(c.ID) != math.MaxInt32 {
			t.Errorf("got %+v (%v)", run, err)
		}
	})
}

// Followers get the event, live and in the replay, and what follows it.
func TestFollowersGetTheEventOfARestore(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.SendMany("ann", c.ID, 2)
		live := w.Pull(t, "ben", c.ID, new(int64(0)))
		live.Events(1, 3)
		slow := w.Pull(t, "ben", c.ID, new(int64(0)))
		slow.Event(1)

		w.raise(t)
		if err := w.ReconcileAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantRestored(t, live.Event(3+skip), 4)
		w.SendMany("ann", c.ID, feed.ReadPage+1)
		live.Events(4+skip, 4+skip+feed.ReadPage)
		slow.Events(2, 3)
		wantRestored(t, slow.Event(3+skip), 4)
		slow.Events(4+skip, 4+skip+feed.ReadPage)

		late := w.Pull(t, "ann", c.ID, new(int64(1)))
		late.Events(2, 3)
		late.Event(3 + skip)
		late.Event(4 + skip)
		// A client that has events from the lost history resumes within the range.
		lost := w.Pull(t, "ann", c.ID, new(int64(100)))
		wantRestored(t, lost.Event(3+skip), 4)
		lost.Event(4 + skip)
	})
}

// Hints of messages overtake what a feed reads of the restore, also if the range is narrow.
func TestHintsAfterARestore(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		run, err := w.RaiseSeqs(t.Context(), longAgo(db), feed.MinSkip, nil)
		if err != nil || run.Raised != 1 {
			t.Fatal(run, err)
		}
		w.SendMany("ann", c.ID, 3)
		wantRestored(t, p.Event(3), 2)
		p.Events(4, 6)
	})
}

// A stream of everything resumes over the range, and is not reset because of its width.
func TestEverythingResumesOverARestore(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := chattest.Options{ReconcileEvery: chattest.Never, MaxReplayed: 15}
		w := mustFixtureWith(t, db, opts, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		other := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		w.SendMany("ann", c.ID, 2)
		p.Events(c.ID, 2, 3) // the cursor names the conversation
		named := p.Cursor
		live := w.PullEvents(t, "ben", &named)
		live.CaughtUp()
		w.SendMany("ann", c.ID, 2)
		live.Events(c.ID, 4, 5)
		unnamed, err := w.ViewerEventsCursor(t.Context(), w.Actor("ben"))
		if err != nil {
			t.Fatal(err)
		}

		w.Send("ann", c.ID, "missed together with the range")
		live.Event(c.ID, 6)
		w.raise(t)
		if err := w.ReconcileAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		live.Items(fmt.Sprintf("%v: %d history_restored", c.ID, 6+skip),
			fmt.Sprintf("%v: %d history_restored", other.ID, 1+skip))
		w.SendMany("ann", c.ID, 3)
		live.Events(c.ID, 7+skip, 9+skip)
		for name, cursor := range map[string]string{"named": named, "not named": unnamed} {
			t.Run(name, func(t *testing.T) {
				p := w.PullEvents(t, "ben", &cursor)
				if name == "named" {
					p.Events(c.ID, 4, 5)
				}
				var seqs []int64
				others := 0
				for range 6 {
					item, err, ok := p.Next()
					switch {
					case err != nil || !ok || item.Event == nil:
						t.Fatalf("got %s (%v)", chattest.ItemText(item), err)
					case item.Event.ConversationID == other.ID:
						wantRestored(t, item.Event, 2)
						others++
					default:
						seqs = append(seqs, item.Event.Seq)
					}
				}
				if diff := cmp.Diff([]int64{6, 6 + skip, 7 + skip, 8 + skip, 9 + skip},
					seqs); diff != "" || others != 1 {
					t.Errorf("%d others; seqs (-want +got):\n%s", others, diff)
				}
				p.CaughtUp()
			})
		}
		// As many events as seqs: these are too many.
		w.SendMany("ann", c.ID, 15)
		for _, cursor := range []string{named, unnamed} {
			p := w.PullEvents(t, "ben", &cursor)
			p.Item("reset")
		}
	})
}
