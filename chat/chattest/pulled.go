package chattest

import (
	"context"
	"iter"
	"testing"

	"parley/feed"
	"parley/model"
)

// Pulled takes what Follow yields one event at a time. Between two calls of Next the follower
// waits, as a slow consumer makes it.
type Pulled struct {
	T    *testing.T
	Next func() (*model.Event, error, bool)
	Stop func()
}

// Pull follows a conversation until the test ends. Following begins with the first call of Next.
func (w *Fixture) Pull(
	t *testing.T, nickname string, id model.ConversationID, after *int64,
) *Pulled {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(cancel)
	return w.PullIn(ctx, t, nickname, id, after)
}

// PullIn is Pull with a context.
func (w *Fixture) PullIn(
	ctx context.Context, t *testing.T, nickname string, id model.ConversationID, after *int64,
) *Pulled {
	t.Helper()
	p, err := w.pullAfter(ctx, t, nickname, id, feed.AfterSeq(after))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// PullAfter is Pull after a place, which may be refused.
func (w *Fixture) PullAfter(
	t *testing.T, nickname string, id model.ConversationID, after *feed.Place,
) (*Pulled, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(cancel)
	return w.pullAfter(ctx, t, nickname, id, after)
}

func (w *Fixture) pullAfter(
	ctx context.Context, t *testing.T, nickname string, id model.ConversationID,
	after *feed.Place,
) (*Pulled, error) {
	t.Helper()
	events, err := w.Follow(ctx, w.Actor(nickname), id, after)
	if err != nil {
		return nil, err
	}
	next, stop := iter.Pull2(events)
	t.Cleanup(stop)
	return &Pulled{T: t, Next: next, Stop: stop}, nil
}

// Event takes the next event, which must have this seq.
func (p *Pulled) Event(seq int64) *model.Event {
	p.T.Helper()
	e, err, ok := p.Next()
	if err != nil || !ok {
		p.T.Fatalf("got the end (%v) instead of seq %d", err, seq)
	}
	if e.Seq != seq {
		p.T.Fatalf("got seq %d, want %d", e.Seq, seq)
	}
	return e
}

// Events takes the events with the seqs from and to, and those between.
func (p *Pulled) Events(from, to int64) (events []*model.Event) {
	p.T.Helper()
	for seq := from; seq <= to; seq++ {
		events = append(events, p.Event(seq))
	}
	return events
}

// Until takes events, in order of seq, up to the one with this seq. Some of them may be missing.
func (p *Pulled) Until(seq int64) {
	p.T.Helper()
	for last := int64(0); last != seq; {
		e, err, ok := p.Next()
		if err != nil || !ok || e.Seq <= last || e.Seq > seq {
			p.T.Fatalf("got %+v (%v) after seq %d, on the way to %d", e, err, last, seq)
		}
		last = e.Seq
	}
}

// End takes the error that ends the sequence, and checks that nothing comes after it.
func (p *Pulled) End() error {
	p.T.Helper()
	e, err, ok := p.Next()
	if !ok || err == nil {
		p.T.Fatalf("got %+v instead of an error", e)
	}
	if e != nil {
		p.T.Errorf("an event came together with the error: %+v", e)
	}
	if e, again, ok := p.Next(); ok {
		p.T.Errorf("after the error came %+v, %v", e, again)
	}
	return err
}

// Collect takes events up to a seq, without checking them. A goroutine may call it, because it does
// not end the test.
func (p *Pulled) Collect(last int64) (events []*model.Event) {
	for {
		e, err, ok := p.Next()
		if err != nil || !ok {
			p.T.Errorf("got the end (%v) after %d events", err, len(events))
			return events
		}
		if events = append(events, e); e.Seq >= last {
			return events
		}
	}
}
