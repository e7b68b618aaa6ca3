package chat

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"parley/membership"
	"parley/model"
	"parley/store"
)

// storePostgres takes two round trips for any number of messages: the first locks and loads, the
// second writes and commits.
func (s *Service) storePostgres(
	ctx context.Context, all []*outgoing, waitForLocks bool,
) (a *acceptedBatch, err error) {
	err = s.db.InPgxTx(ctx, func(ctx context.Context, tx *store.PgxTx) error {
		b, err := lockAndLoad(ctx, tx, all, waitForLocks)
		if err != nil {
			return err
		}
		b.now = s.db.Now() // read after the locks are taken
		if a = b.accept(all); len(a.messages) == 0 {
			return nil
		}
		return a.write(ctx, tx)
	})
	return a, err
}

const (
	// Batches lock conversations in order of id, so that they cannot deadlock.
	lockConversations = `
		SELECT id, last_seq, coalesce(last_event_at, last_activity_at),
			pg_current_xact_id()::text::bigint
		FROM conversations WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE`
	// The rows to be written refer to the accounts of the authors.
	lockAuthors = `SELECT id FROM users WHERE id = ANY($1::uuid[]) ORDER BY id FOR KEY SHARE`
	// lockNamed selects the members who have these names, locks their accounts, to which the
	// mentions will refer, and selects for each whether it got the lock. That is always so without
	// SKIP LOCKED. An account that is being removed has no name.
	lockNamed = `
		WITH named AS MATERIALIZED (
			SELECT i.conversation_id, i.nickname_key, u.id
			FROM unnest($1::uuid[], $2::text[]) AS i (conversation_id, nickname_key)
			CROSS JOIN LATERAL (
				SELECT id FROM users WHERE nickname_key = i.nickname_key LIMIT 1
			) AS u
			CROSS JOIN LATERAL (
				SELECT 1 FROM conversation_members
				WHERE conversation_id = i.conversation_id AND user_id = u.id LIMIT 1
			) AS cm
		), free AS MATERIALIZED (
			SELECT id FROM users WHERE id = ANY(ARRAY(SELECT id FROM named))
				ORDER BY id FOR KEY SHARE%s
		)
		SELECT conversation_id, nickname_key, id, id IN (SELECT id FROM free) FROM named`
)

// readMembers is a separate statement, so that its snapshot is taken after the locks: it sees the
// removals that the locks waited for.
//
//nolint:gochecknoglobals // a constant
var readMembers = `
		SELECT i.n, cm.hidden_seq, r.seq, k.used IS NOT NULL
		FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[])
			WITH ORDINALITY AS i (conversation_id, author_id, idempotency_key, reply_to_id, n)
		CROSS JOIN LATERAL (
			SELECT hidden_seq FROM conversation_members
			WHERE conversation_id = i.conversation_id AND user_id = i.author_id
				AND ` + membership.NotRemoved("user_id") + ` LIMIT 1
		) AS cm
		LEFT JOIN LATERAL (
			SELECT seq FROM messages
			WHERE id = i.reply_to_id AND conversation_id = i.conversation_id LIMIT 1
		) AS r ON true
		LEFT JOIN LATERAL (
			SELECT true AS used FROM messages
			WHERE conversation_id = i.conversation_id AND author_id = i.author_id
				AND idempotency_key = i.idempotency_key LIMIT 1
		) AS k ON true`

// readHeads reads the newest event of each conversation, after the locks too.
const readHeads = `
		SELECT i.id, e.kind, e.message_id, coalesce(e.mark, 0)
		FROM unnest($1::uuid[]) AS i (id)
		CROSS JOIN LATERAL (
			SELECT kind, message_id, mark FROM events WHERE conversation_id = i.id
			ORDER BY seq DESC LIMIT 1
		) AS e`

// lockAndLoad locks the rows that the messages need, and reads the batch snapshot. If waitForLocks
// is false, it skips rows that another transaction has locked.
func lockAndLoad(
	ctx context.Context, tx *store.PgxTx, all []*outgoing, waitForLocks bool,
) (*batchSnapshot, error) {
	b, queries := newBatchSnapshot(), &pgx.Batch{}
	var skip string
	if !waitForLocks {
		skip, b.skipLocked = " SKIP LOCKED", true
	}
	var in struct {
		conversations, authors [][16]byte
		keys                   []*string
		replies                []*[16]byte
	}
	var names struct {
		conversations [][16]byte
		keys          []string
	}
	for _, o := range all {
		m := o.message
		in.conversations = append(in.conversations, m.ConversationID)
		in.authors = append(in.authors, *m.AuthorID)
		in.keys = append(in.keys, m.IdempotencyKey)
		in.replies = append(in.replies, (*[16]byte)(m.ReplyToID))
	}
	for id, list := range namesIn(all) {
		for name := range list {
			names.conversations = append(names.conversations, id)
			names.keys = append(names.keys, name)
		}
	}
	queries.Queue(lockConversations+skip, distinct(in.conversations)).
		Query(func(rows pgx.Rows) error {
			var id [16]byte
			var seq int64
			var at time.Time
			_, err := pgx.ForEachRow(rows, []any{&id, &seq, &at, &b.position}, func() error {
				b.heads[id] = &head{seq: seq, at: at}
				return nil
			})
			return err
		})
	queries.Queue(readHeads, distinct(in.conversations)).Query(func(rows pgx.Rows) error {
		var id [16]byte
		var message *[16]byte
		var e model.Event
		into := []any{&id, (*string)(&e.Kind), &message, (*int64)(&e.StoredMark)}
		_, err := pgx.ForEachRow(rows, into, func() error {
			e.MessageID = (*model.MessageID)(message)
			if h := b.heads[id]; h != nil {
				h.mark = e.Mark()
			}
			return nil
		})
		return err
	})
	queries.Queue(lockAuthors+skip, distinct(in.authors)).Query(func(rows pgx.Rows) error {
		var id [16]byte
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
			b.free[id] = true
			return nil
		})
		return err
	})
	queries.Queue(readMembers, in.conversations, in.authors, in.keys, in.replies).
		Query(func(rows pgx.Rows) error {
			var n, hidden int64
			var replied *int64
			var used bool
			_, err := pgx.ForEachRow(rows, []any{&n, &hidden, &replied, &used}, func() error {
				o := all[n-1]
				b.hidden[o.author()] = hidden
				if replied != nil {
					b.replies[reply{o.message.ConversationID, *o.message.ReplyToID}] = *replied
				}
				if used {
					b.used[o.key()] = true
				}
				return nil
			})
			return err
		})
	if len(names.keys) > 0 {
		queries.Queue(fmt.Sprintf(lockNamed, skip), names.conversations, names.keys).
			Query(func(rows pgx.Rows) error {
				var conversation, user [16]byte
				var name string
				var free bool
				_, err := pgx.ForEachRow(rows, []any{&conversation, &name, &user, &free},
					func() error {
						b.addNamed(conversation, name, user)
						if free {
							b.free[user] = true
						}
						return nil
					})
				return err
			})
	}
	return b, tx.Begin(ctx, queries)
}

func distinct(ids [][16]byte) [][16]byte {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, model.CompareIDs)
	return slices.Compact(ids)
}

const (
	updateConversations = `
		UPDATE conversations AS c
		SET last_seq = i.seq, last_message_seq = i.seq, last_event_at = i.at,
			last_activity_at = i.at
		FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS i (id, seq, at)
		WHERE c.id = i.id`
	insertMessages = `
		INSERT INTO messages (id, conversation_id, seq, author_id, content, reply_to_id, created_at,
			idempotency_key, request_hash, tokens)
		SELECT i.id, i.conversation_id, i.seq, i.author_id, i.content, i.reply_to_id, i.created_at,
			i.idempotency_key, i.request_hash,
			array_to_tsvector(string_to_array(i.tokens, ' '))
		FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::uuid[], $5::text[], $6::uuid[],
			$7::timestamptz[], $8::text[], $9::bytea[],
			$10::text[])
			AS i (id, conversation_id, seq, author_id, content, reply_to_id, created_at,
				idempotency_key, request_hash, tokens)`
	insertSent = `
		INSERT INTO events (conversation_id, seq, kind, actor_id, message_id, data, at, position)
		SELECT i.conversation_id, i.seq, $1, i.actor_id, i.message_id, '{}', i.at, $2
		FROM unnest($3::uuid[], $4::bigint[], $5::uuid[], $6::uuid[], $7::timestamptz[])
			AS i (conversation_id, seq, actor_id, message_id, at)`
	insertMentioned = `
		INSERT INTO mentions (conversation_id, user_id, seq, message_id)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::uuid[])`
)

// write stores the messages and commits.
func (a *acceptedBatch) write(ctx context.Context, tx *store.PgxTx) error {
	queries := &pgx.Batch{}
	var moved struct {
		ids  [][16]byte
		seqs []int64
		at   []time.Time
	}
	for id, h := range a.moved {
		moved.ids = append(moved.ids, id)
		moved.seqs = append(moved.seqs, h.seq)
		moved.at = append(moved.at, h.at)
	}
	queries.Queue(updateConversations, moved.ids, moved.seqs, moved.at)
	var rows struct {
		ids, conversations, authors [][16]byte
		seqs                        []int64
		contents, tokens            []string
		replies                     []*[16]byte
		at                          []time.Time
		keys                        []*string
		hashes                      [][]byte
	}
	var mentions struct {
		conversations, users, messages [][16]byte
		seqs                           []int64
	}
	for _, o := range a.messages {
		m := o.message
		rows.ids = append(rows.ids, m.ID)
		rows.conversations = append(rows.conversations, m.ConversationID)
		rows.seqs = append(rows.seqs, m.Seq)
		rows.authors = append(rows.authors, *m.AuthorID)
		rows.contents = append(rows.contents, m.Content)
		rows.tokens = append(rows.tokens, tokenText(m))
		rows.replies = append(rows.replies, (*[16]byte)(m.ReplyToID))
		rows.at = append(rows.at, m.CreatedAt)
		rows.keys = append(rows.keys, m.IdempotencyKey)
		rows.hashes = append(rows.hashes, m.RequestHash)
		for _, id := range o.mentioned {
			mentions.conversations = append(mentions.conversations, m.ConversationID)
			mentions.seqs = append(mentions.seqs, m.Seq)
			mentions.messages = append(mentions.messages, m.ID)
			mentions.users = append(mentions.users, id)
		}
	}
	queries.Queue(insertMessages, rows.ids, rows.conversations, rows.seqs, rows.authors,
		rows.contents,
		rows.replies, rows.at, rows.keys, rows.hashes, rows.tokens)
	queries.Queue(insertSent, string(model.MessageAdded), a.position, rows.conversations, rows.seqs,
		rows.authors, rows.ids, rows.at)
	if len(mentions.users) > 0 {
		queries.Queue(insertMentioned, mentions.conversations, mentions.users, mentions.seqs,
			mentions.messages)
	}
	return tx.Commit(ctx, queries)
}
