package chat

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"parley/batch"
	"parley/errs"
	"parley/model"
	"parley/store"
)

// outgoing is a message on its way into a commit, which it shares with whatever waits on this node
// at the same time.
type outgoing struct {
	message   *model.Message
	names     [][]string // what in it may be the nickname of a member
	mentioned []model.UserID
	refused   error // why it was not stored
}

func (o *outgoing) author() model.MemberID {
	return model.MemberID{Conversation: o.message.ConversationID, User: *o.message.AuthorID}
}

// key is for messages that have one.
func (o *outgoing) key() idempotencyKey {
	return idempotencyKey{
		o.author(),
		*o.message.IdempotencyKey,
	}
}

// known is what a batch of messages finds in its transaction, with every conversation locked that
// is in heads: all that the rules of sending ask for. What is admitted is noted in it, for those
// that come after it in the same batch.
type known struct {
	now      time.Time
	position int64 // of all events of the transaction
	heads    map[model.ConversationID]*head
	hidden   map[model.MemberID]int64 // hidden_seq, of members alone
	used     map[idempotencyKey]bool
	replies  map[reply]int64 // seq
	// members by nickname, of the names that were asked for
	named map[model.ConversationID]map[string]model.UserID
	// free has those whose accounts nobody else has locked, of the authors and of the named; nil
	// where locks are waited for.
	free map[model.UserID]bool
}

type (
	idempotencyKey struct {
		author model.MemberID
		key    string
	}
	reply struct {
		conversation model.ConversationID
		to           model.MessageID
	}
)

// namesIn are the distinct names in messages, by conversation.
func namesIn(all []*outgoing) map[model.ConversationID]map[string]bool {
	names := map[model.ConversationID]map[string]bool{}
	for _, o := range all {
		id := o.message.ConversationID
		for name := range distinctNames(o.names) {
			if names[id] == nil {
				names[id] = map[string]bool{}
			}
			names[id][name] = true
		}
	}
	return names
}

func (k *known) addNamed(id model.ConversationID, name string, member model.UserID) {
	if k.named[id] == nil {
		k.named[id] = map[string]model.UserID{}
	}
	k.named[id][name] = member
}

func newKnown() *known {
	return &known{
		heads: map[model.ConversationID]*head{}, hidden: map[model.MemberID]int64{},
		used:    map[idempotencyKey]bool{},
		replies: map[reply]int64{}, named: map[model.ConversationID]map[string]model.UserID{},
	}
}

// heldUp reports whether somebody else's transaction has to end first, before it can be said
// whether a message may be sent, or before it can be stored.
func (k *known) heldUp(o *outgoing) bool {
	if _, member := k.hidden[o.author()]; k.free == nil || !member {
		return false
	}
	locked := func(id model.UserID) bool { return !k.free[id] }
	return k.heads[o.message.ConversationID] == nil || locked(*o.message.AuthorID) ||
		slices.ContainsFunc(o.mentioned, locked)
}

// head is where a conversation stands: its newest seq, and the time of its newest event.
type head struct {
	seq int64
	at  time.Time
}

// next takes the next place of a conversation. Whoever has a clock that is behind does not turn
// time back.
func (k *known) next(id model.ConversationID) head {
	p := k.heads[id]
	p.seq++
	if p.at.Before(k.now) {
		p.at = k.now
	}
	return *p
}

// admission is what of a batch is to be stored.
type admission struct {
	*known
	messages []*outgoing
	moved    map[model.ConversationID]*head // where the conversations of the messages are then
	busy     []*outgoing
}

func (k *known) admit(all []*outgoing) *admission {
	a := &admission{known: k, moved: map[model.ConversationID]*head{}}
	// what is sent after a message that waits does not overtake it
	waiting := map[model.ConversationID]bool{}
	for _, o := range all {
		o.mentioned = mentioned(o.names, k.named[o.message.ConversationID])
		if waiting[o.message.ConversationID] || k.heldUp(o) {
			waiting[o.message.ConversationID] = true
			a.busy = append(a.busy, o)
			continue
		}
		if o.refused = o.admit(k); o.refused == nil {
			a.messages = append(a.messages, o)
			a.moved[o.message.ConversationID] = k.heads[o.message.ConversationID]
		}
	}
	return a
}

// storeMessages is what the writer runs. Every rule is looked at inside the transaction, with the
// conversations locked, and for each message by itself: one that is refused does not hold up the
// others.
func (s *Service) storeMessages(
	ctx context.Context, all []*outgoing, patient bool,
) (busy []*outgoing, err error) {
	var a *admission
	if s.db.Postgres() {
		a, err = s.storePostgres(ctx, all, patient)
	} else {
		a, err = s.storeSQLite(ctx, all)
	}
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, store.ErrUnknown) {
		err = errs.Wrap(err, errs.Unavailable,
			"The conversation or the database is busy. The message was not sent; try again.")
	}
	if errs.Is(err, errs.Unavailable) { // to each of the messages, and they may even be stored
		return nil, errors.Join(batch.ErrFinal, err)
	}
	if err != nil {
		return nil, err
	}
	s.publishSent(a)
	return a.busy, nil
}

//nolint:gochecknoglobals // a constant
var noData = json.RawMessage("{}")

func (a *admission) event(o *outgoing) *model.Event {
	m := o.message
	return &model.Event{
		ConversationID: m.ConversationID, Seq: m.Seq, Kind: model.MessageAdded, ActorID: m.AuthorID,
		MessageID: &m.ID,
		Data:      noData, At: m.CreatedAt, Position: a.position, Message: m,
	}
}

// publishSent publishes what has been stored, the events of each conversation together.
func (s *Service) publishSent(a *admission) {
	events := map[model.ConversationID][]*model.Event{}
	for _, o := range a.messages {
		id := o.message.ConversationID
		events[id] = append(events[id], a.event(o))
	}
	for _, consecutive := range events {
		s.feed.Publish(consecutive)
	}
}
