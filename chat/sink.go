package chat

import (
	"context"
	"errors"

	"parley/errs"
	"parley/model"
)

// Sink is a consumer that is called, and has no goroutine of its own while nothing happens. Its
// functions are called one at a time, the last of them End, if at all.
type Sink struct {
	// Accepts decides whether the sink is for the actor, from whom messages up to the event hidden
	// are hidden; 0 hides none. It is asked once, of the very read that following begins with: what
	// is decided on an earlier one may be wrong by then. Nil accepts every member.
	Accepts func(hidden int64) bool
	// Live takes an event at once. False means that there is no room for it: it comes again,
	// through Replay.
	Live func(*model.Event) bool
	// Replay takes an event of those that were missed; it may wait until there is room.
	Replay func(context.Context, *model.Event) error
	// CaughtUp is called once, when everything up to a seq has been told.
	CaughtUp func(ctx context.Context, seq int64) error
	// End is called where following ends before its context does: FORBIDDEN once the actor is no
	// longer a member.
	End func(error)
}

// sinking is a sink in use.
type sinking struct {
	Sink
	ctx          context.Context //nolint:containedctx // of what follows: a sink has no goroutine that could have it
	toldCaughtUp bool
}

// ErrNotAccepted is what FollowInto returns when the sink does not accept the actor.
var ErrNotAccepted = errors.New("the sink does not accept this member")

// FollowInto is Follow for a Sink. It returns once it is clear that the actor may follow, and goes
// on until ctx ends. Membership, what is hidden, and where to begin come from one read. A member
// who is removed and added again is another member: following ends, whatever is hidden then.
func (s *Service) FollowInto(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *int64, sink Sink,
) error {
	f := s.feedOf(id) // before the read, so that nothing falls between the two
	last, hidden, err := s.position(ctx, actor, id)
	var seen int64
	if err == nil {
		seen, err = startAfter(after, last, hidden)
	}
	if err == nil && sink.Accepts != nil && !sink.Accepts(hidden) {
		err = ErrNotAccepted
	}
	if err != nil {
		f.release()
		return err
	}
	fo := &follower{
		stream: newStream(), actor: &actor, id: id, feed: f, seen: seen, hidden: hidden, checked: last,
		sink: &sinking{Sink: sink, ctx: ctx},
	}
	fo.working = true // until the goroutine below has found that there is nothing to do
	f.join(fo, last)
	context.AfterFunc(ctx, fo.detach)
	go fo.work()
	return nil
}

// begin has a goroutine deliver what cannot be delivered at once. It needs the stream's lock.
func (fo *follower) begin() {
	if !fo.working {
		fo.working = true
		go fo.work()
	}
}

// work delivers what waits, and what has to be read, until there is nothing of either: from then on
// the feed delivers.
func (fo *follower) work() {
	for {
		err := fo.drain(fo.sink.ctx, func(e *model.Event) error { return fo.sink.Replay(fo.sink.ctx, e) })
		if err == nil && !fo.sink.toldCaughtUp {
			fo.sink.toldCaughtUp = true
			err = fo.sink.CaughtUp(fo.sink.ctx, fo.seen)
		}
		if err != nil {
			if fo.sink.ctx.Err() == nil {
				fo.sink.End(err)
			}
			return // and so stays working: nothing is delivered any more
		}
		fo.stream.mu.Lock()
		if fo.queue == nil && !fo.behind && !fo.removed {
			fo.working = false
			fo.stream.mu.Unlock()
			return
		}
		fo.stream.mu.Unlock()
	}
}

// deliverLive hands events to a sink that has had everything before them. It needs the stream's
// lock.
func (fo *follower) deliverLive(events []*model.Event) {
	for _, e := range events {
		if e.Seq <= fo.seen {
			continue
		}
		live := func(e *model.Event) error {
			if !fo.sink.Live(e) {
				return errStopped
			}
			return nil
		}
		before := fo.seen
		if err := fo.deliver(e, live); errors.Is(err, errStopped) {
			fo.seen, fo.behind, fo.missing = before, true, events[len(events)-1].Seq
			fo.begin()
			return
		}
	}
}

// startOf finds out after which event somebody begins to follow; an error where they may not, or it
// is not there.
func (s *Service) startOf(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *int64,
) (seen int64, err error) {
	last, hidden, err := s.position(ctx, actor, id)
	if err != nil {
		return 0, err
	}
	return startAfter(after, last, hidden)
}

// startAfter is the event after which somebody begins to follow who may see what comes after
// hidden, while last is the newest.
func startAfter(after *int64, last, hidden int64) (seen int64, err error) {
	switch {
	case after == nil:
		return last, nil
	case *after < 0 || *after > last:
		return 0, errs.New(errs.BadUserInput, "afterSeq has to be from 0 to %d, the newest event; it is %d.", last, *after)
	}
	return max(*after, hidden), nil
}
