package verify

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// history records what clients did and what servers delivered, and reports each violated invariant.
// It knows nothing about servers, has no clock and starts no goroutines. Its methods may be called
// concurrently.
//
// The invariants:
//
//   - Each stream of a member delivers every stored message that the member may see, once, in order
//     of seq. Each stream of events does so for every event, and leaves out no seq.
//   - An acknowledged send is stored once, under the seq of its answer. That seq is higher than
//     every seq that was acknowledged before the send began. An acknowledged edit, deletion,
//     reaction or change of members is one event.
//   - All streams deliver the same events, and a client caused each of them.
//   - Non-members receive nothing. A removed member receives nothing after the confirmed removal.
//     If a conversation's history begins with joining, members receive nothing that was written
//     while they were not members.
//   - A session that has ended receives nothing that was begun more than the grace after its end.
//   - A server ends a stream for good only if the user is not a member.
type history struct {
	grace time.Duration // how long a node may take to notice that a session has ended

	mu            sync.Mutex // guards the fields below, and everything reachable from them
	conversations map[string]*conversation
	streams       []*stream
	everythings   []*everything
	sessions      map[string]time.Time // ended sessions, by id: when the end was confirmed
	restores      []restore
	counts        counts
	first         *violation
}

// counts are the figures of the report.
type counts struct {
	Acknowledged, Changed, Retried, Repeated      int
	Lost, Doubled, Reordered, Leaked, OtherBreach int
	// streams that started over because their cursor was too old, or lost
	Resets int
	// streams of one conversation that were told that its history has changed
	Told       int
	Undone     int            // acknowledged messages that a restore has undone
	Deliveries map[string]int // by the label of the stream
	// LateAfterEnd is the longest time from the end of a session to the begin of a change that the
	// session still received.
	LateAfterEnd time.Duration
}

func (c counts) broken() bool {
	return c.Lost+c.Doubled+c.Reordered+c.Leaked+c.OtherBreach > 0
}

// conversation is everything known about one conversation.
type conversation struct {
	id          string
	fromJoining bool               // history begins with joining
	sends       map[string]*send   // by content
	messages    map[string]*stored // by id
	edits       map[string]string  // message ids, by the content of the edit
	actions     map[action]*tally
	// by seq: events that an answer, a stream or a list has contained; one of each history
	events    map[int64][]*fact
	keeps     []int64 // by restore: the last seq before those that it has undone
	confirmed int64   // the highest seq that an answer has confirmed
	members   map[string]*membership
}

// send is a message that a client wants to store.
type send struct {
	begun     time.Time
	acked     time.Time // zero until it is acknowledged for the first time
	confirmed int64     // the conversation's highest confirmed seq when the send began
	stored    []*stored // more than one only if a restore has undone the ones before
}

// stored is a message that a send has stored.
type stored struct {
	send  *send
	id    string
	seq   int64
	born  int       // the history that it was written in
	acked time.Time // zero for never
}

func newHistory(grace time.Duration) *history {
	return &history{
		grace: grace, conversations: map[string]*conversation{}, sessions: map[string]time.Time{},
		counts: counts{Deliveries: map[string]int{}},
	}
}

// created records a conversation and its members.
func (h *history) created(id string, fromJoining bool, people ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &conversation{
		id: id, fromJoining: fromJoining, sends: map[string]*send{},
		messages: map[string]*stored{}, edits: map[string]string{},
		keeps:   make([]int64, len(h.restores)),
		actions: map[action]*tally{{kind: conversationCreated}: {begun: 1, acked: []time.Time{{}}}},
		events:  map[int64][]*fact{}, members: map[string]*membership{},
	}
	for _, person := range people {
		c.members[person] = &membership{state: member}
	}
	h.conversations[id] = c
}

// sending records a message before the first attempt to send it. Each content is sent once.
func (h *history) sending(conversation, content string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conversations[conversation]
	c.sends[content] = &send{begun: at, confirmed: c.confirmed}
}

// retried records that the outcome of an attempt is unknown, and that the request is repeated.
func (h *history) retried() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts.Retried++
}

// acknowledged records the answer to a send. A repeated send must get the same answer.
func (h *history) acknowledged(conversation string, m message, content string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conversations[conversation]
	s := c.sends[content]
	found := violation{conversation: conversation, seq: m.Seq, stream: "the answer to a send"}
	if m.Content != content {
		h.breach(found.of(altered, quoted(content), quoted(m.Content)))
		return
	}
	first := s.acked.IsZero()
	if first && m.Seq <= s.confirmed {
		above := fmt.Sprintf("a seq above %d, which was confirmed before this send began",
			s.confirmed)
		h.breach(found.of(reordered, above, fmt.Sprintf("seq %d", m.Seq)))
	}
	if !h.record(c, arrival(m), found) {
		return
	}
	stored := c.messages[m.ID]
	of := c.of(stored.born, stored.seq)
	if stored.acked.IsZero() {
		stored.acked = at
		if !of.has(c.newest()) { // the answer comes after the restore
			h.counts.Undone++
		}
	}
	if of.has(c.newest()) {
		c.confirmed = max(c.confirmed, m.Seq)
	}
	if !first {
		h.counts.Repeated++
		return
	}
	h.counts.Acknowledged++
	s.acked = at
}

// failed records that the outcome of a request stays unknown, or that a server refused what the
// client may do.
func (h *history) failed(conversation, content string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := violation{conversation: conversation, stream: "the answer to a send"}
	h.breach(found.of(refused, "that "+quoted(content)+" is stored", err.Error()))
}

// confirmedSeq returns the highest confirmed seq.
func (h *history) confirmedSeq(conversation string) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conversations[conversation].confirmed
}

// ackedAt returns when a message was acknowledged: zero if it is not acknowledged yet.
func (h *history) ackedAt(conversation, content string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.conversations[conversation].sends[content]; s != nil {
		return s.acked
	}
	return time.Time{}
}

// checkList compares all messages of a conversation, as its owner reads them page by page, with the
// recorded ones.
func (h *history) checkList(conversation string, list []message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conversations[conversation]
	listed := map[int64]bool{}
	last := int64(0)
	for _, m := range list {
		found := violation{conversation: conversation, seq: m.Seq, stream: "the list of messages"}
		switch {
		case listed[m.Seq]:
			h.breach(found.of(doubled, fmt.Sprintf("seq %d once", m.Seq), m.String()+" again"))
			continue
		case m.Seq < last:
			h.breach(found.of(reordered, fmt.Sprintf("a seq above %d", last), m.String()))
		}
		last = max(last, m.Seq)
		listed[m.Seq] = h.record(c, arrival(m), found)
	}
	for _, seq := range c.seqs() {
		if f, ok := c.fact(seq, c.newest()); ok && f.kind == messageAdded && !listed[seq] {
			found := violation{conversation: conversation, seq: seq, stream: "the list of messages"}
			h.breach(found.of(lost, f.text+", which an answer or a stream contained", "nothing"))
		}
	}
}

// seqs returns the seqs of the recorded events, in order.
func (c *conversation) seqs() []int64 { return slices.Sorted(maps.Keys(c.events)) }

// checkComplete checks, at the end, that each stream has received everything that it must.
func (h *history) checkComplete() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.streams {
		s.checkComplete()
	}
	for _, e := range h.everythings {
		e.checkComplete()
	}
}

// result returns the figures so far, and the first violation: nil if there is none.
func (h *history) result() (counts, *violation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	counts := h.counts
	counts.Deliveries = maps.Clone(counts.Deliveries)
	return counts, h.first
}

// breach counts a violation, and keeps the first. Must be called with h.mu held.
func (h *history) breach(v violation) {
	switch v.kind {
	case lost:
		h.counts.Lost++
	case doubled:
		h.counts.Doubled++
	case reordered:
		h.counts.Reordered++
	case leaked:
		h.counts.Leaked++
	default:
		h.counts.OtherBreach++
	}
	if h.first == nil {
		h.first = &v
	}
}
