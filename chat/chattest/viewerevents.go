package chattest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"testing"

	"parley/feed"
	"parley/model"
)

// PulledEvents takes what ViewerEvents yields one item at a time.
type PulledEvents struct {
	T      *testing.T
	Next   func() (feed.ViewerEvent, error, bool)
	Stop   func()
	Cursor string // of the last item
}

// PullEvents follows all conversations of a user until the test ends. Following begins with the
// first item that is taken.
func (w *Fixture) PullEvents(t *testing.T, nickname string, after *string) *PulledEvents {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(cancel)
	items, err := w.ViewerEvents(ctx, w.Actor(nickname), after)
	if err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(items)
	t.Cleanup(stop)
	return &PulledEvents{T: t, Next: next, Stop: stop}
}

// Again resumes on w with the cursor of the last item.
func (p *PulledEvents) Again(w *Fixture, nickname string) *PulledEvents {
	p.T.Helper()
	p.Stop()
	return w.PullEvents(p.T, nickname, &p.Cursor)
}

// Item takes the next item, which must have this ItemText.
func (p *PulledEvents) Item(want string) feed.ViewerEvent {
	p.T.Helper()
	item, err, ok := p.Next()
	if err != nil || !ok {
		p.T.Fatalf("got the end (%v) instead of %q", err, want)
	}
	if got := ItemText(item); got != want {
		p.T.Fatalf("got %q, want %q", got, want)
	}
	p.Cursor = item.Cursor
	return item
}

// Items takes the next items, which must have these ItemTexts, in any order.
func (p *PulledEvents) Items(want ...string) {
	p.T.Helper()
	var got []string
	for range want {
		item, err, ok := p.Next()
		if err != nil || !ok {
			p.T.Fatalf("got the end (%v) after %q, want %q", err, got, want)
		}
		got = append(got, ItemText(item))
		p.Cursor = item.Cursor
	}
	slices.Sort(got)
	slices.Sort(want)
	WantEqual(p.T, "items", want, got)
}

// CaughtUp takes the next item, which must be CaughtUp.
func (p *PulledEvents) CaughtUp() { p.T.Helper(); p.Item("caught up") }

// Event takes the next item, which must be this event.
func (p *PulledEvents) Event(id model.ConversationID, seq int64) *model.Event {
	p.T.Helper()
	item, err, ok := p.Next()
	if err != nil || !ok || item.Event == nil || item.Event.ConversationID != id ||
		item.Event.Seq != seq {
		p.T.Fatalf("got %q (%v), want seq %d of %v", ItemText(item), err, seq, id)
	}
	p.Cursor = item.Cursor
	return item.Event
}

// Events takes the next items, which must be the events of a conversation with the seqs from and
// to, and those between.
func (p *PulledEvents) Events(id model.ConversationID, from, to int64) {
	p.T.Helper()
	for seq := from; seq <= to; seq++ {
		p.Event(id, seq)
	}
}

// RemoveBen lets ann remove ben from a conversation.
func (w *Fixture) RemoveBen(c *model.Conversation) {
	w.T.Helper()
	if _, err := w.RemoveMember(w.T.Context(), w.Actor("ann"), c.ID, w.UserID("ben")); err != nil {
		w.T.Fatal(err)
	}
}

// AddBen lets ann add ben to a conversation.
func (w *Fixture) AddBen(c *model.Conversation) {
	w.T.Helper()
	if _, err := w.AddMembers(w.T.Context(), w.Actor("ann"), c.ID,
		w.NewMembers("ben")); err != nil {
		w.T.Fatal(err)
	}
}

// ItemText describes an item in a few words.
func ItemText(item feed.ViewerEvent) string {
	switch {
	case item.Event != nil:
		return fmt.Sprintf("%v: %d %s", item.Event.ConversationID, item.Event.Seq, item.Event.Kind)
	case item.Joined != nil:
		return fmt.Sprintf("%v: joined", *item.Joined)
	case item.Left != nil:
		return fmt.Sprintf("%v: left", *item.Left)
	case item.CaughtUp:
		return "caught up"
	case item.Reset:
		return "reset"
	}
	return "nothing"
}
