package chat

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
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
	IdempotencyKey *string          // of one author in one conversation: the same key with the same input is the same message
}

// errKeyUsed rolls back a send whose idempotency key came before.
var errKeyUsed = errors.New("the idempotency key was used before")

// SendMessage stores a message, and tells the followers once it is stored.
func (s *Service) SendMessage(ctx context.Context, actor model.Actor, in SendMessage) (*model.Message, error) {
	content, err := in.check()
	if err != nil {
		return nil, err
	}
	m := &model.Message{
		ID: model.NewMessageID(), ConversationID: in.ConversationID, AuthorID: &actor.UserID, Content: content,
		ReplyToID: in.ReplyToID, IdempotencyKey: in.IdempotencyKey,
	}
	if m.IdempotencyKey != nil {
		m.RequestHash = requestHash(m)
	}
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		p, err := nextPlace(ctx, tx, in.ConversationID, model.MessageAdded)
		if err != nil {
			return err
		}
		m.Seq, m.CreatedAt = p.seq, p.at
		// After the lock: a removal that was committed while this waited for it counts.
		member, err := memberOf(ctx, tx, actor, in.ConversationID)
		if err != nil {
			return err
		}
		if err := checkReply(ctx, tx, member, m); err != nil {
			return err
		}
		if err := insertMessage(ctx, tx, m); err != nil {
			return err
		}
		if err := insertMentions(ctx, tx, m); err != nil {
			return err
		}
		return s.appendEvent(ctx, tx, &model.Event{
			ConversationID: m.ConversationID, Seq: m.Seq, At: m.CreatedAt, Kind: model.MessageAdded, ActorID: m.AuthorID,
			MessageID: &m.ID, Message: m,
		}, struct{}{})
	})
	if errors.Is(err, errKeyUsed) {
		return s.firstWithKey(ctx, m)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (in SendMessage) check() (content string, err error) {
	var problems errs.List
	content = checkContent(&problems, in.Content)
	if key := in.IdempotencyKey; key != nil {
		switch {
		case *key == "":
			problems.Add(errs.Required, "idempotencyKey", "An idempotency key is not empty; leave it out to send without one.")
		case text.Problem(*key, false) != "":
			problems.Add(errs.Invalid, "idempotencyKey", "The idempotency key %s.", text.Problem(*key, false))
		case text.Len(*key) > maxIdempotencyKey:
			problems.Add(errs.TooLong, "idempotencyKey", "An idempotency key has at most %d characters.", maxIdempotencyKey)
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
		problems.Add(errs.TooLong, "content", "A message has at most %d characters, and this one has %d.", maxContent, text.Len(content))
	}
	return content
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

// checkReply makes sure that what a message answers is there, and is for its author to see. It may be deleted.
func checkReply(ctx context.Context, tx *store.Tx, author *model.ConversationMember, m *model.Message) error {
	if m.ReplyToID == nil {
		return nil
	}
	there, err := tx.NewSelect().Model((*model.Message)(nil)).Where("m.id = ?", *m.ReplyToID).
		Where("m.conversation_id = ?", m.ConversationID).Where("m.seq > ?", author.HiddenSeq).Exists(ctx)
	if err == nil && !there {
		return errs.Input(errs.NotFound, "replyToId", "There is no such message in this conversation.")
	}
	return err
}

// insertMessage stores a message with its words.
func insertMessage(ctx context.Context, tx *store.Tx, m *model.Message) error {
	q := tx.NewInsert().Model(m).On("CONFLICT DO NOTHING")
	if tx.Postgres() {
		q = q.Value("tokens", "?", tokensValue(m))
	}
	res, err := q.Exec(ctx)
	if err != nil {
		return err
	}
	switch n, err := res.RowsAffected(); {
	case err != nil:
		return err
	case n == 0:
		return errKeyUsed // the lock on the conversation leaves no other conflict
	}
	if tx.Postgres() {
		return nil
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO message_tokens (rowid, tokens) VALUES (last_insert_rowid(), ?)", tokenText(m))
	return err
}

// firstWithKey finds the message that was sent with the same key before.
func (s *Service) firstWithKey(ctx context.Context, again *model.Message) (*model.Message, error) {
	first := new(model.Message)
	err := s.db.NewSelect().Model(first).Where("m.conversation_id = ?", again.ConversationID).
		Where("m.author_id = ?", *again.AuthorID).Where("m.idempotency_key = ?", *again.IdempotencyKey).Scan(ctx)
	if err != nil {
		return nil, store.Error(err)
	}
	if first.DeletedAt == nil && !bytes.Equal(first.RequestHash, again.RequestHash) {
		return nil, errs.Input(errs.Conflict, "idempotencyKey", "This key was used before, for another message.")
	}
	return first, nil
}

const messageList = 'M' // the letter of this list's cursors

// MessageCursor is where a message stands in its conversation.
func MessageCursor(m *model.Message) string { return store.NewCursor(messageList).Int(m.Seq).String() }

// Messages lists the messages of each of the conversations that the actor is in, oldest first.
func (s *Service) Messages(
	ctx context.Context, actor model.Actor, ids []model.ConversationID, window store.Window,
) (map[model.ConversationID]store.Slice[*model.Message], error) {
	var position []any
	if window.Cursor != "" {
		cursor := store.ReadCursor(messageList, window.Cursor)
		position = []any{cursor.ReadInt()}
		if err := cursor.Done(); err != nil {
			return nil, err
		}
	}
	var found []*model.Message
	page := s.db.NewSelect().Model((*model.Message)(nil)).Where("m.conversation_id = viewer.conversation_id").
		Where("m.seq > viewer.hidden_seq")
	q := s.db.NewSelect().Model((*model.Message)(nil))
	err := s.pageEach(ctx, q, "m", "conversation_members AS viewer",
		window.Apply(page, store.Order{Columns: []string{"m.seq"}}, position...), viewing(actor, ids), &found)
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
	err := s.db.NewSelect().Model(&found).Apply(sharedWith(actor, "m.conversation_id")).Where("m.seq > viewer.hidden_seq").
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
	var found []*model.Message
	err := s.db.NewSelect().Model(&found).
		Join("JOIN conversations AS c ON c.id = m.conversation_id AND c.last_message_seq = m.seq").
		Apply(sharedWith(actor, "c.id")).Where("m.seq > viewer.hidden_seq").Where("c.id IN (?)", bun.List(ids)).Scan(ctx)
	if err != nil {
		return nil, store.Error(err)
	}
	byConversation := make(map[model.ConversationID]*model.Message, len(found))
	for _, m := range found {
		byConversation[m.ConversationID] = m
	}
	return byConversation, nil
}
