package feed_test

import (
	"context"
	"testing"
	"time"

	"parley/chat/chattest"
	"parley/store/storetest"
)

// A stream over many conversations that ends while it reads them leaves no feed open.
func TestStreamsThatDoNotStartLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	w := mustFixture(t, storetest.MustSQLite(t), "ann", "ben")
	for range 100 {
		chattest.MustConversation(t, w.Fixture, "ann", "ben")
	}
	begin := time.Now()
	w.takeFirst(t.Context())
	whole := time.Since(begin)
	for i := range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i)/100)
		w.takeFirst(ctx)
		cancel()
	}
	if feeds, topics := w.Stats().Feeds, w.Hints().Topics(); feeds+len(topics) != 0 {
		t.Errorf("%d feeds and %d topics are left", feeds, len(topics))
	}
}

// takeFirst takes the first item of ann's events.
func (w *fixture) takeFirst(ctx context.Context) {
	seq, err := w.ViewerEvents(ctx, w.Actor("ann"), nil)
	if err != nil {
		w.T.Fatal(err)
	}
	for _, err := range seq {
		if err != nil && ctx.Err() == nil {
			w.T.Error(err)
		}
		return
	}
}
