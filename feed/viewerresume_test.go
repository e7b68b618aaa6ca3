package feed_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

	"parley/chat/chattest"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// afterRead calls do once, after the next read whose query contains text.
type afterRead struct {
	text string
	do   atomic.Pointer[func()] // nil for nothing
}

func (*afterRead) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (a *afterRead) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	if isRead(e.Query, a.text) {
		if do := a.do.Swap(nil); do != nil {
			(*do)()
		}
	}
}

func isRead(query, text string) bool {
	return strings.HasPrefix(strings.TrimSpace(query), "SELECT") && strings.Contains(query, text)
}

// A message is sent while a stream without a cursor starts.
func TestWithoutACursorCaughtUpComesFirst(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		hook := &afterRead{text: "min(e.seq)"}
		db.Watch(hook)
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.PullEvents(t, "ann", nil).CaughtUp() // so that the feed is there, and goes on
		hook.do.Store(new(func() {
			w.Send("ann", c.ID, "meanwhile")
			chattest.WaitUntil(t, "the feed has it", func() bool { return w.FeedOf(c.ID).IsIdle() })
		}))
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		p.Event(c.ID, 2)
		p = p.Again(w.Fixture, "ben")
		p.CaughtUp()
	})
}

// A stream whose cursor is full goes on from its own cursor, and may have to do so again while it
// catches up. It still knows then which conversations its consumer is in.
// On SQLite alone: on PostgreSQL the transactions of other tests hold the low watermark back.
func TestAMembershipIsReportedWholeWhenTheCursorIsFullTwice(t *testing.T) {
	t.Parallel()
	db := storetest.MustSQLite(t)
	hook := &afterRead{text: `"low" FROM "checkpoints"`}
	db.Watch(hook)
	w := mustFixtureWith(t, db, chattest.Options{
		ReconcileEvery: chattest.Never, Feed: feed.WithBounds(1, chattest.Never),
	}, "ann", "ben")
	var groups [4]*model.Conversation
	for i := range groups {
		groups[i] = chattest.MustConversation(t, w.Fixture, "ann", "ben")
	}
	w.settle() // so that the cursor names none of them
	p := w.PullEvents(t, "ben", nil)
	p.CaughtUp()
	w.Send("ann", groups[0].ID, "fills the cursor")
	p.Event(groups[0].ID, 2)
	// While the stream makes room, after it has read the low watermark.
	hook.do.Store(new(func() {
		for _, c := range groups[2:] {
			w.RemoveBen(c)
			w.AddBen(c)
		}
	}))
	w.Send("ann", groups[1].ID, "has no room")
	left := map[model.ConversationID]bool{}
	for joined := 0; joined < 2; {
		item, err, _ := p.Next()
		switch {
		case err != nil:
			t.Fatal(err)
		case item.Left != nil:
			left[*item.Left] = true
		case item.Joined != nil && !left[*item.Joined]:
			t.Fatalf("got %q before left", chattest.ItemText(item))
		case item.Joined != nil:
			joined++
		}
	}
}
