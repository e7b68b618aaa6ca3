package feed

import (
	"context"

	"parley/model"
	"parley/wake"
)

// Watcher collects the live events of one conversation, for consumers that need the current state
// rather than every event, as typing and receipts do.
type Watcher struct{ follower *follower }

// Watch watches a conversation from now on, until the watcher is closed. notifier is notified when
// there is something to drain. If the actor is not a member, Drain returns the error.
func (s *Service) Watch(
	ctx context.Context, actor model.Actor, id model.ConversationID, notifier wake.Notifier,
) (*Watcher, error) {
	// Above every event, so that the follower does not begin with a backlog.
	fo, err := s.attach(ctx, &stream{Notifier: notifier}, actor, id, Place{Seq: everySeq})
	if err != nil {
		return nil, err
	}
	fo.seen = Place{Seq: fo.checked.Load()} // so that Drain reports what is missed from now on
	return &Watcher{fo}, nil
}

// Drain returns the events since the last call. If they were too many to queue, it returns none of
// them, and missed. It returns FORBIDDEN once the actor is no longer a member.
func (w *Watcher) Drain(ctx context.Context) (events []*model.Event, missed bool, err error) {
	return w.follower.drainLive(ctx)
}

// Close ends the watcher.
func (w *Watcher) Close() { w.follower.detach() }
