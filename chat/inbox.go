package chat

import (
	"context"
	"errors"
	"iter"

	"parley/model"
)

// InboxChange says which entry of somebody's list of conversations has changed. It is read anew, so only the newest counts.
type InboxChange struct {
	ConversationID model.ConversationID
	Removed        bool
}

// Inbox yields each entry of the actor's list of conversations that changes from now on, whatever it is that changes: a
// message, a title, what is read, a mute. Where entries change faster than they are taken, each is yielded once.
func (s *Service) Inbox(ctx context.Context, actor model.Actor) iter.Seq2[InboxChange, error] {
	return func(yield func(InboxChange, error) bool) {
		in := &inbox{myConversations: s.listenFor(actor), yield: yield, positions: map[model.ConversationID]int64{}}
		defer in.close()
		if err := in.run(ctx); !errors.Is(err, errStopped) {
			yield(InboxChange{}, err)
		}
	}
}

type inbox struct {
	*myConversations
	yield     func(InboxChange, error) bool
	positions map[model.ConversationID]int64 // of the memberships, to know what is news
}

func (in *inbox) run(ctx context.Context) error {
	feeds, err := in.openFeeds(ctx)
	if err != nil {
		return err
	}
	defer releaseAll(feeds)
	own, err := in.membershipsSoon(ctx)
	if err != nil {
		return err
	}
	for _, m := range own {
		if f := feeds[m.ConversationID]; f != nil { // else there will be news of it
			delete(feeds, m.ConversationID)
			in.begin(f, m)
		}
	}
	for {
		fo, heard, err := in.stream.next(ctx)
		if err != nil {
			return err
		}
		if fo != nil && in.followers[fo.id] == fo {
			if err := in.notice(ctx, fo); err != nil {
				return err
			}
		}
		for _, id := range heard {
			if err := in.lookAt(ctx, id); err != nil {
				return err
			}
		}
	}
}

func (in *inbox) begin(f *feed, own mine) {
	in.positions[own.ConversationID] = own.Position
	in.follow(f, own, own.LastSeq)
}

func (in *inbox) changed(c InboxChange) error {
	if !in.yield(c, nil) {
		return errStopped
	}
	return nil
}

func (in *inbox) notice(ctx context.Context, fo *follower) error {
	events, missed, err := fo.notice(ctx)
	switch {
	case errors.Is(err, errRemoved):
		in.drop(fo)
		delete(in.positions, fo.id)
		if err := in.changed(InboxChange{fo.id, true}); err != nil {
			return err
		}
		return in.lookAt(ctx, fo.id) // they may be back already
	case err != nil:
		return err
	case missed || len(events) > 0:
		return in.changed(InboxChange{fo.id, false})
	}
	return nil
}

func (in *inbox) lookAt(ctx context.Context, id model.ConversationID) error {
	f, own, err := in.look(ctx, id)
	if err != nil {
		return err
	}
	if f != nil {
		in.begin(f, *own)
		return in.changed(InboxChange{id, false})
	}
	found, err := in.membershipsSoon(ctx, id)
	if err != nil || len(found) == 0 || found[0].Position == in.positions[id] {
		return err
	}
	in.positions[id] = found[0].Position
	return in.changed(InboxChange{id, false})
}

// Joined yields each conversation that the actor becomes a member of from now on, whoever made them one.
func (s *Service) Joined(ctx context.Context, actor model.Actor) iter.Seq2[model.ConversationID, error] {
	return func(yield func(model.ConversationID, error) bool) {
		m := s.listenFor(actor)
		defer m.close()
		if err := m.joined(ctx, yield); !errors.Is(err, errStopped) {
			yield(model.ConversationID{}, err)
		}
	}
}

func (m *myConversations) joined(ctx context.Context, yield func(model.ConversationID, error) bool) error {
	known := map[model.ConversationID]int64{} // when they joined
	own, err := m.membershipsSoon(ctx)
	if err != nil {
		return err
	}
	for _, o := range own {
		known[o.ConversationID] = o.JoinedSeq
	}
	for {
		_, heard, err := m.stream.next(ctx)
		if err != nil {
			return err
		}
		for _, id := range heard {
			found, err := m.membershipsSoon(ctx, id)
			switch {
			case err != nil:
				return err
			case len(found) == 0:
				delete(known, id)
			case known[id] != found[0].JoinedSeq:
				known[id] = found[0].JoinedSeq
				if !yield(id, nil) {
					return errStopped
				}
			}
		}
	}
}
