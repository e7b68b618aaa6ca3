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

// Signal names users about whom something has changed that is not an event. The topic says what it
// is; the new state is read from the database.
type Signal struct {
	Users []model.UserID `json:"users"`
	Seq   int64          `json:"seq,omitempty"` // on a read topic: up to which they have read
}

const (
	presenceTopic = "presence" // users have connected or disconnected
	settingsTopic = "settings" // users let others know more than before, or less
	readPrefix    = "read_"    // and a conversation: members have read further
)

// ReadTopic is where it is published that members of a conversation have read further.
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

// SettingsChanged makes live streams honour, after the commit, what a user lets others know. The
// caller has checked that the user asked for it.
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

// EndPresence deletes what is stored of when a user was connected, and publishes it after the
// commit.
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

// Signals is the bus of signals. Tests intercept it.
func (s *Service) Signals() *natsbus.Bus[Signal] { return s.signals }

// reconcileLost reconciles what lost signals were about; nil means all topics.
func (s *Service) reconcileLost(topics []string) {
	if topics == nil || slices.Contains(topics, presenceTopic) ||
		slices.Contains(topics, settingsTopic) {
		s.watches.lost.Notify()
	}
	s.markReadersDirty(topics)
}
