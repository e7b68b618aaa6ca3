package graph

import (
	"context"
	"slices"
	"sync"

	"parley/errs"
	"parley/model"
)

// The subscriptions over all conversations of an account. Each of them needs memory for every
// conversation.
const (
	eventsField            = "events"
	conversationAddedField = "conversationAdded"
	inboxUpdatedField      = "inboxUpdated"
	presenceChangedField   = "presenceChanged"
)

// slots limit how many subscriptions over all conversations an account has on this node, of each
// field separately, and how many to `events` a connection has, which is one. The end of an
// operation's context frees its slot: a client may end one operation and start the next at once.
type slots struct {
	max int

	mu   sync.Mutex // guards held
	held map[slotKey][]slot
}

type slotKey struct {
	account model.UserID
	field   string
}

type slot struct {
	ctx        context.Context //nolint:containedctx // of the operation
	connection *identity       // each connection has its own
}

func newSlots(most int) *slots { return &slots{max: most, held: map[slotKey][]slot{}} }

// acquire takes a slot until ctx ends. It returns RATE_LIMITED if there is none.
func (s *slots) acquire(ctx context.Context, account model.UserID, field string) error {
	key := slotKey{account, field}
	connection := identityOf(ctx)
	sameConnection := func(sl slot) bool { return sl.connection == connection }
	s.mu.Lock()
	defer s.mu.Unlock()
	running := s.running(key)
	if field == eventsField && slices.ContainsFunc(running, sameConnection) {
		return errs.New(errs.RateLimited,
			"events runs on this connection already, and has everything: "+
				"use that one, or end it first.")
	}
	if len(running) >= s.max {
		return errs.New(errs.RateLimited,
			"At most %d subscriptions to %s of one account run on a node at once: end some.",
			s.max, field)
	}
	s.held[key] = append(running, slot{ctx, connection})
	context.AfterFunc(ctx, func() { s.free(key) })
	return nil
}

// free removes the slots whose operations have ended.
func (s *slots) free(key slotKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running(key)
}

// running removes the slots whose operations have ended, and returns the others. Must be called
// with s.mu held.
func (s *slots) running(key slotKey) []slot {
	running := slices.DeleteFunc(s.held[key], func(sl slot) bool { return sl.ctx.Err() != nil })
	s.held[key] = running
	if len(running) == 0 {
		delete(s.held, key)
	}
	return running
}
