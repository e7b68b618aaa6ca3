package chat

import (
	"context"
	"errors"
	"iter"
	"math"
	"slices"

	"parley/model"
)

// ReadReceipt says how far somebody has read in a conversation.
type ReadReceipt struct {
	UserID model.UserID
	// LastReadSeq is nil once that is not to be known any more: they hide it, the actor does, or
	// they are a member no longer.
	LastReadSeq *int64
}

// ReadReceipts yields how far the members of a conversation have read, beside the actor, and from
// then on whenever one of them has read on: of those who let others know, and only while the actor
// does too. Of each member only the newest counts, for a consumer that takes its time. NOT_FOUND
// for anybody but a member; the sequence ends with ctx's error, or FORBIDDEN once the actor is no
// longer a member.
func (s *Service) ReadReceipts(
	ctx context.Context, actor model.Actor, id model.ConversationID,
) (iter.Seq2[ReadReceipt, error], error) {
	if _, _, err := s.position(ctx, actor, id); err != nil {
		return nil, err
	}
	return func(yield func(ReadReceipt, error) bool) {
		if err := s.tellReceipts(ctx, actor, id, yield); !errors.Is(err, errStopped) {
			yield(ReadReceipt{}, err)
		}
	}, nil
}

func (s *Service) tellReceipts(
	ctx context.Context, actor model.Actor, id model.ConversationID, yield func(ReadReceipt, error) bool,
) error {
	st := newStream()
	// whatever there is already is of no interest
	fo, err := s.attach(ctx, st, actor, id, math.MaxInt64)
	if err != nil {
		return err
	}
	defer fo.detach()
	// After the feed: whoever comes or goes from now on is heard of, and what was before is read.
	w := s.watchReaders(id, actor.UserID, st.ring)
	defer w.end()
	for {
		events, missed, err := fo.notice(ctx)
		if err != nil {
			return err
		}
		w.readers.follow(events, missed)
		if r, changed := w.next(); changed {
			if !yield(r, nil) {
				return errStopped
			}
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-st.bell:
		}
	}
}

// receiptWatch is what one consumer knows of how far others have read.
type receiptWatch struct {
	readers *readers
	viewer  model.UserID
	ring    func()

	// Guarded by the readers' lock.
	begun bool                   // what was so when it began has been read
	told  map[model.UserID]int64 // of those of whom the consumer knows something
	news  map[model.UserID]bool  // those of whom it is otherwise than told
}

// note finds out what is news of some people. It needs the lock.
func (w *receiptWatch) note(users []model.UserID) {
	if slices.Contains(users, w.viewer) { // on whom it depends what may be known of all others
		w.noteAll()
		return
	}
	for _, user := range users {
		w.noteOne(user)
	}
}

// noteAll needs the lock.
func (w *receiptWatch) noteAll() {
	for user := range w.readers.members {
		w.noteOne(user)
	}
	for user := range w.told {
		w.noteOne(user)
	}
	for user := range w.news {
		w.noteOne(user)
	}
}

// noteOne needs the lock.
func (w *receiptWatch) noteOne(user model.UserID) {
	seq, shown := w.shows(user)
	if told, known := w.told[user]; known == shown && told == seq {
		delete(w.news, user) // it was news for a moment
		return
	}
	w.news[user] = true
	w.ring()
}

// shows is how far somebody has read, as far as the viewer may know it. It needs the lock.
func (w *receiptWatch) shows(user model.UserID) (seq int64, shown bool) {
	own, other := w.readers.members[w.viewer], w.readers.members[user]
	if user == w.viewer || !own.lets || !other.lets { // or is no member
		return 0, false
	}
	return other.seq, true
}

// next is one receipt that the consumer does not know yet.
func (w *receiptWatch) next() (r ReadReceipt, changed bool) {
	w.readers.mu.Lock()
	defer w.readers.mu.Unlock()
	// the end is about to come, and it says so
	if _, member := w.readers.members[w.viewer]; !member {
		return ReadReceipt{}, false
	}
	for user := range w.news {
		delete(w.news, user)
		seq, shown := w.shows(user)
		if !shown {
			delete(w.told, user)
			return ReadReceipt{UserID: user}, true
		}
		w.told[user] = seq
		return ReadReceipt{UserID: user, LastReadSeq: &seq}, true
	}
	return ReadReceipt{}, false
}
