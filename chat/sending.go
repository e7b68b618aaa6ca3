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

// outgoing is a message on its way into a batch: the messages that share one commit.
type outgoing struct {
	message   *model.Message
	names     [][]string // for each @, the strings after it that may be a member's nickname
	mentioned []model.UserID
	before    model.Mark // of the event before the message's
	refused   error      // why the message was not stored
}

func (o *outgoing) author() model.MemberID {
	return model.MemberID{Conversation: o.message.ConversationID, User: *o.message.AuthorID}
}

// key must be called only if the message has a key.
func (o *outgoing) key() idempotencyKey {
	return idempotencyKey{o.author(), *o.message.IdempotencyKey}
}

// batchSnapshot is what the rules of sending need to know about a batch of messages, as it is while
// the conversations in heads are locked. accept updates it for the messages that follow in the same
// batch.
type batchSnapshot struct {
	now      time.Time
	position int64 // of the events of the transaction
	heads    map[model.ConversationID]*head
	hidden   map[model.MemberID]int64 // hidden_seq of each author who is a member
	used     map[idempotencyKey]bool
	replies  map[reply]int64 // seq of the message that is answered
	// named has the members whose nickname is one of the names in the messages.
	named map[model.ConversationID]map[string]model.UserID
	// skipLocked means that rows were left out that another transaction has locked. Then free has
	// the authors and the named members whose accounts are not among these rows.
	skipLocked bool
	free       map[model.UserID]bool
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
	// head is the newest seq of a conversation, and the time and mark of its newest event.
	head struct {
		seq  int64
		at   time.Time
		mark model.Mark
	}
)

func newBatchSnapshot() *batchSnapshot {
	return &batchSnapshot{
		heads: map[model.ConversationID]*head{}, hidden: map[model.MemberID]int64{},
		used: map[idempotencyKey]bool{}, replies: map[reply]int64{},
		named: map[model.ConversationID]map[string]model.UserID{}, free: map[model.UserID]bool{},
	}
}

// namesIn returns the distinct names in messages, by conversation.
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

func (b *batchSnapshot) addNamed(id model.ConversationID, name string, member model.UserID) {
	if b.named[id] == nil {
		b.named[id] = map[string]model.UserID{}
	}
	b.named[id][name] = member
}

// isBlocked reports whether another transaction has locked a row that the rules for a message
// depend on, or that the message will refer to.
func (b *batchSnapshot) isBlocked(o *outgoing) bool {
	if _, member := b.hidden[o.author()]; !b.skipLocked || !member {
		return false
	}
	locked := func(id model.UserID) bool { return !b.free[id] }
	return b.heads[o.message.ConversationID] == nil || locked(*o.message.AuthorID) ||
		slices.ContainsFunc(o.mentioned, locked)
}

// next takes the next seq of a conversation. Its time is never before that of the newest event,
// even if the clock of this node is behind.
func (h *head) next(now time.Time) (seq int64, at time.Time) {
	h.seq++
	if h.at.Before(now) {
		h.at = now
	}
	return h.seq, h.at
}

// acceptedBatch is the messages of a batch that passed the rules and have a seq.
type acceptedBatch struct {
	*batchSnapshot
	messages []*outgoing
	moved    map[model.ConversationID]*head // the new heads of their conversations
	blocked  []*outgoing
}

// accept applies the rules to each message, in order.
func (b *batchSnapshot) accept(all []*outgoing) *acceptedBatch {
	a := &acceptedBatch{batchSnapshot: b, moved: map[model.ConversationID]*head{}}
	// No message overtakes a blocked one of its conversation.
	blocked := map[model.ConversationID]bool{}
	for _, o := range all {
		id := o.message.ConversationID
		o.mentioned = mentioned(o.names, b.named[id])
		if blocked[id] || b.isBlocked(o) {
			blocked[id] = true
			a.blocked = append(a.blocked, o)
			continue
		}
		if o.refused = o.accept(b); o.refused == nil {
			a.messages = append(a.messages, o)
			a.moved[id] = b.heads[id]
		}
	}
	return a
}

// storeMessages stores a batch: it is the batch.Run of Service.sending. The rules are applied to
// each message inside the transaction, after the conversations are locked. A message that is
// refused does not keep the others from being stored.
func (s *Service) storeMessages(
	ctx context.Context, all []*outgoing, waitForLocks bool,
) (blocked []*outgoing, err error) {
	var a *acceptedBatch
	if s.db.Postgres() {
		a, err = s.storePostgres(ctx, all, waitForLocks)
	} else {
		a, err = s.storeSQLite(ctx, all)
	}
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, store.ErrUnknown) {
		err = store.Unavailable(err,
			"The conversation or the database is busy. The message was not sent; try again.")
	}
	if errs.Is(err, errs.Unavailable) { // each would fail alone too, or is stored already
		return nil, errors.Join(batch.ErrFinal, err)
	}
	if err != nil {
		return nil, err
	}
	s.publishSent(a)
	return a.blocked, nil
}

//nolint:gochecknoglobals // a constant
var noData = json.RawMessage("{}")

func (a *acceptedBatch) event(o *outgoing) *model.Event {
	m := o.message
	return &model.Event{
		ConversationID: m.ConversationID, Seq: m.Seq, Kind: model.MessageAdded, ActorID: m.AuthorID,
		MessageID: &m.ID, Data: noData, At: m.CreatedAt, Position: a.position,
		Before: o.before, Message: m,
	}
}

// publishSent publishes a stored batch, the events of each conversation together.
func (s *Service) publishSent(a *acceptedBatch) {
	events := map[model.ConversationID][]*model.Event{}
	for _, o := range a.messages {
		id := o.message.ConversationID
		events[id] = append(events[id], a.event(o))
	}
	for _, consecutive := range events {
		s.feed.Publish(consecutive)
	}
}
