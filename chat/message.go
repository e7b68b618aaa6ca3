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
	"parley/feed"
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
	// IdempotencyKey names the message among those of its author in the conversation. Sending again
	// with the same key and the same input is deduplicated: it returns the first message.
	IdempotencyKey *string
}

// errKeyUsed refuses a message if its author has used its idempotency key in the conversation.
var errKeyUsed = errors.New("the idempotency key was used before")

// SendMessage stores a message, in one commit with the others that wait on this node, and then
// publishes it. check and accept have the rules: check is called before the message joins a batch,
// accept inside the transaction. UNAVAILABLE if too many messages wait.
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
	return o, s.prefilterNames(ctx, actor, o)
}

// accept checks the rules that depend on stored rows, and gives the message its seq and its time.
func (o *outgoing) accept(b *batchSnapshot) error {
	m := o.message
	hidden, member := b.hidden[o.author()]
	if !member || b.heads[m.ConversationID] == nil {
		return membership.ErrNoConversation
	}
	if m.IdempotencyKey != nil && b.used[o.key()] {
		return errKeyUsed
	}
	if m.ReplyToID != nil { // the message may be deleted, but not hidden from the author
		if seq, there := b.replies[reply{m.ConversationID, *m.ReplyToID}]; !there || seq <= hidden {
			return errs.Input(errs.NotFound, "replyToId",
				"There is no such message in this conversation.")
		}
	}
	if m.IdempotencyKey != nil {
		b.used[o.key()] = true
	}
	h := b.heads[m.ConversationID]
	o.before = h.mark
	m.Seq, m.CreatedAt = h.next(b.now)
	h.mark = m.ID.Mark()
	return nil
}

func (in SendMessage) check() (content string, err error) {
	var problems errs.List
	content = checkContent(&problems, in.Content)
	if key := in.IdempotencyKey; key != nil {
		switch {
		case *key == "":
			problems.Add(errs.Required, "idempotencyKey",
				"The idempotency key is empty. Leave it out to send without one.")
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
		problems.Add(errs.Required, "content", "The message is empty.")
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
		unavailable := errs.Wrap(err, errs.Unavailable,
			"Too many messages are waiting to be stored. This one was not sent; try again.")
		unavailable.RetryAfter = full.RetryAfter
		return unavailable
	}
	return err
}

// requestHash is a hash of the input, by which firstWithKey tells whether two requests with the
// same key are the same.
func requestHash(m *model.Message) []byte {
	request := m.Content
	if m.ReplyToID != nil {
		request += "\x00" + m.ReplyToID.String() // no content has a NUL
	}
	sum := sha256.Sum256([]byte(request))
	return sum[:]
}

// firstWithKey returns the message that was sent with the same key before.
func (s *Service) firstWithKey(ctx context.Context, again *model.Message) (*model.Message, error) {
	first := new(model.Message)
	err := s.db.NewSelect().Model(first).Where("m.conversation_id = ?", again.ConversationID).
		Where("m.author_id = ?", *again.AuthorID).
		Where("m.idempotency_key = ?", *again.IdempotencyKey).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		// Meanwhile the conversation has ended, or the account was removed, which deletes its keys.
		return nil, membership.ErrNoConversation
	}
	if err != nil {
		return nil, store.Error(err)
	}
	if first.DeletedAt == nil && !bytes.Equal(first.RequestHash, again.RequestHash) {
		return nil, errs.Input(errs.Conflict, "idempotencyKey",
			"This key was used before, for a different message.")
	}
	return first, nil
}

// Messages lists the messages of each of the conversations that the actor is in, oldest first.
func (s *Service) Messages(
	ctx context.Context, actor model.Actor, ids []model.ConversationID, window store.Window,
) (map[model.ConversationID]store.Page[*model.Message], error) {
	var keyset []any
	if window.Cursor != "" {
		place, err := feed.ReadListCursor(window.Cursor)
		if err != nil {
			return nil, err
		}
		keyset = []any{place.Seq}
	}
	found, err := readPages[model.Message](ctx, s, actor, ids, listText{
		parents: viewers, visible: viewersOfThoseIn,
		items: "messages AS m", alias: "m",
		of:    "m.conversation_id = viewer.conversation_id AND m.seq > viewer.hidden_seq",
		order: store.Order{Columns: []string{"m.seq"}},
	}, window, keyset)
	if err != nil {
		return nil, err
	}
	of := func(m *model.Message) model.ConversationID { return m.ConversationID }
	bySeq := func(a, b *model.Message) int { return cmp.Compare(a.Seq, b.Seq) }
	return cutEach(window, ids, found, of, bySeq), nil
}

// MessagesByID returns the messages that the actor may see. Others are left out.
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
		SELECT ?TableColumns FROM conversation_members AS viewer
			JOIN conversations AS c ON c.id = viewer.conversation_id
		JOIN messages AS m ON m.conversation_id = c.id AND m.seq = c.last_message_seq
		WHERE viewer.user_id = ?1 AND viewer.conversation_id IN (?2...)
			AND m.seq > viewer.hidden_seq`,
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
