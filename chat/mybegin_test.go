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

// afterQuery does something once, after a statement with a text in it.
type afterQuery struct {
	text string
	done atomic.Bool
	do   func()
}

func (*afterQuery) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (a *afterQuery) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	if strings.Contains(e.Query, a.text) && a.done.CompareAndSwap(false, true) {
		a.do()
	}
}

// TestFromNowOnSaysSoFirst has somebody write while a stream without a cursor begins.
func TestFromNowOnSaysSoFirst(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		w.pullMine(t, "ann", nil).caughtUp() // so that the feed is there, and goes on
		w.db.Watch(&afterQuery{text: "min(e.seq)", do: func() {
			w.send("ann", c.ID, "meanwhile")
			waitUntil(t, "the feed has it", func() bool { return w.feed(c.ID).idle() })
		}})
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		p.event(c.ID, 2)
		p = p.again(w, "ben")
		p.caughtUp()
	})
}
