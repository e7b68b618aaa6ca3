package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// bareReader runs prepared statements and reads every column of every row. Statements have ? for an
// argument, and (?...) for a list of ids.
type bareReader interface {
	query(ctx context.Context, statement string, args ...any) ([][]any, error)
	// membersOf returns the first members of each conversation, in the way that is best for the
	// database.
	membersOf(ctx context.Context, ids []string) ([][]any, error)
	// newest returns the last messages of a conversation, in the way that is best for the database.
	newest(ctx context.Context, conversation, reader string) ([][]any, error)
	search(ctx context.Context, word, reader string) ([][]any, error)
}

// barePostgresReader has two pools.
type barePostgresReader struct {
	indexed *pgxpool.Pool // keeps generic plans that read ordered indexes only
	plain   *pgxpool.Pool // has default plans, for searches, which need bitmap scans
}

func openBarePostgresReader(ctx context.Context, url string) (bareReader, func() error, error) {
	indexed, err := openBarePool(ctx, url,
		map[string]string{
			"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off",
			"enable_bitmapscan": "off",
		})
	if err != nil {
		return nil, nil, err
	}
	plain, err := openBarePool(ctx, url, nil)
	if err != nil {
		indexed.Close()
		return nil, nil, err
	}
	return barePostgresReader{indexed, plain}, func() error {
		indexed.Close()
		plain.Close()
		return nil
	}, nil
}

func openBarePool(
	ctx context.Context, url string, settings map[string]string,
) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	maps.Copy(cfg.ConnConfig.RuntimeParams, settings)
	return pgxpool.NewWithConfig(ctx, cfg)
}

func (r barePostgresReader) query(
	ctx context.Context, statement string, args ...any,
) ([][]any, error) {
	return queryBare(ctx, r.indexed, statement, args...)
}

func queryBare(
	ctx context.Context, pool *pgxpool.Pool, statement string, args ...any,
) (found [][]any, err error) {
	statement = strings.ReplaceAll(statement, "IN (?...)", "= ANY(?)")
	for i := range args {
		statement = strings.Replace(statement, "?", fmt.Sprintf("$%d", i+1), 1)
	}
	rows, err := pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		row, err := rows.Values()
		if err != nil {
			return nil, err
		}
		found = append(found, row)
	}
	return found, rows.Err()
}

func (r barePostgresReader) membersOf(ctx context.Context, ids []string) ([][]any, error) {
	return r.query(ctx, `SELECT cm.* FROM unnest(?::uuid[]) AS id CROSS JOIN LATERAL
		(SELECT * FROM conversation_members WHERE conversation_id = id ORDER BY joined_seq, user_id LIMIT 5) AS cm`, ids)
}

// newest has a form in which the planner sees that the index has the order. In a generic plan it
// does not find out by itself.
func (r barePostgresReader) newest(
	ctx context.Context, conversation, reader string,
) ([][]any, error) {
	return r.query(ctx, `SELECT `+messageColumns+` FROM conversation_members AS v CROSS JOIN LATERAL
		(SELECT * FROM messages WHERE conversation_id = v.conversation_id AND seq > v.hidden_seq
		ORDER BY seq DESC LIMIT 51) AS m
		WHERE v.conversation_id = ? AND v.user_id = ?`, conversation, reader)
}

func (r barePostgresReader) search(ctx context.Context, word, reader string) ([][]any, error) {
	return queryBare(ctx, r.plain, `SELECT `+messageColumns+` FROM messages AS m
		JOIN conversation_members AS v ON v.conversation_id = m.conversation_id AND v.user_id = ?
		WHERE m.tokens @@ ?::tsquery AND m.seq > v.hidden_seq
		ORDER BY m.created_at DESC, m.id DESC LIMIT 21`, reader, "'"+word+"'")
}

type bareSQLiteReader struct {
	db         *sql.DB
	statements map[string]*sql.Stmt
}

func openBareSQLiteReader(path string) (bareReader, func() error, error) {
	// as in package store
	query := url.Values{"_pragma": {"busy_timeout(10000)", "cache_size(-16000)", "query_only(1)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	// Close closes the statements too.
	return &bareSQLiteReader{db, map[string]*sql.Stmt{}}, db.Close, nil
}

func (r *bareSQLiteReader) query(
	ctx context.Context, statement string, args ...any,
) (found [][]any, err error) {
	prepared := r.statements[statement]
	if prepared == nil {
		one := strings.ReplaceAll(statement, "IN (?...)", "IN (SELECT value FROM json_each(?))")
		if prepared, err = r.db.PrepareContext(ctx, one); err != nil {
			return nil, err
		}
		r.statements[statement] = prepared
	}
	for i, arg := range args {
		if list, ok := arg.([]string); ok {
			text, err := json.Marshal(list)
			if err != nil {
				return nil, err
			}
			args[i] = string(text)
		}
	}
	rows, err := prepared.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		row, to := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			to[i] = &row[i]
		}
		if err := rows.Scan(to...); err != nil {
			return nil, err
		}
		found = append(found, row)
	}
	return found, rows.Err()
}

func (r *bareSQLiteReader) membersOf(ctx context.Context, ids []string) (found [][]any, err error) {
	for _, id := range ids {
		some, err := r.query(ctx,
			`SELECT * FROM conversation_members WHERE conversation_id = ? ORDER BY joined_seq, user_id LIMIT 5`, id)
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	return found, nil
}

func (r *bareSQLiteReader) newest(
	ctx context.Context, conversation, reader string,
) ([][]any, error) {
	return r.query(ctx, `SELECT `+messageColumns+` FROM conversation_members AS v
		JOIN messages AS m ON m.conversation_id = v.conversation_id AND m.seq > v.hidden_seq
		WHERE v.conversation_id = ? AND v.user_id = ? ORDER BY m.seq DESC LIMIT 51`, conversation, reader)
}

func (r *bareSQLiteReader) search(ctx context.Context, word, reader string) ([][]any, error) {
	return r.query(ctx, `SELECT `+messageColumns+` FROM messages AS m
		JOIN conversation_members AS v ON v.conversation_id = m.conversation_id AND v.user_id = ?
		WHERE m.rowid IN (SELECT rowid FROM message_tokens WHERE message_tokens MATCH ?) AND m.seq
		> v.hidden_seq
		ORDER BY m.created_at DESC, m.id DESC LIMIT 21`, reader, `"`+word+`"`)
}

const (
	messageColumns = `m.id, m.conversation_id, m.seq, m.author_id, m.content, m.reply_to_id, m.created_at, m.edited_at,
		m.deleted_at, m.idempotency_key, m.request_hash`
	unreadMessages = `(SELECT count(*) FROM (SELECT 1 FROM messages AS m WHERE m.conversation_id = v.conversation_id
		AND m.seq > v.last_read_seq AND m.author_id IS DISTINCT FROM v.user_id AND m.deleted_at IS NULL LIMIT 1000) AS counted)`
	unreadMentions = `(SELECT count(*) FROM (SELECT 1 FROM mentions AS n JOIN messages AS m
		ON m.conversation_id = n.conversation_id AND m.seq = n.seq WHERE n.conversation_id =
		v.conversation_id
		AND n.user_id = v.user_id AND n.seq > v.last_read_seq AND m.author_id IS DISTINCT FROM
		v.user_id
		AND m.deleted_at IS NULL LIMIT 1000) AS counted)`
	unreadHere = ` FROM conversation_members AS v
		JOIN conversations AS c ON c.id = v.conversation_id AND c.last_message_seq > v.last_read_seq WHERE v.user_id = ?`
)

// ids returns a column of rows as text, without duplicates.
func ids(rows [][]any, column int) (list []string) {
	seen := map[string]bool{}
	for _, row := range rows {
		var id string
		switch v := row[column].(type) {
		case [16]byte:
			id = uuid.UUID(v).String()
		case string:
			id = v
		}
		if id != "" && !seen[id] {
			seen[id] = true
			list = append(list, id)
		}
	}
	return list
}

// firstOf leaves out the extra row that shows whether there are more.
func firstOf(rows [][]any, n int) [][]any { return rows[:min(len(rows), n)] }

func (l *library) me() string { return uuid.UUID(l.reader.UserID).String() }

func (l *library) bareConversations(ctx context.Context) (int, error) {
	// This reads the viewer's membership with each conversation: one statement less than Parley.
	found, err := l.bare.query(ctx, `SELECT c.*, v.* FROM conversations AS c
		JOIN conversation_members AS v ON v.conversation_id = c.id WHERE v.user_id = ?
		ORDER BY c.last_activity_at DESC, c.id DESC LIMIT 21`, l.me())
	if err != nil {
		return 0, err
	}
	found = firstOf(found, page)
	of := ids(found, 0)
	if _, err := l.bare.query(ctx,
		`SELECT v.conversation_id, `+unreadMessages+`, `+unreadMentions+unreadHere+
			` AND v.conversation_id IN (?...)`, l.me(), of); err != nil {
		return 0, err
	}
	last, err := l.bare.query(ctx, `SELECT `+messageColumns+` FROM conversations AS c
		JOIN messages AS m ON m.conversation_id = c.id AND m.seq = c.last_message_seq
		JOIN conversation_members AS v ON v.conversation_id = c.id AND v.user_id = ? AND m.seq >
		v.hidden_seq
		WHERE c.id IN (?...)`, l.me(), of)
	if err != nil {
		return 0, err
	}
	others, err := l.bare.membersOf(ctx, of)
	if err != nil {
		return 0, err
	}
	// The second column of a member is the user, the fourth of a message is the author.
	people := append(ids(others, 1), ids(last, 3)...)
	users, err := l.bareUsers(ctx, people)
	return 2*len(found) + len(last) + len(others) + users, err
}

func (l *library) bareUsers(ctx context.Context, people []string) (int, error) {
	users, err := l.bare.query(ctx, `SELECT * FROM users WHERE id IN (?...)`, people)
	return len(users), err
}

func (l *library) bareNewest(ctx context.Context) (int, error) {
	found, err := l.bare.newest(ctx, uuid.UUID(l.conversation).String(), l.me())
	if err != nil {
		return 0, err
	}
	found = firstOf(found, newest)
	users, err := l.bareUsers(ctx, ids(found, 3))
	return len(found) + users, err
}

func (l *library) bareUnread(ctx context.Context) (int, error) {
	found, err := l.bare.query(ctx,
		`SELECT coalesce(sum(messages), 0), coalesce(sum(mentions), 0) FROM (SELECT `+
			unreadMessages+
			` AS messages, `+unreadMentions+` AS mentions`+unreadHere+
			` AND (v.muted_until IS NULL OR v.muted_until <= ?)) AS u`,
		l.me(), l.db.Now())
	return len(found), err
}

func (l *library) bareSearch(ctx context.Context, word string) (int, error) {
	found, err := l.bare.search(ctx, word, l.me())
	return len(firstOf(found, page)), err
}
