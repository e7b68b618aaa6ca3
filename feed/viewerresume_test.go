package feed_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

	"parley/chat/chattest"
	"parley/store"
	"parley/store/storetest"
)

// afterRead does something once, after the next read with a text in it.
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

// TestFromNowOnSaysSoFirst has somebody write while a stream without a cursor begins.
func TestFromNowOnSaysSoFirst(t *testing.T) {
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
