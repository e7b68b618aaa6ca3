package live

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/store"
)

// Signal names users whose state has changed by something that is not an event. The topic says
// which state; the new one is read from the database, except Seq.
type Signal struct {
	Users []model.UserID `json:"users"`
	Seq   int64          `json:"seq,omitempty"` // on a read topic: the users have read up to it
}

const (
	presenceTopic = "presence" // users have connected or disconnected
	settingsTopic = "settings" // users have changed what others may know about them
	readPrefix    = "read_"    // with a conversation's id: members have read further
)

// ReadTopic returns the topic of signals that members of a conversation have read further.
func ReadTopic(id model.ConversationID) string { return readPrefix + id.String() }

func checkSignalTopic(topic string) error {
	if topic == presenceTopic || topic == settingsTopic {
		return nil
	}
	text, ok := strings.CutPrefix(topic, readPrefix)
	if !ok {
		return fmt.Errorf("%.64q is not a topic of signals", topic)
	}
	_, err := model.ParseID[model.ConversationID](text)
	return err
}

var signalCodec = natsbus.Codec[Signal]{ //nolint:gochecknoglobals // a constant
	Encode: func(sig Signal) ([]byte, error) { return json.Marshal(sig) },
	Decode: func(topic string, data []byte) (sig Signal, err error) {
		if err := checkSignalTopic(topic); err != nil {
			return sig, err
		}
		if err := json.Unmarshal(data, &sig); err != nil {
			return sig, err
		}
		if len(sig.Users) > presenceBatch {
			return sig, fmt.Errorf("%d users are too many", len(sig.Users))
		}
		return sig, nil
	},
}

// SettingsChanged publishes, after the commit, that a user has changed what others may know. The
// caller has authorized the change.
func (s *Service) SettingsChanged(tx *store.Tx, id model.UserID) {
	tx.AfterCommit(func() {
		s.signals.Publish(settingsTopic, Signal{Users: []model.UserID{id}})
	})
}

// PublishRead publishes, after the commit, that a member has read a conversation up to a seq.
func (s *Service) PublishRead(
	tx *store.Tx, id model.ConversationID, user model.UserID, seq int64,
) {
	tx.AfterCommit(func() {
		s.signals.Publish(ReadTopic(id), Signal{Users: []model.UserID{user}, Seq: seq})
	})
}

// EndPresence deletes the stored presence of a user, and publishes that after the commit.
func (s *Service) EndPresence(ctx context.Context, tx *store.Tx, id model.UserID) error {
	for _, table := range []string{"presences", "sightings"} {
		if _, err := tx.NewDelete().Table(table).Where("user_id = ?", id).Exec(ctx); err != nil {
			return err
		}
	}
	tx.AfterCommit(func() {
		s.signals.Publish(presenceTopic, Signal{Users: []model.UserID{id}})
	})
	return nil
}

// Signals returns the bus of signals, which tests intercept.
func (s *Service) Signals() *natsbus.Bus[Signal] { return s.signals }

// reconcileLost reconciles the topics whose signals may have been lost; nil means all topics.
func (s *Service) reconcileLost(topics []string) {
	if topics == nil || slices.Contains(topics, presenceTopic) ||
		slices.Contains(topics, settingsTopic) {
		s.watches.lost.Notify()
	}
	s.markReadersDirty(topics)
}
