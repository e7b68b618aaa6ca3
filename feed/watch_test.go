package feed_test

import (
	"testing"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
	"parley/wake"
)

// watch watches a conversation until the test ends.
func (w *fixture) watch(t *testing.T, nickname string, id model.ConversationID) *feed.Watcher {
	t.Helper()
	watcher, err := w.Watch(t.Context(), w.Actor(nickname), id, wake.NewNotifier())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watcher.Close)
	return watcher
}

func TestAWatcherReportsThatItHasMissedEvents(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		watcher := w.watch(t, "ben", c.ID)
		w.SendMany("ann", c.ID, 2)
		w.Eventually(func() bool { return w.FeedOf(c.ID).Followers()[0].Queued == 2 })
		events, missed, err := watcher.Drain(t.Context())
		if len(events) != 2 || missed || err != nil {
			t.Errorf("got %d events, missed %v, %v; want 2", len(events), missed, err)
		}
		w.SendMany("ann", c.ID, feed.FollowQueue+1)
		w.Eventually(func() bool { return w.Stats().Behind == 1 && w.FeedOf(c.ID).IsIdle() })
		events, missed, err = watcher.Drain(t.Context())
		if len(events) != 0 || !missed || err != nil {
			t.Errorf("got %d events, missed %v, %v; want missed", len(events), missed, err)
		}
		w.Send("ann", c.ID, "one more")
		w.Eventually(func() bool { return w.FeedOf(c.ID).Followers()[0].Queued == 1 })
		events, missed, err = watcher.Drain(t.Context())
		if len(events) != 1 || missed || err != nil {
			t.Errorf("got %d events, missed %v, %v; want 1", len(events), missed, err)
		}
	})
}

func TestAWatcherEndsWithItsConversation(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		watcher := w.watch(t, "ben", c.ID)
		w.LoseHints()
		w.EndMembership("ann", c.ID)
		w.EndMembership("ben", c.ID)
		w.Exec("DELETE FROM events WHERE conversation_id = ?", c.ID)
		w.Exec("DELETE FROM conversations WHERE id = ?", c.ID)
		if err := w.ReconcileAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, _, err := watcher.Drain(t.Context())
		chattest.WantCode(t, err, errs.Forbidden)
	})
}
