package feed

import (
	"context"
	"errors"
	"iter"

	"parley/errs"
	"parley/membership"
	"parley/model"
)

// Follow yields every event of a conversation after a place, each exactly once, in order of seq:
// first what is stored (the replay), then live events. after nil means from now on. It returns
// NOT_FOUND for non-members, BAD_USER_INPUT if the seq of after is negative, and HISTORY_CHANGED if
// it is above the newest event.
//
// The sequence ends with one error:
//   - ctx's.
//   - FORBIDDEN once the actor is no longer a member, after the event that says so. When the
//     removal is noticed, the events before it that have not been yielded are dropped.
//   - HISTORY_CHANGED if the database no longer has the event that was yielded last, or that stands
//     at after, or has another in its place. No event of the other history is yielded.
//
// A slow consumer delays no one, and misses no event.
func (s *Service) Follow(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *Place,
) (iter.Seq2[*model.Event, error], error) {
	followed, err := s.FollowWithCaughtUp(ctx, actor, id, after)
	if err != nil {
		return nil, err
	}
	return func(yield func(*model.Event, error) bool) {
		for item, err := range followed {
			if item.Event == nil && err == nil {
				continue
			}
			if !yield(item.Event, err) {
				return
			}
		}
	}, nil
}

// Followed is an event or, if Event is nil, the end of the replay: everything up to the place
// CaughtUp has been yielded, and what follows is live.
type Followed struct {
	Event    *model.Event
	CaughtUp Place
}

// FollowWithCaughtUp is Follow, and also yields once, where the replay ends, how far it has come.
func (s *Service) FollowWithCaughtUp(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *Place,
) (iter.Seq2[Followed, error], error) {
	// An error of the request is returned before the sequence begins.
	bounds, err := membership.Bounds(ctx, s.db, actor, id)
	if err != nil {
		return nil, err
	}
	seen, err := s.startAfter(ctx, id, after, bounds)
	if err != nil {
		return nil, err
	}
	return func(yield func(Followed, error) bool) {
		fo, err := s.attach(ctx, newStream(), actor, id, seen)
		if err == nil {
			defer fo.detach()
			err = fo.run(ctx, yield)
		}
		if !errors.Is(err, errStopped) {
			yield(Followed{}, err)
		}
	}, nil
}

// startAfter returns the place after which a member begins to follow.
func (s *Service) startAfter(
	ctx context.Context, id model.ConversationID, after *Place, bounds membership.SeqBounds,
) (Place, error) {
	last := Place{bounds.Last, bounds.LastMark}
	switch {
	case after == nil:
		return last, nil
	case after.Seq < 0:
		return last, errs.New(errs.BadUserInput, "afterSeq has to be at least 0; it is %d.",
			after.Seq)
	case after.Seq > last.Seq, after.Seq == last.Seq && !after.Mark.Matches(last.Mark):
		return last, s.historyChanged(ctx, id)
	case after.Seq == last.Seq:
		return last, nil
	case after.Seq < bounds.Hidden:
		// What is hidden is skipped, but only in the history that the client knows.
		if after.Seq > 0 && after.Mark != 0 {
			_, _, err := eventsAfter(ctx, s.db, id, *after, 0)
			if errors.Is(err, errHistoryChanged) {
				return last, s.historyChanged(ctx, id)
			}
			if err != nil {
				return last, err
			}
		}
		return Place{Seq: bounds.Hidden}, nil
	}
	return *after, nil
}
