package feed

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"

	"parley/errs"
	"parley/membership"
	"parley/model"
	"parley/store"
)

// FollowQueue is how many events one follower queues. A slower one drops its queue, and reads from
// the database.
const FollowQueue = 64

var (
	errStopped = errors.New("the consumer has stopped")
	errRemoved = errs.New(errs.Forbidden, "You are no longer a member of this conversation.")
)

// follower is one conversation in a stream. The fields that delivery needs are first, so that they
// share cache lines: there may be thousands of followers of one conversation.
type follower struct {
	stream *stream
	sink   *sinkState // nil for a consumer that takes
	seen   Place      // the newest event that the consumer has; only the consumer uses it
	hidden int64      // messages up to this event are hidden from the actor

	// Guarded by stream.mu.
	// the sink's worker runs and delivers; if not, the feed does, and stream.mu guards seen
	working bool
	behind  bool  // the events after seen, up to missing, have to be read: they are not in queue
	removed bool  // the actor is no longer a member
	isReady bool  // it is in stream.ready
	missing int64 // if behind
	queue   []*model.Event
	removal *model.Event // the event that ended the membership, if it is known

	feed     *feed
	actor    *model.Actor // the same for all followers of a stream
	id       model.ConversationID
	checked  atomic.Int64 // the newest event when the actor was found to be a member
	position int64        // of the membership row, which changes with it
}

// attach begins to follow a conversation in a stream, after a place. If the actor is no longer a
// member, the follower is removed from the start.
func (s *Service) attach(
	ctx context.Context, st *stream, actor model.Actor, id model.ConversationID, seen Place,
) (*follower, error) {
	fo := &follower{stream: st, actor: &actor, id: id, seen: seen, feed: s.openFeed(id)}
	// The bounds are read after the feed is open, so that no event falls between the two.
	var bounds membership.SeqBounds
	err := store.RetryWhileUnavailable(ctx, func() (err error) {
		bounds, err = membership.Bounds(ctx, s.db, actor, id)
		return err
	})
	switch {
	case err == nil:
		fo.checked.Store(bounds.Last)
		fo.hidden = bounds.Hidden
		// The actor may have been removed and added again since seen was read.
		if fo.seen.Seq < fo.hidden {
			fo.seen = Place{Seq: fo.hidden}
		}
		fo.feed.join(fo, Place{bounds.Last, bounds.LastMark})
	case errs.Is(err, errs.NotFound):
		fo.removed = true
		fo.markReady()
	default:
		fo.feed.release()
		return nil, err
	}
	return fo, nil
}

func (fo *follower) detach() { fo.feed.leave(fo) }

// push queues or delivers events. They are consecutive, and follow those that were pushed before,
// except for a range that RaiseSeqs left out.
func (fo *follower) push(events []*model.Event) {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	switch {
	case fo.removed:
		return
	case fo.behind:
		fo.missing = max(fo.missing, events[len(events)-1].Seq)
		return
	case fo.sink != nil && !fo.working:
		fo.deliverLive(events)
		return
	case len(fo.queue)+len(events) > FollowQueue: // too slow: it reads at its own speed
		fo.queue, fo.behind, fo.missing = nil, true, events[len(events)-1].Seq
	default:
		fo.queue = append(fo.queue, events...)
	}
	fo.markReady()
}

// fallBehind drops the queue, and marks that events up to a seq have to be read.
func (fo *follower) fallBehind(missing int64) {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	fo.queue, fo.behind, fo.missing = nil, true, max(fo.missing, missing)
	fo.markReady()
}

// remove ends the follower, and drops its queue. removal is the event that ended the membership;
// nil if it is not known.
func (fo *follower) remove(removal *model.Event) {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	if !fo.removed {
		fo.queue, fo.removed, fo.removal = nil, true, removal
		fo.markReady()
	}
}

// markReady notifies the consumer that there is something to drain. It must be called with
// stream.mu held, or before the stream is used.
func (fo *follower) markReady() {
	if fo.sink != nil {
		fo.startWorker()
		return
	}
	if !fo.isReady {
		fo.isReady = true
		fo.stream.ready = append(fo.stream.ready, fo)
	}
	fo.stream.Notify()
}

// swap empties the queue and returns what was in it. behind is false if the consumer has read the
// missing events already.
func (fo *follower) swap() (events []*model.Event, behind, removed bool) {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	events, behind = fo.queue, fo.behind && fo.missing > fo.seen.Seq
	fo.queue, fo.behind, fo.missing = nil, false, 0
	return events, behind, fo.removed
}

// drainLive is drain for consumers that do not read missed events: it returns the queued events,
// and whether others were missed. It returns errRemoved once the actor is no longer a member.
func (fo *follower) drainLive(ctx context.Context) (events []*model.Event, missed bool, err error) {
	events, missed, removed := fo.swap()
	if missed && !removed { // the conversation may be gone
		err = store.RetryWhileUnavailable(ctx, func() error {
			_, err := membership.Of(ctx, fo.feed.service.db, *fo.actor, fo.id)
			return err
		})
		removed = errs.Is(err, errs.NotFound)
	}
	if removed {
		return nil, false, errRemoved
	}
	return events, missed, err
}

// hasMore reports whether there is something to drain. If not, it drops queued events that the
// consumer has read already.
func (fo *follower) hasMore() bool {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	if fo.removed || fo.behind && fo.missing > fo.seen.Seq ||
		len(fo.queue) > 0 && fo.queue[len(fo.queue)-1].Seq > fo.seen.Seq {
		return true
	}
	fo.queue, fo.behind, fo.missing = nil, false, 0
	return false
}

func (fo *follower) isBehind() bool {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	return fo.behind
}

func (fo *follower) isRemoved() bool {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	return fo.removed
}

// run delivers until ctx ends or the actor is removed. It yields CaughtUp once, after the events
// that were stored when it began.
func (fo *follower) run(ctx context.Context, yield func(Followed, error) bool) error {
	deliver := func(e *model.Event) error {
		if !yield(Followed{Event: e}, nil) {
			return errStopped
		}
		return nil
	}
	if err := fo.drain(ctx, deliver); err != nil {
		return err
	}
	if !yield(Followed{CaughtUp: fo.seen}, nil) {
		return errStopped
	}
	for {
		if _, _, err := fo.stream.next(ctx); err != nil {
			return err
		}
		if err := fo.drain(ctx, deliver); err != nil {
			return err
		}
	}
}

// drain reads and delivers the missing events, and then delivers the queued ones. It returns
// errRemoved after it has delivered the event that ended the membership.
func (fo *follower) drain(ctx context.Context, deliver func(*model.Event) error) error {
	events, behind, removed := fo.swap()
	if removed {
		return fo.deliverRemoval(ctx, deliver)
	}
	if behind {
		if err := fo.catchUp(ctx, deliver); err != nil {
			return err
		}
	}
	for _, e := range events {
		if e.Seq <= fo.seen.Seq { // catchUp has read it
			continue
		}
		if fo.isRemoved() {
			return fo.deliverRemoval(ctx, deliver)
		}
		if err := fo.deliver(e, deliver); err != nil {
			return err
		}
	}
	return nil
}

// deliver delivers an event. If its message is hidden from the actor, it delivers a copy without
// the message.
func (fo *follower) deliver(e *model.Event, deliver func(*model.Event) error) error {
	fo.seen = placeOf(e)
	if e.Message != nil && e.Message.Seq <= fo.hidden {
		bare := *e
		bare.Message = nil
		e = &bare
	}
	return deliver(e)
}

// endsWith reports whether an event ends the membership that is followed, rather than an earlier
// one.
func (fo *follower) endsWith(e *model.Event) bool {
	if e.Kind != model.MemberRemoved || e.Seq <= fo.checked.Load() {
		return false
	}
	var removed model.MemberRemovedData
	if err := json.Unmarshal(e.Data, &removed); err != nil {
		fo.feed.service.opts.Log.Error("cannot read the event of a removal",
			"conversation", fo.id, "seq", e.Seq, "error", err)
		return false
	}
	return removed.UserID == fo.actor.UserID
}

// catchUp reads and delivers all events that are stored after the newest one that was seen.
func (fo *follower) catchUp(ctx context.Context, deliver func(*model.Event) error) error {
	return retryWhileUnavailable(ctx, func() error { return fo.tryCatchUp(ctx, deliver) })
}

func (fo *follower) tryCatchUp(ctx context.Context, deliver func(*model.Event) error) error {
	for {
		events, err := fo.readPage(ctx, readPage)
		switch {
		case errors.Is(err, errRemoved):
			return fo.deliverRemoval(ctx, deliver)
		case err != nil:
			return err
		}
		for _, e := range events {
			if fo.isRemoved() {
				return fo.deliverRemoval(ctx, deliver)
			}
			if err := fo.deliver(e, deliver); err != nil {
				return err
			}
			if fo.endsWith(e) { // readPage has found a later membership, not this one
				return errRemoved
			}
		}
		if len(events) < readPage {
			return nil
		}
	}
}

// catchUpTo reads and delivers all events up to a seq. If the actor is no longer a member, it
// returns errRemoved, and does not deliver the event that says so.
func (fo *follower) catchUpTo(
	ctx context.Context, seq int64, deliver func(*model.Event) error,
) error {
	return retryWhileUnavailable(ctx, func() error {
		for fo.seen.Seq < seq {
			events, err := fo.readPage(ctx, int(min(seq-fo.seen.Seq, readPage)))
			if err != nil {
				return err
			}
			if len(events) == 0 {
				return errRemoved // the conversation is gone
			}
			for _, e := range events {
				if e.Seq > seq { // the range before it was left out, see RaiseSeqs
					return nil
				}
				if fo.isRemoved() || fo.endsWith(e) {
					return errRemoved
				}
				if err := fo.deliver(e, deliver); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// retryWhileUnavailable is store.RetryWhileUnavailable for functions that deliver. It returns
// errStopped and errRemoved even if ctx has ended too.
func retryWhileUnavailable(ctx context.Context, fn func() error) error {
	var ended error
	err := store.RetryWhileUnavailable(ctx, func() error {
		err := fn()
		if errors.Is(err, errStopped) || errors.Is(err, errRemoved) {
			ended = err
			return nil
		}
		return err
	})
	return cmp.Or(ended, err)
}

// readPage reads the events after the newest one that was seen; errRemoved if the actor is no
// longer a member.
func (fo *follower) readPage(ctx context.Context, limit int) ([]*model.Event, error) {
	s := fo.feed.service
	var events []*model.Event
	err := s.WithReplaySlot(ctx, func() (err error) {
		var changed bool
		events, fo.seen, err = eventsAfter(ctx, s.db, fo.id, fo.seen, limit)
		if changed = errors.Is(err, errHistoryChanged); err != nil && !changed {
			return store.Error(err)
		}
		// Checked after the read, so that no event is delivered that was read after the commit of a
		// removal.
		m, err := membership.Of(ctx, s.db, *fo.actor, fo.id)
		switch {
		case errs.Is(err, errs.NotFound), err == nil && m.HiddenSeq > fo.seen.Seq: // or added again
			return errRemoved
		case err == nil && changed:
			return s.historyChanged(ctx, fo.id)
		}
		return err
	})
	return events, err
}

// deliverRemoval delivers the event that ended the membership, and none of the undelivered events
// before it. It returns errRemoved.
func (fo *follower) deliverRemoval(ctx context.Context, deliver func(*model.Event) error) error {
	fo.stream.mu.Lock()
	removal := fo.removal
	fo.stream.mu.Unlock()
	if removal == nil {
		var err error
		if removal, err = fo.readRemoval(ctx); err != nil {
			return err
		}
	}
	if removal == nil || removal.Seq <= fo.seen.Seq {
		return errRemoved // the conversation itself is gone
	}
	fo.seen = placeOf(removal)
	return cmp.Or[error](deliver(removal), errRemoved)
}

// readRemoval reads the event that ended the membership; nil if it is gone with the conversation.
func (fo *follower) readRemoval(ctx context.Context) (*model.Event, error) {
	removals, err := removalsAfter(ctx, fo.feed.service.db, fo.id, fo.seen.Seq)
	if err != nil {
		return nil, store.Error(err)
	}
	for _, e := range removals {
		if fo.endsWith(e) {
			return e, nil
		}
	}
	return nil, nil //nolint:nilnil // nil is documented
}
