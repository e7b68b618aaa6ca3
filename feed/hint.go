package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/wake"
)

// Hint is published when a conversation has reached a seq. It may carry the newest events up to
// there, consecutive and in order of seq.
type Hint struct {
	Seq    int64
	Events []*model.Event
}

// maxHintEvents is how many events one hint carries at most. More events of one commit are in
// several hints.
const maxHintEvents = 32

const topicPrefix = "conversation_"

// Topic returns the topic of hints about a conversation.
func Topic(id model.ConversationID) string { return topicPrefix + id.String() }

func conversationOf(topic string) (id model.ConversationID, err error) {
	text, ok := strings.CutPrefix(topic, topicPrefix)
	if !ok {
		return id, fmt.Errorf("%.64q is not the topic of a conversation", topic)
	}
	return model.ParseID[model.ConversationID](text)
}

// Publish publishes hints with events. They must be consecutive events of one conversation, in
// order of seq, with the mark of the event before each, and committed. Publish never waits.
func (s *Service) Publish(events []*model.Event) {
	s.moved.Store(true)
	for some := range slices.Chunk(events, maxHintEvents) {
		last := some[len(some)-1]
		s.hints.Publish(Topic(last.ConversationID), Hint{Seq: last.Seq, Events: some})
	}
}

const (
	// hintVersion is raised when a node of an earlier version could decode an event but misread it.
	// While a cluster is updated, there are nodes of different versions. They use only the seq of
	// each other's hints.
	hintVersion = 2
	// maxHint is the size of a hint in bytes. Above it, only the seq is sent: to read a large event
	// on the nodes that follow is cheaper than to send it to all nodes.
	maxHint = 32 << 10
)

// wireHint is a hint between nodes, as JSON.
type wireHint struct {
	Version int            `json:"v"`
	Seq     int64          `json:"seq"`
	Events  []*model.Event `json:"events,omitempty"`
}

var hintCodec = natsbus.Codec[Hint]{ //nolint:gochecknoglobals // a constant
	Encode: encodeHint,
	Decode: decodeHint,
}

func encodeHint(h Hint) ([]byte, error) {
	data, err := json.Marshal(wireHint{hintVersion, h.Seq, h.Events})
	if err == nil && len(data) > maxHint {
		return json.Marshal(wireHint{Version: hintVersion, Seq: h.Seq})
	}
	return data, err
}

// decodeHint refuses a hint whose events could end a stream, or be delivered in another
// conversation or in the wrong order. It does not check whether the content is true: NATS must let
// only nodes publish.
func decodeHint(topic string, data []byte) (h Hint, err error) {
	if len(data) > maxHint {
		return Hint{}, fmt.Errorf("%d bytes are too many", len(data))
	}
	id, err := conversationOf(topic)
	if err != nil {
		return Hint{}, err
	}
	var wire struct { // a wireHint of any version
		Version int             `json:"v"`
		Seq     int64           `json:"seq"`
		Events  json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		return Hint{}, err
	}
	if wire.Seq < 1 {
		return Hint{}, fmt.Errorf("%d is not a seq", wire.Seq)
	}
	h.Seq = wire.Seq
	if wire.Version != hintVersion || wire.Events == nil {
		return h, nil
	}
	if err := json.Unmarshal(wire.Events, &h.Events); err != nil {
		return Hint{}, err
	}
	first := wire.Seq - int64(len(h.Events)) + 1
	if first < 1 {
		return Hint{}, fmt.Errorf("%d events cannot end with seq %d", len(h.Events), wire.Seq)
	}
	for i, e := range h.Events {
		if e == nil {
			return Hint{}, errors.New("an event is null")
		}
		if err := checkEvent(e, id, first+int64(i)); err != nil {
			return Hint{}, err
		}
	}
	lacksMessage := func(e *model.Event) bool { return e.MessageID != nil && e.Message == nil }
	if slices.ContainsFunc(h.Events, lacksMessage) {
		h.Events = nil // the feed reads them
	}
	return h, nil
}

// checkEvent checks that an event is the one with a seq in a conversation.
func checkEvent(e *model.Event, id model.ConversationID, seq int64) error {
	if e.ConversationID != id || e.Seq != seq || e.Kind == "" {
		return errors.New("the event is not the one that the hint is about")
	}
	if m := e.Message; m != nil &&
		(e.MessageID == nil || *e.MessageID != m.ID || m.ConversationID != id) {
		return errors.New("the message is not the one that the event is about")
	}
	switch e.Kind {
	case model.MessageAdded:
		if e.MessageID == nil || e.Message != nil && e.Message.Seq != seq {
			return errors.New("the event has another message, or none")
		}
	case model.MemberRemoved: // each follower decodes it, see endsWith
		var data model.MemberRemovedData
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return err
		}
	default:
	}
	return nil
}

// dirtyTopics are the topics whose messages may have been lost since Run reconciled them.
type dirtyTopics struct {
	wake.Notifier

	mu     sync.Mutex // guards what follows
	all    bool
	topics map[string]bool
}

func newDirtyTopics() *dirtyTopics {
	return &dirtyTopics{Notifier: wake.NewNotifier(), topics: map[string]bool{}}
}

// mark marks topics as dirty; nil marks all. natsbus.Bus calls it.
func (d *dirtyTopics) mark(topics []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = d.all || topics == nil
	for _, topic := range topics {
		d.topics[topic] = true
	}
	d.Notify()
}

// drain returns the dirty topics, and marks them clean.
func (d *dirtyTopics) drain() (topics []string, all bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	topics, all = slices.Collect(maps.Keys(d.topics)), d.all
	d.topics, d.all = map[string]bool{}, false
	return topics, all
}
