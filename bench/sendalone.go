package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"parley/model"
	"parley/store"
	"parley/text"
)

var errKeyExists = errors.New("a new key exists already")

// sendAlone stores a message by the same rules as Parley, in a transaction of its own. It runs each
// statement through Bun, one round trip after another, while the conversation is locked.
func sendAlone(
	ctx context.Context, db *store.DB, to model.ConversationID, author model.Actor,
) error {
	key, hash := uuid.NewString(), sha256.Sum256([]byte(content))
	m := &model.Message{
		ID: model.NewMessageID(), ConversationID: to, AuthorID: &author.UserID, Content: content,
		IdempotencyKey: &key, RequestHash: hash[:],
	}
	return db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		const later = "CASE WHEN coalesce(last_event_at, last_activity_at) < ? THEN ? ELSE " +
			"coalesce(last_event_at, last_activity_at) END"
		err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("last_seq = last_seq + 1").
			Set("last_message_seq = last_seq + 1").Set("last_event_at = "+later, tx.Now, tx.Now).
			Set("last_activity_at = "+later, tx.Now, tx.Now).Where("id = ?", to).
			Returning("last_seq, last_event_at").Scan(ctx, &m.Seq, &m.CreatedAt)
		if err != nil {
			return err
		}
		member := new(model.ConversationMember)
		err = tx.NewSelect().Model(member).Where("cm.conversation_id = ?", to).
			Where("cm.user_id = ?", author.UserID).Scan(ctx)
		if err != nil {
			return err
		}
		if err := insertOne(ctx, tx, m); err != nil {
			return err
		}
		position := bun.SafeQuery("pg_current_xact_id()::text::bigint")
		if !tx.Postgres() {
			if _, err := tx.ExecContext(ctx,
				"UPDATE event_position SET last = last + 1"); err != nil {
				return err
			}
			position = bun.SafeQuery("(SELECT last FROM event_position)")
		}
		e := &model.Event{
			ConversationID: to, Seq: m.Seq, At: m.CreatedAt, Kind: model.MessageAdded,
			ActorID: m.AuthorID, MessageID: &m.ID,
			Data: []byte("{}"),
		}
		return tx.NewInsert().Model(e).Value("position", "?", position).Returning("position").
			Scan(ctx, &e.Position)
	})
}

func insertOne(ctx context.Context, tx *store.Tx, m *model.Message) error {
	tokens := text.Tokens(m.Content)
	q := tx.NewInsert().Model(m).On("CONFLICT DO NOTHING")
	if tx.Postgres() {
		q = q.Value("tokens", "array_to_tsvector(?::text[])", pgdialect.Array(tokens))
	}
	res, err := q.Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errKeyExists)
	}
	if tx.Postgres() {
		return nil
	}
	_, err = tx.ExecContext(ctx,
		"INSERT INTO message_tokens (rowid, tokens) VALUES (last_insert_rowid(), ?)",
		strings.Join(tokens, " "))
	return err
}
