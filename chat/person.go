package chat

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/store"
)

// news is a hint to one person's streams: something has changed between them and a conversation.
// What it is they read.
type news struct {
	ConversationID model.ConversationID `json:"conversationId"`
}

const personPrefix = "person_"

func personTopic(id model.UserID) string { return personPrefix + id.String() }

func personOf(topic string) (id model.UserID, err error) {
	text, ok := strings.CutPrefix(topic, personPrefix)
	if !ok {
		return id, fmt.Errorf("%.64q is not the topic of a person", topic)
	}
	return model.ParseID[model.UserID](text)
}

var newsCodec = natsbus.Codec[news]{ //nolint:gochecknoglobals // a constant
	Encode: func(n news) ([]byte, error) { return json.Marshal(n) },
	Decode: func(topic string, data []byte) (n news, err error) {
		if _, err := personOf(topic); err != nil {
			return n, err
		}
		return n, json.Unmarshal(data, &n)
	},
}

// tell has people's streams look at a conversation, once the transaction is in.
func (s *Service) tell(tx *store.Tx, id model.ConversationID, people ...model.UserID) {
	tx.AfterCommit(func() {
		for _, user := range people {
			s.publishNews(personTopic(user), news{id})
		}
	})
}

// nextPosition is where a transaction stands among all: an expression for the column position. On
// PostgreSQL it is the id of the transaction, and so the same for all that it writes; on SQLite the
// next of a counter, whose transactions take turns.
func nextPosition(ctx context.Context, tx *store.Tx) (schema.QueryAppender, error) {
	if tx.Postgres() {
		return bun.SafeQuery("pg_current_xact_id()::text::bigint"), nil
	}
	_, err := tx.ExecContext(ctx, "UPDATE event_position SET last = last + 1")
	return bun.SafeQuery("(SELECT last FROM event_position)"), err
}

// horizon is the position below which everything is settled: whatever is stored there is stored by
// now, and nothing will come, not even after a crash of PostgreSQL: see noteReached.
func (s *Service) horizon(ctx context.Context) (position int64, err error) {
	q := s.db.NewSelect().Table("stream_epoch").
		ColumnExpr("least(pg_snapshot_xmin(pg_current_snapshot())::text::bigint, reached + 1)")
	if !s.db.Postgres() {
		q = s.db.NewSelect().Table("event_position").ColumnExpr("last + 1")
	}
	return position, store.Error(q.Scan(ctx, &position))
}

func insertMembers(ctx context.Context, tx *store.Tx, rows []*model.ConversationMember) error {
	position, err := nextPosition(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.NewInsert().Model(&rows).Value("position", "?", position).Exec(ctx)
	return err
}

// recordDeparture keeps that a membership has ended, for the person's streams that are not there to
// be told.
func (s *Service) recordDeparture(
	ctx context.Context, tx *store.Tx, id model.ConversationID, user model.UserID, seq int64,
) error {
	position, err := nextPosition(ctx, tx)
	if err != nil {
		return err
	}
	d := &model.Departure{UserID: user, ConversationID: id, Seq: seq}
	_, err = tx.NewInsert().Model(d).Value("position", "?", position).On("CONFLICT (user_id, conversation_id) DO UPDATE").
		Set("seq = EXCLUDED.seq").Set("position = EXCLUDED.position").Exec(ctx)
	s.tell(tx, id, user)
	return err
}
