package feed

import (
	"context"
	"errors"
	"iter"

	"parley/model"
)

// InboxChange names an entry of a user's list of conversations that has changed. The consumer reads
// the entry.
type InboxChange struct {
	ConversationID model.ConversationID
	Removed        bool // the entry is no longer in the list
}

// Inbox yields each entry of the actor's list of conversations that changes from now on, for
// whatever reason: a message, a title, read state, a mute. If an entry changes several times before
// the consumer takes it, it is yielded once. The sequence ends with ctx's error.
func (s *Service) Inbox(ctx context.Context, actor model.Actor) iter.Seq2[InboxChange, error] {
	return func(yield func(InboxChange, error) bool) {
		in := &inbox{s.openViewerStream(actor), yield}
		defer in.close()
		if err := in.run(ctx); !errors.Is(err, errStopped) {
			yield(InboxChange{}, err)
		}
	}
}

type inbox struct {
	*viewerStream
	yield func(InboxChange, error) bool
}

// start follows all conversations.
func (in *inbox) start(ctx context.Context) error {
	feeds, err := in.openFeeds(ctx)
	if err != nil {
		return err
	}
	defer releaseFeeds(feeds)
	own, err := in.readMemberships(ctx)
	if err != nil {
		return err
	}
	for _, m := range own {
		if f := feeds[m.ConversationID]; f != nil { // if not, a membership hint follows
			delete(feeds, m.ConversationID)
			in.follow(f, m, m.last())
		}
	}
	return nil
}

func (in *inbox) run(ctx context.Context) error {
	if err := in.start(ctx); err != nil {
		return err
	}
	for {
		fo, changed, err := in.stream.next(ctx)
		if err != nil {
			return err
		}
		if fo != nil && in.followers[fo.id] == fo {
			if err := in.drain(ctx, fo); err != nil {
				return err
			}
		}
		for _, id := range changed {
			if err := in.reconcile(ctx, id); err != nil {
				return err
			}
		}
	}
}

func (in *inbox) deliver(c InboxChange) error {
	if !in.yield(c, nil) {
		return errStopped
	}
	return nil
}

// drain delivers that a conversation has changed, if there are events, or that it was removed.
func (in *inbox) drain(ctx context.Context, fo *follower) error {
	events, missed, err := fo.drainLive(ctx)
	switch {
	case errors.Is(err, errRemoved):
		in.drop(fo)
		if err := in.deliver(InboxChange{fo.id, true}); err != nil {
			return err
		}
		return in.reconcile(ctx, fo.id) // the actor may have been added again
	case err != nil:
		return err
	case missed || len(events) > 0:
		return in.deliver(InboxChange{fo.id, false})
	}
	return nil
}

// reconcile delivers that the membership of a conversation has begun or changed. The end of a
// membership is delivered by drain.
func (in *inbox) reconcile(ctx context.Context, id model.ConversationID) error {
	f, own, err := in.checkMembership(ctx, id)
	if err != nil {
		return err
	}
	if f != nil {
		in.follow(f, *own, own.last())
		return in.deliver(InboxChange{id, false})
	}
	fo := in.followers[id]
	if fo == nil {
		return nil
	}
	found, err := in.readMemberships(ctx, id)
	if err != nil || len(found) == 0 || found[0].Position == fo.position {
		return err
	}
	fo.position = found[0].Position
	return in.deliver(InboxChange{id, false})
}

// Joined yields each conversation that the actor becomes a member of from now on. The sequence ends
// with ctx's error.
func (s *Service) Joined(
	ctx context.Context, actor model.Actor,
) iter.Seq2[model.ConversationID, error] {
	return func(yield func(model.ConversationID, error) bool) {
		v := s.openViewerStream(actor)
		defer v.close()
		if err := v.joined(ctx, yield); !errors.Is(err, errStopped) {
			yield(model.ConversationID{}, err)
		}
	}
}

func (v *viewerStream) joined(
	ctx context.Context, yield func(model.ConversationID, error) bool,
) error {
	joined := map[model.ConversationID]int64{} // the seq of joining
	own, err := v.readMemberships(ctx)
	if err != nil {
		return err
	}
	for _, o := range own {
		joined[o.ConversationID] = o.JoinedSeq
	}
	for {
		_, changed, err := v.stream.next(ctx)
		if err != nil {
			return err
		}
		for _, id := range changed {
			found, err := v.readMemberships(ctx, id)
			switch {
			case err != nil:
				return err
			case len(found) == 0:
				delete(joined, id)
			case joined[id] != found[0].JoinedSeq:
				joined[id] = found[0].JoinedSeq
				if !yield(id, nil) {
					return errStopped
				}
			}
		}
	}
}
