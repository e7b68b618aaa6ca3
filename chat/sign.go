package chat

import (
	"encoding/json"
	"fmt"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/store"
)

// sign names people about whom something has changed that is no event. The topic says what; what is so now is read.
type sign struct {
	Users []model.UserID `json:"users"`
}

const (
	presenceTopic = "presence" // they have come or gone
	settingsTopic = "settings" // they let others know more than before, or less
)

var signCodec = natsbus.Codec[sign]{ //nolint:gochecknoglobals // a constant
	Encode: func(told sign) ([]byte, error) { return json.Marshal(told) },
	Decode: func(topic string, data []byte) (told sign, err error) {
		if topic != presenceTopic && topic != settingsTopic {
			return told, fmt.Errorf("%.64q is not a topic of signs", topic)
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

// SettingsChanged has live streams honour what a person lets others know now, once the transaction is in. It is for the
// change of settings alone, which has made sure of who asks.
func (s *Service) SettingsChanged(tx *store.Tx, id model.UserID) {
	tx.AfterCommit(func() { s.publishSign(settingsTopic, sign{Users: []model.UserID{id}}) })
}
