package live

import (
	"context"

	"parley/model"
	"parley/pubsub/natsbus"
)

// What tests of this package see of its inside.

type (
	TypingSignal = typingSignal
	Typist       = typist
)

var (
	NewTypingThrottle = newTypingThrottle
	NewTypingWatch    = newTypingWatch
	TypingTopic       = typingTopic
)

func NewTypist(conversation model.ConversationID, user model.UserID) typist {
	return typist{conversation, user}
}

func (t *typingThrottle) Allow(who typist, typing bool) bool { return t.allow(who, typing) }
func (t *typingThrottle) Len() int                           { return len(t.published) }

func (w *typingWatch) Handle(sig TypingSignal)        { w.handle(sig) }
func (w *typingWatch) Next() (Typing, bool)           { return w.next() }
func (w *typingWatch) Wait(ctx context.Context) error { return w.wait(ctx) }
func (w *typingWatch) Len() int                       { return len(w.until) }

func (s *Service) TypingSignals() *natsbus.Bus[TypingSignal] { return s.typing }
func (s *Service) SetThrottle(t *typingThrottle)             { s.throttle = t }

func (s *Service) ReconcilePresence(ctx context.Context) error { return s.reconcilePresence(ctx) }
func (s *Service) HandlePresence(sig Signal)                   { s.watches.handle(sig) }

// SignalsAreDelivered reports whether the watches have all presence signals.
func (s *Service) SignalsAreDelivered() bool {
	s.watches.mu.Lock()
	defer s.watches.mu.Unlock()
	return len(s.watches.signaled) == 0
}

func (s *Service) PresenceWatches() int { return len(s.watches.all()) }
func (s *Service) WatchedReaders() int  { return len(s.readers.Values()) }

// ChangedReceipts counts, over all watches of a conversation, the receipts to deliver.
func (s *Service) ChangedReceipts(id model.ConversationID) (n int) {
	r, _ := s.readers.Get(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.watches {
		n += len(w.changed)
	}
	return n
}

// Readers reads all members of a conversation.
func (s *Service) Readers(ctx context.Context, id model.ConversationID) ([]readerRow, error) {
	return s.readReaders(ctx, id, dirtyMembers{all: true})
}

// UnrecordedConnections counts what is yet to be written or forgotten about connections.
func (s *Service) UnrecordedConnections() int {
	c := s.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.users) + len(c.arrived) + len(c.pending) + len(c.offline)
}
