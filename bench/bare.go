package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"parley/model"
)

// bareConns is the default number of connections of package store to PostgreSQL.
const bareConns = 20

var errBareConflict = errors.New("a new message exists already")

// openBarePostgres returns a send that uses pgx alone. Its pool prepares each statement once for
// each connection.
func openBarePostgres(ctx context.Context, url string) (send, func() error, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, nil, err
	}
	cfg.MaxConns = bareConns
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	closePool := func() error {
		pool.Close()
		return nil
	}
	return func(ctx context.Context, to model.ConversationID, author model.Actor) error {
		return pgx.BeginFunc(ctx, pool,
			func(tx pgx.Tx) error { return barePostgresSend(ctx, tx, to, author.UserID) })
	}, closePool, nil
}

func barePostgresSend(
	ctx context.Context, tx pgx.Tx, to model.ConversationID, author model.UserID,
) error {
	id, now, hash := uuid.Must(uuid.NewV7()), time.Now().UTC(), sha256.Sum256([]byte(content))
	var seq int64
	err := tx.QueryRow(ctx,
		`UPDATE conversations SET last_seq = last_seq + 1, last_activity_at = $1 WHERE id = $2 RETURNING last_seq`,
		now, uuid.UUID(to)).Scan(&seq)
	if err != nil {
		return err
	}
	var member bool
	err = tx.QueryRow(ctx,
		`SELECT EXISTS (SELECT * FROM conversation_members WHERE conversation_id = $1 AND user_id = $2)`,
		uuid.UUID(to), uuid.UUID(author)).Scan(&member)
	if err != nil {
		return err
	}
	if !member {
		return sql.ErrNoRows
	}
	done, err := tx.Exec(ctx,
		`INSERT INTO messages (id, conversation_id, seq, author_id, content, reply_to_id, created_at, edited_at, deleted_at,
			idempotency_key, request_hash)
		VALUES ($1, $2, $3, $4, $5, NULL, $6, NULL, NULL, $7, $8) ON CONFLICT DO NOTHING`,
		id, uuid.UUID(to), seq, uuid.UUID(author), content, now, uuid.NewString(), hash[:])
	if err != nil {
		return err
	}
	if done.RowsAffected() != 1 {
		return errBareConflict
	}
	_, err = tx.Exec(ctx,
		`INSERT INTO events (conversation_id, seq, kind, actor_id, message_id, data, at, position)
		VALUES ($1, $2, $3, $4, $5, '{}', $6, pg_current_xact_id()::text::bigint)`,
		uuid.UUID(to), seq, string(model.MessageAdded), uuid.UUID(author), id, now)
	return err
}

// bareSQLite sends with database/sql alone, on one connection, as package store writes.
type bareSQLite struct {
	db                                                          *sql.DB
	nextSeq, isMember, insertMessage, nextPosition, insertEvent *sql.Stmt
}

func openBareSQLite(ctx context.Context, path string) (send, func() error, error) {
	query := url.Values{
		"_pragma": { // those of store
			"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "busy_timeout(10000)",
			"cache_size(-16000)",
		},
		"_txlock": {"immediate"},
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	b := &bareSQLite{db: db}
	for statement, text := range map[**sql.Stmt]string{
		&b.nextSeq:  `UPDATE conversations SET last_seq = last_seq + 1, last_activity_at = ? WHERE id = ? RETURNING last_seq`,
		&b.isMember: `SELECT EXISTS (SELECT * FROM conversation_members WHERE conversation_id = ? AND user_id = ?)`,
		&b.insertMessage: `INSERT INTO messages (id, conversation_id, seq, author_id, content, reply_to_id, created_at, edited_at,
			deleted_at, idempotency_key, request_hash)
			VALUES (?, ?, ?, ?, ?, NULL, ?, NULL, NULL, ?, ?) ON CONFLICT DO NOTHING`,
		&b.nextPosition: `UPDATE event_position SET last = last + 1`,
		&b.insertEvent: `INSERT INTO events (conversation_id, seq, kind, actor_id, message_id, data, at, position)
			VALUES (?, ?, ?, ?, ?, '{}', ?, (SELECT last FROM event_position))`,
	} {
		if *statement, err = db.PrepareContext(ctx, text); err != nil {
			return nil, nil, errors.Join(err, db.Close())
		}
	}
	return b.send, db.Close, nil // which closes the statements too
}

func (b *bareSQLite) send(ctx context.Context, to model.ConversationID, author model.Actor) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := b.sendIn(ctx, tx, uuid.UUID(to).String(), uuid.UUID(author.UserID).
		String()); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (b *bareSQLite) sendIn(ctx context.Context, tx *sql.Tx, to, author string) error {
	id, hash := uuid.Must(uuid.NewV7()).String(), sha256.Sum256([]byte(content))
	now := time.Now().UTC().Format("2006-01-02 15:04:05.999999-07:00") // as Bun writes it
	var seq int64
	if err := tx.StmtContext(ctx, b.nextSeq).QueryRowContext(ctx, now, to).Scan(&seq); err != nil {
		return err
	}
	var member bool
	if err := tx.StmtContext(ctx, b.isMember).QueryRowContext(ctx, to, author).
		Scan(&member); err != nil {
		return err
	}
	if !member {
		return sql.ErrNoRows
	}
	done, err := tx.StmtContext(ctx, b.insertMessage).
		ExecContext(ctx, id, to, seq, author, content, now, uuid.NewString(), hash[:])
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errBareConflict)
	}
	if _, err := tx.StmtContext(ctx, b.nextPosition).ExecContext(ctx); err != nil {
		return err
	}
	_, err = tx.StmtContext(ctx, b.insertEvent).
		ExecContext(ctx, to, seq, string(model.MessageAdded), author, id, now)
	return err
}
