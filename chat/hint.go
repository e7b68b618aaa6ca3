package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"parley/model"
	"parley/pubsub"
	"parley/pubsub/natsbus"
)

// hint says that a conversation has reached a seq. events are what happened last, up to there and
// in order of seq, where the publisher had it at hand.
type hint struct {
	seq    int64
	events []*model.Event
	read   bool // a feed's own: what is missing has been waited for long enough
}

// maxTogether is how many events one hint has at most; more of one commit are told in several.
const maxTogether = 32

const topicPrefix = "conversation_"

func topicOf(id model.ConversationID) string { return topicPrefix + id.String() }

func conversationOf(topic string) (id model.ConversationID, err error) {
	text, ok := strings.CutPrefix(topic, topicPrefix)
	if !ok {
		return id, fmt.Errorf("%.64q is not the topic of a conversation", topic)
	}
	return model.ParseID[model.ConversationID](text)
}

// announce tells of events that a conversation has got one after the other.
func (s *Service) announce(events []*model.Event) {
	last := events[len(events)-1]
	s.publish(topicOf(last.ConversationID), hint{seq: last.Seq, events: events})
}

// joinNodes has hints go to the other nodes too, and theirs come to the bus. What comes from there
// goes to the bus alone, or it would go round.
func (s *Service) joinNodes() {
	codec := natsbus.Codec[hint]{Encode: encodeHint, Decode: decodeHint}
	s.nodes, s.publish = joinBus(s.opts.Nodes, "chat", s.hints, codec, s.lost.mark)
	s.nodesNews, s.publishNews = joinBus(s.opts.Nodes, "news", s.people, newsCodec, s.lostNews.mark)
	lostTyping := func([]string) {} // which is over soon
	s.nodesTyping, s.publishTyping = joinBus(s.opts.Nodes, "typing", s.typing, typingCodec, lostTyping)
	s.nodesSigns, s.publishSign = joinBus(s.opts.Nodes, "signs", s.signs, signCodec, s.lostSigns)
}

func joinBus[T any](
	nodes *natsbus.Conn, name string, bus *pubsub.Bus[T], codec natsbus.Codec[T], missed func([]string),
) (*natsbus.Link[T], func(string, T)) {
	link := natsbus.Join(nodes, name, bus, codec, missed)
	return link, func(topic string, message T) {
		bus.Publish(topic, message)
		link.Publish(topic, message)
	}
}

const (
	// hintVersion is raised when an event of a node before would be misread, although it can be
	// decoded. Nodes of different versions, as there are while a cluster is updated, then tell each
	// other the seq alone.
	hintVersion = 2
	// maxHint is in bytes. What is larger is cheaper to read, where somebody follows, than to send
	// to every node.
	maxHint = 32 << 10
)

// wireHint is a hint between nodes, as JSON.
type wireHint struct {
	Version int            `json:"v"`
	Seq     int64          `json:"seq"`
	Events  []*model.Event `json:"events,omitempty"`
}

func encodeHint(h hint) ([]byte, error) {
	data, err := json.Marshal(wireHint{hintVersion, h.seq, h.events})
	if err == nil && len(data) > maxHint {
		return json.Marshal(wireHint{Version: hintVersion, Seq: h.seq})
	}
	return data, err
}

// decodeHint believes no more of the shape of a hint than what a follower can stand: anything that
// could end its stream, or be delivered in the wrong conversation or place, is refused. That the
// content is true is for NATS to ensure, by letting nobody but nodes publish.
func decodeHint(topic string, data []byte) (h hint, err error) {
	if len(data) > maxHint {
		return hint{}, fmt.Errorf("%d bytes are too many", len(data))
	}
	id, err := conversationOf(topic)
	if err != nil {
		return hint{}, err
	}
	var wire struct { // a wireHint of any version
		Version int             `json:"v"`
		Seq     int64           `json:"seq"`
		Events  json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		return hint{}, err
	}
	if wire.Seq < 1 {
		return hint{}, fmt.Errorf("%d is not a seq", wire.Seq)
	}
	h.seq = wire.Seq
	if wire.Version != hintVersion || wire.Events == nil {
		return h, nil
	}
	if err := json.Unmarshal(wire.Events, &h.events); err != nil {
		return hint{}, err
	}
	first := wire.Seq - int64(len(h.events)) + 1
	if first < 1 {
		return hint{}, fmt.Errorf("%d events cannot end with seq %d", len(h.events), wire.Seq)
	}
	for i, e := range h.events {
		if e == nil {
			return hint{}, errors.New("an event is null")
		}
		if err := checkEvent(e, id, first+int64(i)); err != nil {
			return hint{}, err
		}
	}
	if slices.ContainsFunc(h.events, func(e *model.Event) bool { return e.MessageID != nil && e.Message == nil }) {
		h.events = nil // the followers read them
	}
	return h, nil
}

func checkEvent(e *model.Event, id model.ConversationID, seq int64) error {
	if e.ConversationID != id || e.Seq != seq || e.Kind == "" {
		return errors.New("the event is not the one that the hint is about")
	}
	if m := e.Message; m != nil && (e.MessageID == nil || *e.MessageID != m.ID || m.ConversationID != id) {
		return errors.New("the message is not the one that the event is about")
	}
	switch e.Kind {
	case model.MessageAdded:
		if e.MessageID == nil || e.Message != nil && e.Message.Seq != seq {
			return errors.New("the event has another message, or none")
		}
	case model.MemberRemoved: // which each follower reads, to see whether it is the one
		var data model.MemberRemovedData
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return err
		}
	default:
	}
	return nil
}

// lostHints are the topics on which hints may have been lost, until Run looks. Only that something
// was lost counts, not how often: so it marks and rings instead of queueing.
type lostHints struct {
	bell chan struct{}

	mu     sync.Mutex // guards what follows
	all    bool
	topics map[string]bool
}

func newLostHints() *lostHints {
	return &lostHints{bell: make(chan struct{}, 1), topics: map[string]bool{}}
}

// mark marks some topics; nil are all.
func (l *lostHints) mark(topics []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = l.all || topics == nil
	for _, topic := range topics {
		l.topics[topic] = true
	}
	select {
	case l.bell <- struct{}{}:
	default: // it rings already
	}
}

func (l *lostHints) take() (topics []string, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	topics, all = slices.Collect(maps.Keys(l.topics)), l.all
	l.topics, l.all = map[string]bool{}, false
	return topics, all
}
