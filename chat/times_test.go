package chat_test

import (
	"testing"
	"time"

	"parley/chat"
	"parley/chat/chattest"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// Also where a clock is behind, or somebody has waited for the lock, no event is older than the one
// before it.
func TestTimesNeverStepBack(t *testing.T) {
	t.Parallel()
	eachWithClock(t, func(t *testing.T, db *store.DB, clock *storetest.Clock) {
		w := mustFixture(t, db, "ann", "ben", "cat")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cat")
		m, reacted := w.Send("ann", c.ID, "first"), w.Send("ann", c.ID, "reacted")
		clock.Forward(time.Minute)
		w.Edit("ann", m, "second")
		clock.Forward(-10 * time.Second)
		w.Edit("ann", m, "third")
		clock.Forward(-10 * time.Second)
		w.addReaction("ben", reacted, "👍")
		clock.Forward(-time.Second)
		w.addReaction("cat", reacted, "👍")
		clock.Forward(-time.Second)
		w.Send("ann", c.ID, "later")
		w.delete("ann", m)
		events := w.Stored(c.ID)
		for i, e := range events[1:] {
			if before := events[i]; e.At.Before(before.At) {
				t.Errorf("seq %d, %s, was %v before seq %d, %s", e.Seq, e.Kind, before.At.Sub(e.At),
					before.Seq, before.Kind)
			}
		}
		group := chat.EmojiOn{reacted.ID, "👍"}
		found, err := w.Reactors(t.Context(), w.Actor("ann"), []chat.EmojiOn{group},
			store.Window{Limit: 20})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range found[group].Items {
			names = append(names, w.name(&r.UserID))
		}
		chattest.WantEqual(t, "who reacted, the first of them first", []string{"ben", "cat"}, names)
		w.wantLogTells(t, c.ID)
	})
}

// The same, without any clock that is wrong: who waited for the lock began before who had it.
func TestTimesNeverStepBackAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		m := w.Send("ann", c.ID, "first")
		for range 10 {
			together(w.reacting("ann", m, "👍"), w.reacting("ben", m, "👍"),
				w.reacting("ann", m, "🎉"), w.reacting("ben", m, "🎉"),
				w.takingBack("ann", m, "👍"), w.takingBack("ben", m, "👍"),
				w.takingBack("ann", m, "🎉"),
				func() error {
					_, err := w.SendMessage(t.Context(), w.Actor("ben"),
						chat.SendMessage{ConversationID: c.ID, Content: "x"})
					return err
				})
		}
		var last model.Event
		for _, e := range w.Stored(c.ID) {
			if e.At.Before(last.At) {
				t.Errorf("seq %d, %s, is %v older than the one before", e.Seq, e.Kind,
					last.At.Sub(e.At))
			}
			last = *e
		}
	})
}
