package chat

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"

	"parley/errs"
	"parley/model"
	"parley/pubsub"
	"parley/store"
)

const (
	// followQueue is how many hints wait for one follower before it goes back to reading the database.
	followQueue = 64
	// followPage is how many events one read brings.
	followPage = 200
	// gapPatience is how long a follower that sees a gap waits for the missing hint before it reads the database: hints of
	// senders that commit at almost the same time overtake each other, and the missing one is usually right behind.
	gapPatience = 50 * time.Millisecond
	// How long to wait before reading again when the database cannot be reached, doubling from first to last.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Follow yields every event of a conversation after a seq, each exactly once, in order: first what is stored, then what
// comes live. after nil means from now on. The actor has to be a member (NOT_FOUND), and after must not be beyond the
// newest event (BAD_USER_INPUT).
//
// The sequence ends with one error: ctx's, or FORBIDDEN once the actor is no longer a member, after the event that says so.
// Of what happened before that and has not been yielded when the removal is noticed, nothing more is.
// A consumer may take its time: nobody waits for it, and it misses nothing.
func (s *Service) Follow(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *int64,
) (iter.Seq2[*model.Event, error], error) {
	seen, hidden, err := s.position(ctx, actor, id)
	if err != nil {
		return nil, err
	}
	if after != nil {
		if *after < 0 || *after > seen {
			return nil, errs.New(errs.BadUserInput, "afterSeq has to be from 0 to %d, the newest event; it is %d.", seen, *after)
		}
		seen = max(*after, hidden)
	}
	return func(yield func(*model.Event, error) bool) {
		f := follower{service: s, actor: actor, id: id, seen: seen, yield: yield}
		if err := f.run(ctx); !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}, nil
}

var (
	errStopped  = errors.New("the consumer has had enough")
	errOverflow = errors.New("the queue of hints was full")
	errRemoved  = errs.New(errs.Forbidden, "You are no longer a member of this conversation.")
)

type follower struct {
	service *Service
	actor   model.Actor
	id      model.ConversationID
	yield   func(*model.Event, error) bool
	seen    int64 // the seq that was yielded last
}

// run begins anew after each overflow: what was in the queue is lost, and is read from the database instead.
func (f *follower) run(ctx context.Context) error {
	for {
		// Subscribing comes before reading, so that nothing falls between the two.
		sub := f.service.hints.Subscribe(topicOf(f.id), followQueue)
		if err := f.follow(ctx, sub); !errors.Is(err, errOverflow) {
			return err
		}
	}
}

func (f *follower) follow(ctx context.Context, sub *pubsub.Subscription[hint]) error {
	defer sub.Close()
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	early := map[int64]*model.Event{} // events that came before one that has to be yielded before them
	var promised int64                // the highest seq that a hint has told of
	gap := time.NewTimer(0)
	defer gap.Stop()
	gap.Stop()
	waiting := false
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-gap.C:
			waiting = false
			if err := f.catchUp(ctx); err != nil {
				return err
			}
		case h, ok := <-sub.C:
			if !ok {
				return errOverflow
			}
			promised = max(promised, h.seq)
			if h.event != nil && h.seq == f.seen+1 && len(early) == 0 { // as nearly always
				if err := f.deliverLive(h.event); err != nil {
					return err
				}
			} else if h.event != nil && h.seq > f.seen {
				early[h.seq] = h.event
			}
		}
		if err := f.deliverInOrder(early); err != nil {
			return err
		}
		switch {
		case len(early) > followQueue: // the gap is too wide to be waited out
			if err := f.catchUp(ctx); err != nil {
				return err
			}
			clear(early)
		case promised <= f.seen:
			if waiting {
				gap.Stop()
				waiting = false
			}
		case !waiting:
			gap.Reset(gapPatience)
			waiting = true
		}
	}
}

// deliverInOrder yields what has come for as long as nothing is missing, and forgets what was yielded already.
func (f *follower) deliverInOrder(early map[int64]*model.Event) error {
	for e := early[f.seen+1]; e != nil; e = early[f.seen+1] {
		if err := f.deliverLive(e); err != nil {
			return err
		}
	}
	for seq := range early {
		if seq <= f.seen {
			delete(early, seq)
		}
	}
	return nil
}

// catchUp reads and yields everything that is stored beyond what was seen. While the database is away it waits for it: that
// is no reason to end a stream that has lost nothing.
func (f *follower) catchUp(ctx context.Context) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := f.tryCatchUp(ctx)
		if ctx.Err() != nil && !errors.Is(err, errStopped) {
			return context.Cause(ctx) // whatever the database made of it
		}
		if !errs.Is(err, errs.Unavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

func (f *follower) tryCatchUp(ctx context.Context) error {
	for {
		events, err := eventsAfter(ctx, f.service.db, f.id, f.seen, followPage)
		if err != nil {
			return store.Error(err)
		}
		// After the reading: nothing is yielded that was read after a removal had been committed.
		m, err := memberOf(ctx, f.service.db, f.actor, f.id)
		switch {
		case errs.Is(err, errs.NotFound), err == nil && m.HiddenSeq > f.seen: // or removed, and already back
			return f.deliverRemoval(ctx)
		case err != nil:
			return err
		}
		for _, e := range events {
			if err := f.deliver(e); err != nil {
				return err
			}
		}
		if len(events) < followPage {
			return nil
		}
	}
}

func (f *follower) deliver(e *model.Event) error {
	f.seen = e.Seq
	if !f.yield(e, nil) {
		return errStopped
	}
	return nil
}

// deliverLive ends the stream with the event that says that the actor is no longer a member. In what catchUp reads there
// may be such an event of long ago, before they came back.
func (f *follower) deliverLive(e *model.Event) error {
	if err := f.deliver(e); err != nil {
		return err
	}
	if removed, err := f.removes(e); err != nil || removed {
		return cmp.Or[error](err, errRemoved)
	}
	return nil
}

// deliverRemoval ends the stream of somebody who is found to be no longer a member: with the event that says so, and
// nothing of what else happened meanwhile.
func (f *follower) deliverRemoval(ctx context.Context) error {
	var removals []*model.Event
	err := f.service.db.NewSelect().Model(&removals).Where("e.conversation_id = ?", f.id).Where("e.seq > ?", f.seen).
		Where("e.kind = ?", model.MemberRemoved).OrderExpr("e.seq DESC").Scan(ctx)
	if err != nil {
		return store.Error(err)
	}
	for _, e := range removals {
		if removed, err := f.removes(e); err != nil {
			return err
		} else if removed {
			return cmp.Or[error](f.deliver(e), errRemoved)
		}
	}
	return errRemoved // with the conversation itself
}

func (f *follower) removes(e *model.Event) (bool, error) {
	if e.Kind != model.MemberRemoved {
		return false, nil
	}
	var removed model.MemberRemovedData
	err := json.Unmarshal(e.Data, &removed)
	return removed.UserID == f.actor.UserID, err
}
