package feed

import (
	"context"
	"errors"

	"parley/membership"
	"parley/model"
)

// Sink is a consumer that is called, and needs no goroutine while there are no events. Its
// functions are called one at a time. If End is called, it is the last.
type Sink struct {
	// Accepts reports whether the sink accepts the actor, from whom messages up to the event hidden
	// are hidden; 0 means none. It is called once, with the result of the read that following
	// begins with: an earlier read may be out of date by then. Nil accepts every member.
	Accepts func(hidden int64) bool
	// Live takes an event. It must return at once, and must not call the Service. False means that
	// there is no room for the event, which then comes again, through Replay.
	Live func(*model.Event) bool
	// Replay takes an event that was missed. It may wait until there is room. An error ends
	// following.
	Replay func(context.Context, *model.Event) error
	// CaughtUp is called once, when all events up to a place have been delivered. An error ends
	// following.
	CaughtUp func(context.Context, Place) error
	// End is called with the error if following ends before its context does: see Follow.
	End func(error)
}

// sinkState is a sink in use.
type sinkState struct {
	Sink
	ctx      context.Context //nolint:containedctx // of FollowInto; no goroutine keeps it
	caughtUp bool            // CaughtUp has been called
}

// ErrNotAccepted is returned by FollowInto if the sink does not accept the actor.
var ErrNotAccepted = errors.New("the sink does not accept this member")

// FollowInto is Follow for a Sink. It returns once it is known that the actor may follow; events
// are delivered until ctx ends. Membership, what is hidden, and where to begin come from one read.
// If the actor is removed and added again, following ends all the same.
func (s *Service) FollowInto(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *Place, sink Sink,
) error {
	f := s.openFeed(id) // before the read, so that no event falls between the two
	bounds, err := membership.Bounds(ctx, s.db, actor, id)
	var seen Place
	if err == nil {
		seen, err = s.startAfter(ctx, id, after, bounds)
	}
	if err == nil && sink.Accepts != nil && !sink.Accepts(bounds.Hidden) {
		err = ErrNotAccepted
	}
	if err != nil {
		f.release()
		return err
	}
	fo := &follower{
		stream: newStream(), actor: &actor, id: id, feed: f,
		seen: seen, hidden: bounds.Hidden,
		sink: &sinkState{Sink: sink, ctx: ctx},
	}
	fo.checked.Store(bounds.Last)
	fo.working = true // until the worker below has found that there is nothing to do
	f.join(fo, Place{bounds.Last, bounds.LastMark})
	context.AfterFunc(ctx, fo.detach)
	go fo.work()
	return nil
}

// startWorker starts the worker, unless it runs. It must be called with stream.mu held.
func (fo *follower) startWorker() {
	if !fo.working {
		fo.working = true
		go fo.work()
	}
}

// work delivers the queued events and those that have to be read, until there are none. From then
// on the feed's worker delivers.
func (fo *follower) work() {
	sink := fo.sink
	for {
		err := fo.drain(sink.ctx, func(e *model.Event) error { return sink.Replay(sink.ctx, e) })
		if err == nil && !sink.caughtUp {
			sink.caughtUp = true
			err = sink.CaughtUp(sink.ctx, fo.seen)
		}
		if err != nil {
			if sink.ctx.Err() == nil {
				sink.End(err)
			}
			return // working stays true, so no event is delivered any more
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

// deliverLive delivers events to a sink that has all events before them. If the sink has no room,
// it starts the worker. It must be called with stream.mu held.
func (fo *follower) deliverLive(events []*model.Event) {
	live := func(e *model.Event) error {
		if !fo.sink.Live(e) {
			return errStopped
		}
		return nil
	}
	for _, e := range events {
		if e.Seq <= fo.seen.Seq {
			continue
		}
		before := fo.seen
		if err := fo.deliver(e, live); errors.Is(err, errStopped) {
			fo.seen, fo.behind, fo.missing = before, true, events[len(events)-1].Seq
			fo.startWorker()
			return
		}
	}
}
