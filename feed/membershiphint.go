package feed

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/store"
)

// MembershipHint is published to a user's topic when the user's membership of a conversation has
// begun, changed or ended. The user's streams read which.
type MembershipHint struct {
	ConversationID model.ConversationID `json:"conversationId"`
}

const userTopicPrefix = "person_"

// UserTopic returns the topic of hints about a user's memberships.
func UserTopic(id model.UserID) string { return userTopicPrefix + id.String() }

func userOf(topic string) (id model.UserID, err error) {
	text, ok := strings.CutPrefix(topic, userTopicPrefix)
	if !ok {
		return id, fmt.Errorf("%.64q is not the topic of a user", topic)
	}
	return model.ParseID[model.UserID](text)
}

var membershipHintCodec = natsbus.Codec[MembershipHint]{ //nolint:gochecknoglobals // a constant
	Encode: func(h MembershipHint) ([]byte, error) { return json.Marshal(h) },
	Decode: func(topic string, data []byte) (h MembershipHint, err error) {
		if _, err := userOf(topic); err != nil {
			return h, err
		}
		return h, json.Unmarshal(data, &h)
	},
}

// PublishMembership publishes, after the commit, a membership hint to each of the users.
func (s *Service) PublishMembership(
	tx *store.Tx, id model.ConversationID, users ...model.UserID,
) {
	tx.AfterCommit(func() {
		for _, user := range users {
			s.memberships.Publish(UserTopic(user), MembershipHint{id})
		}
	})
}

// InsertMembers inserts new memberships, with the transaction's position.
func InsertMembers(ctx context.Context, tx *store.Tx, rows []*model.ConversationMember) error {
	position, err := NextPosition(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.NewInsert().Model(&rows).Value("position", "?", position).Exec(ctx)
	return err
}

// RecordDeparture stores that a membership has ended with the event seq, for streams of the user
// that resume later, and publishes a membership hint after the commit.
func (s *Service) RecordDeparture(
	ctx context.Context, tx *store.Tx, id model.ConversationID, user model.UserID, seq int64,
) error {
	position, err := NextPosition(ctx, tx)
	if err != nil {
		return err
	}
	d := &model.Departure{UserID: user, ConversationID: id, Seq: seq}
	_, err = tx.NewInsert().Model(d).Value("position", "?", position).
		On("CONFLICT (user_id, conversation_id) DO UPDATE").
		Set("seq = EXCLUDED.seq").Set("position = EXCLUDED.position").Exec(ctx)
	s.PublishMembership(tx, id, user)
	return err
}
