package feed

import (
	"context"
	"errors"
	"iter"

	"parley/errs"
	"parley/membership"
	"parley/model"
)

// Follow yields every event of a conversation after a seq, each exactly once, in order of seq:
// first what is stored (the replay), then live events. after nil means from now on. It returns
// NOT_FOUND for non-members, and BAD_USER_INPUT if after is negative or above the newest event.
//
// The sequence ends with one error: ctx's, or FORBIDDEN once the actor is no longer a member, after
// the event that says so. When the removal is noticed, the events before it that have not been
// yielded are dropped. A slow consumer delays no one, and misses no event.
func (s *Service) Follow(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *int64,
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

// Followed is an event or, if Event is nil, the end of the replay: everything up to the seq
// CaughtUp has been yielded, and what follows is live.
type Followed struct {
	Event    *model.Event
	CaughtUp int64
}

// FollowWithCaughtUp is Follow, and also yields once, where the replay ends, how far it has come.
func (s *Service) FollowWithCaughtUp(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *int64,
) (iter.Seq2[Followed, error], error) {
	// An error of the request is returned before the sequence begins.
	bounds, err := membership.Bounds(ctx, s.db, actor, id)
	if err != nil {
		return nil, err
	}
	seen, err := startAfter(after, bounds)
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

// startAfter returns the seq after which a member begins to follow; BAD_USER_INPUT if there is no
// such event.
func startAfter(after *int64, bounds membership.SeqBounds) (seen int64, err error) {
	switch {
	case after == nil:
		return bounds.Last, nil
	case *after < 0 || *after > bounds.Last:
		return 0, errs.New(errs.BadUserInput,
			"afterSeq has to be from 0 to %d, the newest event; it is %d.", bounds.Last, *after)
	}
	return max(*after, bounds.Hidden), nil
}
