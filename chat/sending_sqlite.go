package chat

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"

	"parley/membership"
	"parley/model"
	"parley/store"
)

// storeSQLite needs no locks: SQLite has one writing transaction at a time. A statement costs no
// round trip here, but preparing it costs as much as running it.
func (s *Service) storeSQLite(ctx context.Context, all []*outgoing) (a *acceptedBatch, err error) {
	prepared, err := s.sendingSQLite.prepare(ctx, s.db)
	if err != nil {
		return nil, store.Error(err)
	}
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		in := inSQLite{tx, prepared}
		b, err := in.load(ctx, all)
		if err != nil {
			return err
		}
		if a = b.accept(all); len(a.messages) == 0 {
			return nil
		}
		return in.write(ctx, a)
	})
	return a, err
}

// sqliteStatements are the statements that store messages, prepared on the connection that writes.
type sqliteStatements struct {
	mu       sync.Mutex // guards what follows
	prepared bool

	load, loadNamed, nextPosition, updateConversation        *sql.Stmt
	insertMessage, insertTokens, insertEvent, insertMentions *sql.Stmt
}

// prepare prepares the statements if they are not prepared yet. It must not be called in a
// transaction, because that has the connection.
func (st *sqliteStatements) prepare(ctx context.Context, db *store.DB) (*sqliteStatements, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.prepared {
		return st, nil
	}
	for statement, query := range map[**sql.Stmt]string{
		&st.load: `
			SELECT c.last_seq, coalesce(c.last_event_at, c.last_activity_at), cm.hidden_seq,
				(SELECT seq FROM messages WHERE id = ?3 AND conversation_id = c.id),
				EXISTS (SELECT 1 FROM messages
					WHERE conversation_id = c.id AND author_id = ?2 AND idempotency_key = ?4),
				coalesce(e.kind, ''), e.message_id, coalesce(e.mark, 0)
			FROM conversations AS c
				JOIN conversation_members AS cm ON cm.conversation_id = c.id AND cm.user_id = ?2
				LEFT JOIN events AS e ON e.conversation_id = c.id AND e.seq = c.last_seq
			WHERE c.id = ?1 AND ` + membership.NotRemoved("cm.user_id"),
		&st.loadNamed: `
			SELECT u.nickname_key, u.id FROM json_each(?2) AS i
				CROSS JOIN users AS u ON u.nickname_key = i.value
			CROSS JOIN conversation_members AS cm ON cm.conversation_id = ?1 AND cm.user_id = u.id`,
		&st.nextPosition: `UPDATE event_position SET last = last + 1 RETURNING last`,
		&st.updateConversation: `
			UPDATE conversations SET last_seq = ?2, last_message_seq = ?2, last_event_at = ?3,
				last_activity_at = ?3
			WHERE id = ?1`,
		&st.insertMessage: `
			INSERT INTO messages (id, conversation_id, seq, author_id, content, reply_to_id,
				created_at, idempotency_key, request_hash)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		&st.insertTokens: `INSERT INTO message_tokens (rowid, tokens)
			VALUES (last_insert_rowid(), ?)`,
		&st.insertEvent: `
			INSERT INTO events (conversation_id, seq, kind, actor_id, message_id, data, at,
				position)
			VALUES (?, ?, ?, ?, ?, '{}', ?, ?)`,
		&st.insertMentions: `
			INSERT INTO mentions (conversation_id, user_id, seq, message_id)
				SELECT ?1, value, ?3, ?4 FROM json_each(?2)`,
	} {
		//nolint:sqlclosecheck // closed with the database
		prepared, err := db.DB.DB.PrepareContext(ctx, query)
		if err != nil {
			return nil, err // the next call prepares all of them again
		}
		*statement = prepared
	}
	st.prepared = true
	return st, nil
}

// inSQLite is a transaction that stores messages.
type inSQLite struct {
	tx       *store.Tx
	prepared *sqliteStatements
}

func (in inSQLite) row(ctx context.Context, statement *sql.Stmt, args ...any) *sql.Row {
	//nolint:sqlclosecheck // closed with the transaction
	return in.tx.Tx.Tx.StmtContext(ctx, statement).QueryRowContext(ctx, args...)
}

func (in inSQLite) exec(ctx context.Context, statement *sql.Stmt, args ...any) error {
	//nolint:sqlclosecheck // closed with the transaction
	_, err := in.tx.Tx.Tx.StmtContext(ctx, statement).ExecContext(ctx, args...)
	return err
}

// load reads the batch snapshot.
func (in inSQLite) load(ctx context.Context, all []*outgoing) (*batchSnapshot, error) {
	b := newBatchSnapshot()
	b.now = in.tx.Now
	for _, o := range all {
		var h head
		var hidden int64
		var replied sql.Null[int64]
		var used bool
		var newest model.Event
		m := o.message
		err := in.row(ctx, in.prepared.load, m.ConversationID, m.AuthorID, m.ReplyToID,
			m.IdempotencyKey).
			Scan(&h.seq, (*store.SQLiteTime)(&h.at), &hidden, &replied, &used,
				&newest.Kind, &newest.MessageID, &newest.StoredMark)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h.mark = newest.Mark()
		b.heads[m.ConversationID], b.hidden[o.author()] = &h, hidden
		if replied.Valid {
			b.replies[reply{m.ConversationID, *m.ReplyToID}] = replied.V
		}
		if used {
			b.used[o.key()] = true
		}
	}
	for id, names := range namesIn(all) {
		if err := in.loadNamed(ctx, b, id, names); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (in inSQLite) loadNamed(
	ctx context.Context, b *batchSnapshot, id model.ConversationID, names map[string]bool,
) error {
	list, err := json.Marshal(slices.Collect(maps.Keys(names)))
	if err != nil {
		return err
	}
	//nolint:sqlclosecheck // closed with the transaction
	rows, err := in.tx.Tx.Tx.StmtContext(ctx, in.prepared.loadNamed).
		QueryContext(ctx, id, string(list))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		var member model.UserID
		if err := rows.Scan(&name, &member); err != nil {
			return err
		}
		b.addNamed(id, name, member)
	}
	return rows.Err()
}

// write stores the messages.
func (in inSQLite) write(ctx context.Context, a *acceptedBatch) error {
	if err := in.row(ctx, in.prepared.nextPosition).Scan(&a.position); err != nil {
		return err
	}
	for id, h := range a.moved {
		if err := in.exec(ctx, in.prepared.updateConversation, id, h.seq,
			store.SQLiteTime(h.at)); err != nil {
			return err
		}
	}
	for _, o := range a.messages {
		if err := in.writeMessage(ctx, o, a.position); err != nil {
			return err
		}
	}
	return nil
}

func (in inSQLite) writeMessage(ctx context.Context, o *outgoing, position int64) error {
	m, at := o.message, store.SQLiteTime(o.message.CreatedAt)
	err := in.exec(ctx, in.prepared.insertMessage,
		m.ID, m.ConversationID, m.Seq, m.AuthorID, m.Content, m.ReplyToID, at, m.IdempotencyKey,
		m.RequestHash)
	if err != nil {
		return err
	}
	if err := in.exec(ctx, in.prepared.insertTokens, tokenText(m)); err != nil {
		return err
	}
	if err := in.writeMentions(ctx, o); err != nil {
		return err
	}
	return in.exec(ctx, in.prepared.insertEvent, m.ConversationID, m.Seq,
		string(model.MessageAdded),
		m.AuthorID, m.ID, at, position)
}

func (in inSQLite) writeMentions(ctx context.Context, o *outgoing) error {
	if len(o.mentioned) == 0 {
		return nil
	}
	ids := make([]driver.Value, len(o.mentioned))
	for i, id := range o.mentioned {
		var err error
		if ids[i], err = id.Value(); err != nil {
			return err
		}
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return in.exec(ctx, in.prepared.insertMentions, o.message.ConversationID, string(list),
		o.message.Seq,
		o.message.ID)
}
