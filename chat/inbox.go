package chat

import (
	"context"
	"errors"
	"iter"

	"parley/model"
)

// InboxChange says which entry of somebody's list of conversations has changed. It is read anew, so
// only the newest counts.
type InboxChange struct {
	ConversationID model.ConversationID
	Removed        bool
}

// Inbox yields each entry of the actor's list of conversations that changes from now on, whatever
// it is that changes: a message, a title, what is read, a mute. Where entries change faster than
// they are taken, each is yielded once.
func (s *Service) Inbox(ctx context.Context, actor model.Actor) iter.Seq2[InboxChange, error] {
	return func(yield func(InboxChange, error) bool) {
		in := &inbox{s.listenFor(actor), yield}
		defer in.close()
		if err := in.run(ctx); !errors.Is(err, errStopped) {
			yield(InboxChange{}, err)
		}
	}
}

type inbox struct {
	*myConversations
	yield func(InboxChange, error) bool
}

// begin follows all conversations. What it needs for that is gone when it returns.
func (in *inbox) begin(ctx context.Context) error {
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
			in.follow(f, m, m.LastSeq)
		}
	}
	return nil
}

func (in *inbox) run(ctx context.Context) error {
	if err := in.begin(ctx); err != nil {
		return err
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
		in.follow(f, *own, own.LastSeq)
		return in.changed(InboxChange{id, false})
	}
	fo := in.followers[id]
	if fo == nil {
		return nil
	}
	found, err := in.membershipsSoon(ctx, id)
	if err != nil || len(found) == 0 || found[0].Position == fo.position {
		return err
	}
	fo.position = found[0].Position
	return in.changed(InboxChange{id, false})
}

// Joined yields each conversation that the actor becomes a member of from now on, whoever made them
// one.
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
