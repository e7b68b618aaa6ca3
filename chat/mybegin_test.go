package chat

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

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
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		w.pullMine(t, "ann", nil).caughtUp() // so that the feed is there, and goes on
		hook.do.Store(new(func() {
			w.send("ann", c.ID, "meanwhile")
			waitUntil(t, "the feed has it", func() bool { return w.feed(c.ID).idle() })
		}))
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		p.event(c.ID, 2)
		p = p.again(w, "ben")
		p.caughtUp()
	})
}
