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

// storeSQLite needs no locks: nobody else writes while its transaction runs. Statements cost no
// round trip here, but preparing one costs as much as running it.
func (s *Service) storeSQLite(ctx context.Context, all []*outgoing) (a *admission, err error) {
	prepared, err := s.sendingSQLite.on(ctx, s.db)
	if err != nil {
		return nil, store.Error(err)
	}
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		in := inSQLite{tx, prepared}
		k, err := in.look(ctx, all)
		if err != nil {
			return err
		}
		if a = k.admit(all); len(a.messages) == 0 {
			return nil
		}
		return in.write(ctx, a)
	})
	return a, err
}

// sqliteStatements are those of sending, prepared on the connection that writes when they are
// needed first.
type sqliteStatements struct {
	// guards what follows
	mu                                                                sync.Mutex
	ready                                                             bool
	look, names, nextPosition, move, message, tokens, event, mentions *sql.Stmt
}

// on prepares what is not yet. It must not be called in a transaction, which has the connection.
func (st *sqliteStatements) on(ctx context.Context, db *store.DB) (*sqliteStatements, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ready {
		return st, nil
	}
	for statement, query := range map[**sql.Stmt]string{
		&st.look: `
			SELECT c.last_seq, coalesce(c.last_event_at, c.last_activity_at), cm.hidden_seq,
				(SELECT seq FROM messages WHERE id = ?3 AND conversation_id = c.id),
				EXISTS (SELECT 1 FROM messages WHERE conversation_id = c.id AND author_id = ?2 AND idempotency_key = ?4)
			FROM conversations AS c JOIN conversation_members AS cm ON cm.conversation_id = c.id AND cm.user_id = ?2
			WHERE c.id = ?1 AND ` + membership.NotRemoved("cm.user_id"),
		&st.names: `
			SELECT u.nickname_key, u.id FROM json_each(?2) AS i CROSS JOIN users AS u ON u.nickname_key = i.value
			CROSS JOIN conversation_members AS cm ON cm.conversation_id = ?1 AND cm.user_id = u.id`,
		&st.nextPosition: `UPDATE event_position SET last = last + 1 RETURNING last`,
		&st.move: `
			UPDATE conversations SET last_seq = ?2, last_message_seq = ?2, last_event_at = ?3, last_activity_at = ?3
			WHERE id = ?1`,
		&st.message: `
			INSERT INTO messages (id, conversation_id, seq, author_id, content, reply_to_id, created_at, idempotency_key, request_hash)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		&st.tokens: `INSERT INTO message_tokens (rowid, tokens) VALUES (last_insert_rowid(), ?)`,
		&st.event: `
			INSERT INTO events (conversation_id, seq, kind, actor_id, message_id, data, at, position)
			VALUES (?, ?, ?, ?, ?, '{}', ?, ?)`,
		&st.mentions: `
			INSERT INTO mentions (conversation_id, user_id, seq, message_id) SELECT ?1, value, ?3, ?4 FROM json_each(?2)`,
	} {
		prepared, err := db.DB.DB.PrepareContext(ctx,
			query) //nolint:sqlclosecheck // with the database
		if err != nil {
			return nil, err // those before it are prepared again
		}
		*statement = prepared
	}
	st.ready = true
	return st, nil
}

// inSQLite is one transaction.
type inSQLite struct {
	tx       *store.Tx
	prepared *sqliteStatements
}

func (in inSQLite) row(ctx context.Context, statement *sql.Stmt, args ...any) *sql.Row {
	//nolint:sqlclosecheck // with the transaction
	return in.tx.Tx.Tx.StmtContext(ctx, statement).QueryRowContext(ctx, args...)
}

func (in inSQLite) exec(ctx context.Context, statement *sql.Stmt, args ...any) error {
	//nolint:sqlclosecheck // with the transaction
	_, err := in.tx.Tx.Tx.StmtContext(ctx, statement).ExecContext(ctx, args...)
	return err
}

// look finds out what the rules ask for.
func (in inSQLite) look(ctx context.Context, all []*outgoing) (*known, error) {
	k := newKnown()
	k.now = in.tx.Now
	for _, o := range all {
		var p head
		var hidden int64
		var replied sql.Null[int64]
		var used bool
		m := o.message
		err := in.row(ctx, in.prepared.look, m.ConversationID, m.AuthorID, m.ReplyToID,
			m.IdempotencyKey).
			Scan(&p.seq, (*store.SQLiteTime)(&p.at), &hidden, &replied, &used)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		k.heads[m.ConversationID], k.hidden[o.author()] = &p, hidden
		if replied.Valid {
			k.replies[reply{m.ConversationID, *m.ReplyToID}] = replied.V
		}
		if used {
			k.used[o.key()] = true
		}
	}
	for id, names := range namesIn(all) {
		if err := in.lookAtNames(ctx, k, id, names); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (in inSQLite) lookAtNames(
	ctx context.Context, k *known, id model.ConversationID, names map[string]bool,
) error {
	list, err := json.Marshal(slices.Collect(maps.Keys(names)))
	if err != nil {
		return err
	}
	//nolint:sqlclosecheck // with the transaction
	rows, err := in.tx.Tx.Tx.StmtContext(ctx, in.prepared.names).QueryContext(ctx, id, string(list))
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
		k.addNamed(id, name, member)
	}
	return rows.Err()
}

// write stores what was admitted.
func (in inSQLite) write(ctx context.Context, a *admission) error {
	if err := in.row(ctx, in.prepared.nextPosition).Scan(&a.position); err != nil {
		return err
	}
	for id, p := range a.moved {
		if err := in.exec(ctx, in.prepared.move, id, p.seq, store.SQLiteTime(p.at)); err != nil {
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
	err := in.exec(ctx, in.prepared.message,
		m.ID, m.ConversationID, m.Seq, m.AuthorID, m.Content, m.ReplyToID, at, m.IdempotencyKey,
		m.RequestHash)
	if err != nil {
		return err
	}
	if err := in.exec(ctx, in.prepared.tokens, tokenText(m)); err != nil {
		return err
	}
	if err := in.writeMentions(ctx, o); err != nil {
		return err
	}
	return in.exec(ctx, in.prepared.event, m.ConversationID, m.Seq, string(model.MessageAdded),
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
	return in.exec(ctx, in.prepared.mentions, o.message.ConversationID, string(list), o.message.Seq,
		o.message.ID)
}
