package graph

import (
	"context"
	"slices"
	"sync"

	"parley/errs"
	"parley/model"
)

// Subscriptions over all of an account's conversations. Each costs memory for every conversation of
// the account.
const (
	eventsField            = "events"
	conversationAddedField = "conversationAdded"
	inboxUpdatedField      = "inboxUpdated"
	presenceChangedField   = "presenceChanged"
)

// slots bounds how many subscriptions over all conversations an account has on this node, of each
// field by itself, and keeps `events` to one on each connection. A slot is free again as soon as
// its operation is cancelled, so that a client may end one and begin the next at once.
type slots struct {
	max int

	mu    sync.Mutex // guards what follows
	taken map[slotOwner][]slot
}

type slotOwner struct {
	account model.UserID
	field   string
}

type slot struct {
	ctx        context.Context //nolint:containedctx // of the operation, whose end frees the slot
	connection *identity       // each connection has one of its own
}

func newSlots(most int) *slots { return &slots{max: most, taken: map[slotOwner][]slot{}} }

// take reports RATE_LIMITED where there is no slot for a subscription. It is free again once ctx
// has ended.
func (s *slots) take(ctx context.Context, account model.UserID, field string) error {
	of := slotOwner{account, field}
	s.mu.Lock()
	defer s.mu.Unlock()
	running := s.running(of)
	connection := identityOf(ctx)
	if field == eventsField && slices.ContainsFunc(running, func(sl slot) bool { return sl.connection == connection }) {
		return errs.New(errs.RateLimited, "events runs on this connection already, and has everything: use that one, or end it first.")
	}
	if len(running) >= s.max {
		return errs.New(errs.RateLimited, "At most %d subscriptions to %s of one account run on a node at once: end some.", s.max, field)
	}
	s.taken[of] = append(running, slot{ctx, connection})
	context.AfterFunc(ctx, func() { s.free(of) })
	return nil
}

func (s *slots) free(of slotOwner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running(of)
}

// running forgets the slots whose operations have ended, and returns the others. It needs the lock.
func (s *slots) running(of slotOwner) []slot {
	running := slices.DeleteFunc(s.taken[of], func(sl slot) bool { return sl.ctx.Err() != nil })
	s.taken[of] = running
	if len(running) == 0 {
		delete(s.taken, of)
	}
	return running
}
