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

// storePostgres takes two round trips, whatever the number of messages: one locks and looks, one
// writes and commits.
func (s *Service) storePostgres(
	ctx context.Context, all []*outgoing, patient bool,
) (a *admission, err error) {
	err = s.db.InPgxTx(ctx, func(ctx context.Context, tx *store.PgxTx) error {
		k, err := look(ctx, tx, all, patient)
		if err != nil {
			return err
		}
		k.now = s.db.Now() // after the locks
		if a = k.admit(all); len(a.messages) == 0 {
			return nil
		}
		return a.write(ctx, tx)
	})
	return a, err
}

const (
	// The conversations, in order of id: two batches do not wait for each other crosswise.
	lockConversations = `
		SELECT id, last_seq, coalesce(last_event_at, last_activity_at), pg_current_xact_id()::text::bigint
		FROM conversations WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE`
	// The accounts of the authors, which the rows to be written will refer to.
	lockAuthors = `SELECT id FROM users WHERE id = ANY($1::uuid[]) ORDER BY id FOR KEY SHARE`
	// The members with these names (an account that is being removed has none), and whether their
	// accounts, which the mentions will refer to, are locked by nobody else.
	lookAtNames = `
		WITH named AS MATERIALIZED (
			SELECT i.conversation_id, i.nickname_key, u.id
			FROM unnest($1::uuid[], $2::text[]) AS i (conversation_id, nickname_key)
			CROSS JOIN LATERAL (SELECT id FROM users WHERE nickname_key = i.nickname_key LIMIT 1) AS u
			CROSS JOIN LATERAL (
				SELECT 1 FROM conversation_members WHERE conversation_id = i.conversation_id AND user_id = u.id LIMIT 1
			) AS cm
		), free AS MATERIALIZED (
			SELECT id FROM users WHERE id = ANY(ARRAY(SELECT id FROM named)) ORDER BY id FOR KEY SHARE%s
		)
		SELECT conversation_id, nickname_key, id, id IN (SELECT id FROM free) FROM named`
)

// A statement of its own, whose snapshot is taken with the locks: a removal that was waited for
// counts.
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
			SELECT seq FROM messages WHERE id = i.reply_to_id AND conversation_id = i.conversation_id LIMIT 1
		) AS r ON true
		LEFT JOIN LATERAL (
			SELECT true AS used FROM messages
			WHERE conversation_id = i.conversation_id AND author_id = i.author_id AND idempotency_key = i.idempotency_key LIMIT 1
		) AS k ON true` //nolint:gochecknoglobals // a constant

// look locks what the messages need, and finds out what the rules ask for. Where it is not patient,
// it locks only what nobody else has locked.
func look(ctx context.Context, tx *store.PgxTx, all []*outgoing, patient bool) (*known, error) {
	k, b := newKnown(), &pgx.Batch{}
	var skip string
	if !patient {
		skip = " SKIP LOCKED"
		k.free = map[model.UserID]bool{}
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
	for id, some := range namesIn(all) {
		for name := range some {
			names.conversations, names.keys = append(names.conversations, id),
				append(names.keys, name)
		}
	}
	b.Queue(lockConversations+skip, distinct(in.conversations)).Query(func(rows pgx.Rows) error {
		var id [16]byte
		var seq int64
		var at time.Time
		_, err := pgx.ForEachRow(rows, []any{&id, &seq, &at, &k.position}, func() error {
			k.heads[id] = &head{seq: seq, at: at}
			return nil
		})
		return err
	})
	b.Queue(lockAuthors+skip, distinct(in.authors)).Query(func(rows pgx.Rows) error {
		var id [16]byte
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
			if k.free != nil {
				k.free[id] = true
			}
			return nil
		})
		return err
	})
	b.Queue(readMembers, in.conversations, in.authors, in.keys, in.replies).
		Query(func(rows pgx.Rows) error {
			var n, hidden int64
			var replied *int64
			var used bool
			_, err := pgx.ForEachRow(rows, []any{&n, &hidden, &replied, &used}, func() error {
				o := all[n-1]
				k.hidden[o.author()] = hidden
				if replied != nil {
					k.replies[reply{o.message.ConversationID, *o.message.ReplyToID}] = *replied
				}
				if used {
					k.used[o.key()] = true
				}
				return nil
			})
			return err
		})
	if len(names.keys) > 0 {
		b.Queue(fmt.Sprintf(lookAtNames, skip), names.conversations, names.keys).
			Query(func(rows pgx.Rows) error {
				var conversation, user [16]byte
				var name string
				var free bool
				_, err := pgx.ForEachRow(rows, []any{&conversation, &name, &user, &free},
					func() error {
						k.addNamed(conversation, name, user)
						if free && k.free != nil {
							k.free[user] = true
						}
						return nil
					})
				return err
			})
	}
	return k, tx.Begin(ctx, b)
}

func distinct(ids [][16]byte) [][16]byte {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, model.CompareIDs)
	return slices.Compact(ids)
}

const (
	moveConversations = `
		UPDATE conversations AS c
		SET last_seq = i.seq, last_message_seq = i.seq, last_event_at = i.at, last_activity_at = i.at
		FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS i (id, seq, at) WHERE c.id = i.id`
	insertMessages = `
		INSERT INTO messages (id, conversation_id, seq, author_id, content, reply_to_id, created_at, idempotency_key, request_hash, tokens)
		SELECT i.id, i.conversation_id, i.seq, i.author_id, i.content, i.reply_to_id, i.created_at, i.idempotency_key, i.request_hash,
			array_to_tsvector(string_to_array(i.tokens, ' '))
		FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::uuid[], $5::text[], $6::uuid[], $7::timestamptz[], $8::text[], $9::bytea[],
			$10::text[])
			AS i (id, conversation_id, seq, author_id, content, reply_to_id, created_at, idempotency_key, request_hash, tokens)`
	insertSent = `
		INSERT INTO events (conversation_id, seq, kind, actor_id, message_id, data, at, position)
		SELECT i.conversation_id, i.seq, $1, i.actor_id, i.message_id, '{}', i.at, $2
		FROM unnest($3::uuid[], $4::bigint[], $5::uuid[], $6::uuid[], $7::timestamptz[])
			AS i (conversation_id, seq, actor_id, message_id, at)`
	insertMentioned = `
		INSERT INTO mentions (conversation_id, user_id, seq, message_id)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::uuid[])`
)

// write stores what was admitted, and commits.
func (a *admission) write(ctx context.Context, tx *store.PgxTx) error {
	b := &pgx.Batch{}
	var moved struct {
		ids  [][16]byte
		seqs []int64
		at   []time.Time
	}
	for id, p := range a.moved {
		moved.ids, moved.seqs, moved.at = append(moved.ids, id), append(moved.seqs, p.seq),
			append(moved.at, p.at)
	}
	b.Queue(moveConversations, moved.ids, moved.seqs, moved.at)
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
		rows.ids, rows.conversations = append(rows.ids, m.ID),
			append(rows.conversations, m.ConversationID)
		rows.seqs, rows.authors = append(rows.seqs, m.Seq), append(rows.authors, *m.AuthorID)
		rows.contents, rows.tokens = append(rows.contents, m.Content),
			append(rows.tokens, tokenText(m))
		rows.replies, rows.at = append(rows.replies, (*[16]byte)(m.ReplyToID)),
			append(rows.at, m.CreatedAt)
		rows.keys, rows.hashes = append(rows.keys, m.IdempotencyKey),
			append(rows.hashes, m.RequestHash)
		for _, id := range o.mentioned {
			mentions.conversations, mentions.seqs = append(mentions.conversations,
				m.ConversationID), append(mentions.seqs, m.Seq)
			mentions.messages, mentions.users = append(mentions.messages, m.ID),
				append(mentions.users, id)
		}
	}
	b.Queue(insertMessages, rows.ids, rows.conversations, rows.seqs, rows.authors, rows.contents,
		rows.replies, rows.at, rows.keys,
		rows.hashes, rows.tokens)
	b.Queue(insertSent, string(model.MessageAdded), a.position, rows.conversations, rows.seqs,
		rows.authors, rows.ids, rows.at)
	if len(mentions.users) > 0 {
		b.Queue(insertMentioned, mentions.conversations, mentions.users, mentions.seqs,
			mentions.messages)
	}
	return tx.Commit(ctx, b)
}
