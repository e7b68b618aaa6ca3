package chat

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"

	"github.com/uptrace/bun"

	"parley/batch"
	"parley/errs"
	"parley/membership"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/text"
)

const (
	maxContent        = 4000
	maxIdempotencyKey = 128
)

// SendMessage is a message to be sent.
type SendMessage struct {
	ConversationID model.ConversationID
	Content        string
	ReplyToID      *model.MessageID // a message of the same conversation
	// of one author in one conversation: the same key with the same input is the same message
	IdempotencyKey *string
}

// errKeyUsed refuses a message whose idempotency key came before: that is the first one's.
var errKeyUsed = errors.New("the idempotency key was used before")

// SendMessage stores a message, in one commit with whatever else waits on this node, and tells the
// followers once it is stored. The rules are those of check, before, and of admit, inside the
// transaction. UNAVAILABLE where too many wait already.
func (s *Service) SendMessage(
	ctx context.Context, actor model.Actor, in SendMessage,
) (*model.Message, error) {
	o, err := s.outgoing(ctx, actor, in)
	if err != nil {
		return nil, err
	}
	if err := s.sending.Do(ctx, in.ConversationID, o); err != nil {
		return nil, sendingFailed(err)
	}
	if errors.Is(o.refused, errKeyUsed) {
		return s.firstWithKey(ctx, o.message)
	}
	if o.refused != nil {
		return nil, o.refused
	}
	return o.message, nil
}

func (s *Service) outgoing(
	ctx context.Context, actor model.Actor, in SendMessage,
) (*outgoing, error) {
	content, err := in.check()
	if err != nil {
		return nil, err
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Messages.Times(1)); err != nil {
		return nil, err
	}
	m := &model.Message{
		ID: model.NewMessageID(), ConversationID: in.ConversationID, AuthorID: &actor.UserID,
		Content:   content,
		ReplyToID: in.ReplyToID, IdempotencyKey: in.IdempotencyKey,
	}
	if m.IdempotencyKey != nil {
		m.RequestHash = requestHash(m)
	}
	o := &outgoing{message: m, names: mentionCandidates(content)}
	return o, s.sift(ctx, actor, o)
}

// admit is what has to be true of a message at the moment when it is stored. It gets its place
// then.
func (o *outgoing) admit(k *known) error {
	m := o.message
	hidden, member := k.hidden[o.author()]
	if !member || k.heads[m.ConversationID] == nil {
		return membership.ErrNoConversation
	}
	if m.IdempotencyKey != nil && k.used[o.key()] {
		return errKeyUsed
	}
	if m.ReplyToID != nil { // which may be deleted, but has to be there for its author to see
		if seq, there := k.replies[reply{m.ConversationID, *m.ReplyToID}]; !there || seq <= hidden {
			return errs.Input(errs.NotFound, "replyToId",
				"There is no such message in this conversation.")
		}
	}
	if m.IdempotencyKey != nil {
		k.used[o.key()] = true
	}
	p := k.next(m.ConversationID)
	m.Seq, m.CreatedAt = p.seq, p.at
	return nil
}

func (in SendMessage) check() (content string, err error) {
	var problems errs.List
	content = checkContent(&problems, in.Content)
	if key := in.IdempotencyKey; key != nil {
		switch {
		case *key == "":
			problems.Add(errs.Required, "idempotencyKey",
				"An idempotency key is not empty; leave it out to send without one.")
		case text.Problem(*key, false) != "":
			problems.Add(errs.Invalid, "idempotencyKey", "The idempotency key %s.",
				text.Problem(*key, false))
		case text.Len(*key) > maxIdempotencyKey:
			problems.Add(errs.TooLong, "idempotencyKey",
				"An idempotency key has at most %d characters.", maxIdempotencyKey)
		}
	}
	return content, problems.Err()
}

func checkContent(problems *errs.List, content string) string {
	content = text.Clean(content)
	switch problem := text.Problem(content, true); {
	case content == "":
		problems.Add(errs.Required, "content", "A message is not empty.")
	case problem != "":
		problems.Add(errs.Invalid, "content", "The message %s.", problem)
	case text.Len(content) > maxContent:
		problems.Add(errs.TooLong, "content",
			"A message has at most %d characters, and this one has %d.", maxContent,
			text.Len(content))
	}
	return content
}

func sendingFailed(err error) error {
	if full, ok := errors.AsType[*batch.ErrFull](err); ok {
		busy := errs.Wrap(err, errs.Unavailable,
			"Too many messages wait to be stored. This one was not; try again.")
		busy.RetryAfter = full.RetryAfter
		return busy
	}
	return err
}

// requestHash tells two requests with the same key apart.
func requestHash(m *model.Message) []byte {
	request := m.Content
	if m.ReplyToID != nil {
		request += "\x00" + m.ReplyToID.String() // no content has a NUL
	}
	sum := sha256.Sum256([]byte(request))
	return sum[:]
}

// firstWithKey finds the message that was sent with the same key before.
func (s *Service) firstWithKey(ctx context.Context, again *model.Message) (*model.Message, error) {
	first := new(model.Message)
	err := s.db.NewSelect().Model(first).Where("m.conversation_id = ?", again.ConversationID).
		Where("m.author_id = ?", *again.AuthorID).
		Where("m.idempotency_key = ?", *again.IdempotencyKey).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		// it has ended since, or the account has, and with it the key
		return nil, membership.ErrNoConversation
	}
	if err != nil {
		return nil, store.Error(err)
	}
	if first.DeletedAt == nil && !bytes.Equal(first.RequestHash, again.RequestHash) {
		return nil, errs.Input(errs.Conflict, "idempotencyKey",
			"This key was used before, for another message.")
	}
	return first, nil
}

const messageList = 'M' // the letter of this list's cursors

// MessageCursor is where a message stands in its conversation.
func MessageCursor(
	m *model.Message,
) string {
	return store.NewCursor(messageList).Int(m.Seq).String()
}

// Messages lists the messages of each of the conversations that the actor is in, oldest first.
func (s *Service) Messages(
	ctx context.Context, actor model.Actor, ids []model.ConversationID, window store.Window,
) (map[model.ConversationID]store.Page[*model.Message], error) {
	var position []any
	if window.Cursor != "" {
		cursor := store.ReadCursor(messageList, window.Cursor)
		position = []any{cursor.ReadInt()}
		if err := cursor.Done(); err != nil {
			return nil, err
		}
	}
	found, err := readPages[model.Message](ctx, s, actor, ids, pageText{
		from:  "messages AS m",
		where: "m.conversation_id = viewer.conversation_id AND m.seq > viewer.hidden_seq",
		alias: "m",
		order: store.Order{Columns: []string{"m.seq"}},
	}, window, position)
	if err != nil {
		return nil, err
	}
	of := func(m *model.Message) model.ConversationID { return m.ConversationID }
	bySeq := func(a, b *model.Message) int { return cmp.Compare(a.Seq, b.Seq) }
	return cutEach(window, ids, found, of, bySeq), nil
}

// MessagesByID returns those of the messages that the actor may see.
func (s *Service) MessagesByID(
	ctx context.Context, actor model.Actor, ids []model.MessageID,
) (map[model.MessageID]*model.Message, error) {
	var found []*model.Message
	err := s.db.NewSelect().Model(&found).Apply(membership.Shared(actor, "m.conversation_id")).
		Where("m.seq > viewer.hidden_seq").
		Where("m.id IN (?)", bun.List(ids)).Scan(ctx)
	if err != nil {
		return nil, store.Error(err)
	}
	byID := make(map[model.MessageID]*model.Message, len(found))
	for _, m := range found {
		byID[m.ID] = m
	}
	return byID, nil
}

// LastMessages returns the newest message of each of the conversations that the actor is in.
func (s *Service) LastMessages(
	ctx context.Context, actor model.Actor, ids []model.ConversationID,
) (map[model.ConversationID]*model.Message, error) {
	found, err := store.Read[model.Message](ctx, s.db, `
		SELECT ?TableColumns FROM conversation_members AS viewer JOIN conversations AS c ON c.id = viewer.conversation_id
		JOIN messages AS m ON m.conversation_id = c.id AND m.seq = c.last_message_seq
		WHERE viewer.user_id = ?1 AND viewer.conversation_id IN (?2...) AND m.seq > viewer.hidden_seq`,
		actor.UserID, store.IDs(ids))
	if err != nil {
		return nil, err
	}
	byConversation := make(map[model.ConversationID]*model.Message, len(found))
	for _, m := range found {
		byConversation[m.ConversationID] = m
	}
	return byConversation, nil
}
