package chat

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/store"
)

// sign names people about whom something has changed that is no event. The topic says what; what is
// so now is read.
type sign struct {
	Users []model.UserID `json:"users"`
	Seq   int64          `json:"seq,omitempty"` // up to which they have read, in a conversation
}

const (
	presenceTopic = "presence" // they have come or gone
	settingsTopic = "settings" // they let others know more than before, or less
	readPrefix    = "read_"    // and a conversation: they have read on
)

func readTopic(id model.ConversationID) string { return readPrefix + id.String() }

func checkSignTopic(topic string) error {
	if topic == presenceTopic || topic == settingsTopic {
		return nil
	}
	text, ok := strings.CutPrefix(topic, readPrefix)
	if !ok {
		return fmt.Errorf("%.64q is not a topic of signs", topic)
	}
	_, err := model.ParseID[model.ConversationID](text)
	return err
}

var signCodec = natsbus.Codec[sign]{ //nolint:gochecknoglobals // a constant
	Encode: func(told sign) ([]byte, error) { return json.Marshal(told) },
	Decode: func(topic string, data []byte) (told sign, err error) {
		if err := checkSignTopic(topic); err != nil {
			return told, err
		}
		if err := json.Unmarshal(data, &told); err != nil {
			return told, err
		}
		if len(told.Users) > presenceAtOnce {
			return told, fmt.Errorf("%d people are too many", len(told.Users))
		}
		return told, nil
	},
}

// SettingsChanged has live streams honour what a person lets others know now, once the transaction
// is in. It is for the change of settings alone, which has made sure of who asks.
func (s *Service) SettingsChanged(tx *store.Tx, id model.UserID) {
	tx.AfterCommit(func() { s.publishSign(settingsTopic, sign{Users: []model.UserID{id}}) })
}

// lostSigns repairs what signs have not said that were lost; nil are all topics.
func (s *Service) lostSigns(topics []string) {
	if topics == nil || slices.Contains(topics, presenceTopic) || slices.Contains(topics, settingsTopic) {
		s.watches.lost()
	}
	s.lostReads(topics)
}
