package chat

import (
	"context"
	"slices"
	"time"

	"parley/model"
	"parley/store"
)

// storeSQLite needs no locks: nobody else writes while its transaction runs.
func (s *Service) storeSQLite(ctx context.Context, all []*outgoing) (a *admission, err error) {
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		k, err := lookSQLite(ctx, tx, all)
		if err != nil {
			return err
		}
		if a = k.admit(all); len(a.messages) == 0 {
			return nil
		}
		return a.writeSQLite(ctx, tx)
	})
	return a, err
}

// lookSQLite finds out what the rules ask for.
func lookSQLite(ctx context.Context, tx *store.Tx, all []*outgoing) (*known, error) {
	type row struct {
		N              int
		ConversationID model.ConversationID `bun:",type:uuid"`
		AuthorID       model.UserID         `bun:",type:uuid"`
		IdempotencyKey *string
		ReplyToID      *model.MessageID `bun:",type:uuid"`
	}
	in := make([]row, len(all))
	for n, o := range all {
		in[n] = row{n, o.message.ConversationID, *o.message.AuthorID, o.message.IdempotencyKey, o.message.ReplyToID}
	}
	var found []struct {
		N, LastSeq, HiddenSeq int64
		At                    time.Time
		Replied               *int64
		Used                  bool
	}
	err := tx.NewSelect().With("i", tx.NewValues(&in)).Table("i").
		ColumnExpr("i.n, c.last_seq, coalesce(c.last_event_at, c.last_activity_at) AS at").
		ColumnExpr("cm.hidden_seq, r.seq AS replied, k.rowid IS NOT NULL AS used").
		Join("JOIN conversations AS c ON c.id = i.conversation_id").
		Join("JOIN conversation_members AS cm ON cm.conversation_id = i.conversation_id AND cm.user_id = i.author_id").
		Join("LEFT JOIN messages AS r ON r.id = i.reply_to_id AND r.conversation_id = i.conversation_id").
		Join("LEFT JOIN messages AS k ON k.conversation_id = i.conversation_id AND k.author_id = i.author_id"+
			" AND k.idempotency_key = i.idempotency_key").Scan(ctx, &found)
	if err != nil {
		return nil, err
	}
	k := newKnown()
	k.now = tx.Now
	for _, f := range found {
		o := all[f.N]
		k.places[o.message.ConversationID] = &place{seq: f.LastSeq, at: f.At}
		k.hidden[o.author()] = f.HiddenSeq
		if f.Replied != nil {
			k.replies[reply{o.message.ConversationID, *o.message.ReplyToID}] = *f.Replied
		}
		if f.Used {
			k.used[idempotencyKey{o.author(), *o.message.IdempotencyKey}] = true
		}
	}
	return k, lookAtNamesSQLite(ctx, tx, all, k)
}

func lookAtNamesSQLite(ctx context.Context, tx *store.Tx, all []*outgoing, k *known) error {
	type row struct {
		ConversationID model.ConversationID `bun:",type:uuid"`
		NicknameKey    string
	}
	var names []row
	for _, o := range all {
		for _, key := range slices.Concat(o.names...) {
			names = append(names, row{o.message.ConversationID, key})
		}
	}
	if len(names) == 0 {
		return nil
	}
	var found []struct {
		row
		ID model.UserID
	}
	err := tx.NewSelect().With("i", tx.NewValues(&names)).Table("i").ColumnExpr("i.*, u.id").
		Join("JOIN users AS u ON u.nickname_key = i.nickname_key").
		Join("JOIN conversation_members AS cm ON cm.conversation_id = i.conversation_id AND cm.user_id = u.id").Scan(ctx, &found)
	for _, f := range found {
		k.named[nickname{f.ConversationID, f.NicknameKey}] = f.ID
	}
	return err
}

// writeSQLite stores what was admitted.
func (a *admission) writeSQLite(ctx context.Context, tx *store.Tx) error {
	type position struct {
		ID  model.ConversationID `bun:",type:uuid"`
		Seq int64
		At  time.Time
	}
	type indexed struct {
		ConversationID model.ConversationID `bun:",type:uuid"`
		Seq            int64
		Tokens         string
	}
	var (
		moved    []position
		messages []*model.Message
		tokens   []indexed
		events   []*model.Event
		mentions []*model.Mention
	)
	for id, p := range a.moved {
		moved = append(moved, position{id, p.seq, p.at})
	}
	err := tx.NewRaw("UPDATE event_position SET last = last + 1 RETURNING last").Scan(ctx, &a.position)
	if err != nil {
		return err
	}
	for _, o := range a.messages {
		messages = append(messages, o.message)
		tokens = append(tokens, indexed{o.message.ConversationID, o.message.Seq, tokenText(o.message)})
		events = append(events, a.event(o))
		mentions = append(mentions, o.mentions...)
	}
	_, err = tx.NewUpdate().With("i", tx.NewValues(&moved)).Model((*model.Conversation)(nil)).Table("i").
		Set("last_seq = i.seq").Set("last_message_seq = i.seq").Set("last_event_at = i.at").Set("last_activity_at = i.at").
		Where("c.id = i.id").Exec(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.NewInsert().Model(&messages).Exec(ctx); err != nil {
		return err
	}
	_, err = tx.NewRaw(`WITH i (conversation_id, seq, tokens) AS (?)
		INSERT INTO message_tokens (rowid, tokens) SELECT m.rowid, i.tokens
		FROM i JOIN messages AS m ON m.conversation_id = i.conversation_id AND m.seq = i.seq`, tx.NewValues(&tokens)).Exec(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.NewInsert().Model(&events).Exec(ctx); err != nil {
		return err
	}
	if len(mentions) > 0 {
		_, err = tx.NewInsert().Model(&mentions).Exec(ctx)
	}
	return err
}
