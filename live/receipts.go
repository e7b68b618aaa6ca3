package live

import (
	"context"
	"errors"
	"iter"
	"slices"

	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/wake"
)

// ReadReceipt is how far a member has read in a conversation.
type ReadReceipt struct {
	UserID model.UserID
	// LastReadSeq is nil once the actor may no longer know it: the member or the actor has turned
	// read receipts off, or is no longer a member.
	LastReadSeq *int64
}

// ReadReceipts first yields how far the members of a conversation have read, except the actor, and
// then each change. It yields receipts of members who send them, and only while the actor does too.
// A slow consumer gets the newest receipt of each member. ReadReceipts returns NOT_FOUND for
// non-members. The sequence ends with ctx's error, or FORBIDDEN once the actor is no longer a
// member.
func (s *Service) ReadReceipts(
	ctx context.Context, actor model.Actor, id model.ConversationID,
) (iter.Seq2[ReadReceipt, error], error) {
	if _, err := membership.Bounds(ctx, s.db, actor, id); err != nil {
		return nil, err
	}
	return func(yield func(ReadReceipt, error) bool) {
		if err := s.deliverReceipts(ctx, actor, id, yield); !errors.Is(err, errStopped) {
			yield(ReadReceipt{}, err)
		}
	}, nil
}

func (s *Service) deliverReceipts(
	ctx context.Context, actor model.Actor, id model.ConversationID,
	yield func(ReadReceipt, error) bool,
) error {
	notifier := wake.NewNotifier()
	log, err := s.feed.Watch(ctx, actor, id, notifier)
	if err != nil {
		return err
	}
	defer log.Close()
	// This comes after Watch: members who join or leave from then on are observed, and the earlier
	// ones are read.
	w := s.watchReaders(id, actor.UserID, notifier)
	defer s.unwatchReaders(w)
	for {
		if err := w.readers.observe(ctx, log); err != nil {
			return err
		}
		if r, changed := w.next(); changed {
			if !yield(r, nil) {
				return errStopped
			}
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-notifier.C():
		}
	}
}

// observe marks all members dirty if members have joined or left. Every watch of the conversation
// observes the same events; only the first counts.
func (r *readers) observe(ctx context.Context, log *feed.Watcher) error {
	events, missed, err := log.Drain(ctx)
	if err != nil {
		return err
	}
	if !missed && !slices.ContainsFunc(events, changesMembers) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		if changesMembers(e) && e.Seq > r.observed {
			r.observed = e.Seq
			r.markAllDirty()
		}
	}
	if missed {
		r.markAllDirty()
	}
	return nil
}

func changesMembers(e *model.Event) bool {
	return e.Kind == model.MemberAdded || e.Kind == model.MemberRemoved
}

// receiptWatch is the receipts that one consumer has.
type receiptWatch struct {
	readers  *readers
	viewer   model.UserID
	notifier wake.Notifier

	// Guarded by readers.mu.
	started   bool                   // all members have been read since it was registered
	delivered map[model.UserID]int64 // the receipts that the consumer has
	changed   map[model.UserID]bool  // the users whose receipt is not the one in delivered
}

// markChanged marks those of the users whose receipt is not what the consumer has. It must be
// called with readers.mu held.
func (w *receiptWatch) markChanged(users []model.UserID) {
	if slices.Contains(users, w.viewer) { // all receipts depend on the viewer's own setting
		w.markAllChanged()
		return
	}
	for _, user := range users {
		w.markOneChanged(user)
	}
}

// markAllChanged must be called with readers.mu held.
func (w *receiptWatch) markAllChanged() {
	for user := range w.readers.members {
		w.markOneChanged(user)
	}
	for user := range w.delivered {
		w.markOneChanged(user)
	}
	for user := range w.changed {
		w.markOneChanged(user)
	}
}

// markOneChanged must be called with readers.mu held.
func (w *receiptWatch) markOneChanged(user model.UserID) {
	seq, visible := w.visible(user)
	if delivered, known := w.delivered[user]; known == visible && delivered == seq {
		delete(w.changed, user) // it may have changed back
		return
	}
	w.changed[user] = true
	w.notifier.Notify()
}

// visible returns how far a user has read, if the viewer may know it. It must be called with
// readers.mu held.
func (w *receiptWatch) visible(user model.UserID) (seq int64, visible bool) {
	own, other := w.readers.members[w.viewer], w.readers.members[user]
	if user == w.viewer || !own.receiptsEnabled || !other.receiptsEnabled { // or not a member
		return 0, false
	}
	return other.seq, true
}

// next returns one receipt that the consumer does not have yet.
func (w *receiptWatch) next() (r ReadReceipt, changed bool) {
	w.readers.mu.Lock()
	defer w.readers.mu.Unlock()
	if _, member := w.readers.members[w.viewer]; !member { // the sequence is about to end
		return ReadReceipt{}, false
	}
	for user := range w.changed {
		delete(w.changed, user)
		seq, visible := w.visible(user)
		if !visible {
			delete(w.delivered, user)
			return ReadReceipt{UserID: user}, true
		}
		w.delivered[user] = seq
		return ReadReceipt{UserID: user, LastReadSeq: &seq}, true
	}
	return ReadReceipt{}, false
}
