package feed

import (
	"context"

	"parley/model"
	"parley/wake"
)

// Watcher notices the live events of one conversation, for consumers that read what is true now
// instead of a backlog: typing, receipts.
type Watcher struct{ follower *follower }

// Watch begins to watch a conversation from now on, until the watcher is closed. notifier is
// notified when there is something to drain. A user who is not a member gets the error from Drain.
func (s *Service) Watch(
	ctx context.Context, actor model.Actor, id model.ConversationID, notifier wake.Notifier,
) (*Watcher, error) {
	// Above every event, so that the follower does not begin with a backlog.
	fo, err := s.attach(ctx, &stream{Notifier: notifier}, actor, id, everySeq)
	if err != nil {
		return nil, err
	}
	fo.seen = fo.checked // so that Drain reports what is missed from now on
	return &Watcher{fo}, nil
}

// Drain returns the events since the last call, and whether some were missed because they were too
// many. It returns FORBIDDEN once the actor is no longer a member.
func (w *Watcher) Drain(ctx context.Context) (events []*model.Event, missed bool, err error) {
	return w.follower.drainLive(ctx)
}

// Close ends the watcher.
func (w *Watcher) Close() { w.follower.detach() }
