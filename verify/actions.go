package verify

import (
	"fmt"
	"slices"
	"time"
)

// action is a change of a conversation by a client, other than a send. It becomes one event.
type action struct {
	kind    string // of the event
	message string // id; empty if the action is not about a message
	person  string // id of the user that the action is about; empty if there is none
	emoji   string
}

// tally counts how often an action was performed. Only edits and changes of members are performed
// more than once.
type tally struct {
	begun int
	since time.Time   // when the first was begun
	acked []time.Time // when each confirmed one was answered
	at    []time.Time // of the confirmed ones, if their answers contain a time
	facts []*fact     // its events
}

// fact is an event as every stream has to deliver it.
type fact struct {
	action
	at    time.Time // zero as long as only sources without a time delivered the event
	count int
	text  string // for people
	seq   int64
	born  int // the history that it was written in
}

func (e event) fact() fact {
	f := fact{
		action: action{kind: e.Kind, person: e.person(), emoji: e.Emoji}, at: e.At, count: e.Count,
		text: e.String(), seq: e.Seq,
	}
	if m := e.subject(); m != nil {
		f.message = m.ID
	}
	return f
}

// agrees reports whether two sources delivered the same event. A message that is hidden from one of
// them is not compared.
func (f fact) agrees(g fact) bool {
	if f.message == "" || g.message == "" {
		f.message, g.message = "", ""
	}
	sameTime := f.at.IsZero() || g.at.IsZero() || f.at.Equal(g.at)
	return f.action == g.action && f.count == g.count && sameTime
}

func (c *conversation) tally(a action) *tally {
	t := c.actions[a]
	if t == nil {
		t = &tally{}
		c.actions[a] = t
	}
	return t
}

// begin records that a client begins an action. Must be called with history.mu held.
func (c *conversation) begin(a action, at time.Time) {
	t := c.tally(a)
	if t.begun == 0 {
		t.since = at
	}
	t.begun++
}

// changing records a change of a message before the first attempt. content is the new content of an
// edit; each is used once.
func (h *history) changing(conversation string, a action, content string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conversations[conversation]
	c.begin(a, at)
	if a.kind == messageEdited {
		c.edits[content] = a.message
	}
}

// changed records the answer to a change of a message.
func (h *history) changed(
	conversation string, a action, m message, content string, answered time.Time,
) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conversations[conversation]
	found := violation{conversation: conversation, seq: m.Seq, stream: "the answer to a change"}
	if !h.checkMessage(c, m, found) {
		return
	}
	t := c.tally(a)
	t.acked = append(t.acked, answered)
	h.counts.Changed++
	var at *time.Time
	switch a.kind {
	case messageEdited:
		at = m.EditedAt
	case messageDeleted:
		at, content = m.DeletedAt, ""
	default:
		return
	}
	if m.Content != content || at == nil {
		h.breach(found.of(altered, quoted(content)+", and the time of the change", m.String()))
		return
	}
	t.at = append(t.at, *at)
}

// checkMessage compares a message that a server delivered with what is known about it: who could
// have written its content, its id and its seq. It reports whether they agree.
func (h *history) checkMessage(c *conversation, m message, found violation) bool {
	known, ok := c.messages[m.ID], false
	var s *send
	switch of, edited := c.edits[m.Content]; {
	case m.Content == "":
		ok = known != nil && c.tally(action{kind: messageDeleted, message: m.ID}).begun > 0
	case edited:
		ok = known != nil && of == m.ID
	default:
		s, ok = c.sends[m.Content]
	}
	if !ok {
		h.breach(found.of(invented, "messages that were sent, as a client wrote them", m.String()))
		return false
	}
	if known != nil {
		if known.seq != m.Seq {
			once := fmt.Sprintf("%s once, with seq %d", quoted(m.Content), known.seq)
			h.breach(found.of(doubled, once, m.String()))
			return false
		}
		if s != nil && s != known.send {
			h.breach(found.of(altered, "each message under an id of its own", m.String()))
			return false
		}
		return true
	}
	return h.store(c, s, m, found)
}

// store keeps a message of a send that was not known by its id.
func (h *history) store(c *conversation, s *send, m message, found violation) bool {
	born := h.historyAt(m.CreatedAt)
	of := c.of(born, m.Seq)
	for _, other := range s.stored {
		switch {
		case c.of(other.born, other.seq).with(of).none(): // that one is undone
		case other.seq == m.Seq:
			h.breach(found.of(altered, "each message under an id of its own", m.String()))
			return false
		default:
			once := fmt.Sprintf("%s once, with seq %d", quoted(m.Content), other.seq)
			h.breach(found.of(doubled, once, m.String()))
			return false
		}
	}
	new := &stored{send: s, id: m.ID, seq: m.Seq, born: born}
	s.stored = append(s.stored, new)
	c.messages[m.ID] = new
	return true
}

// record keeps an event that a server delivered, and compares it with what is known about it. It
// reports whether they agree.
func (h *history) record(c *conversation, e event, found violation) bool {
	if m := e.subject(); m != nil && !h.checkMessage(c, *m, found) {
		return false
	}
	if expected := e.contradiction(); expected != "" {
		h.breach(found.of(altered, expected, e.String()))
		return false
	}
	f := e.fact()
	f.born = h.historyAt(e.written())
	of := c.of(f.born, f.seq)
	for _, before := range c.events[e.Seq] {
		if c.of(before.born, before.seq).with(of).none() {
			continue
		}
		if !before.agrees(f) {
			h.breach(found.of(altered, before.text, e.String()))
			return false
		}
		if before.at.IsZero() {
			before.at = f.at
		}
		return true
	}
	if e.isBare() {
		return true
	}
	if e.Kind != messageAdded {
		t := c.tally(f.action)
		if t.begun == 0 {
			h.breach(found.of(invented, "an event that a client caused", e.String()))
			return false
		}
		if c.reported(t, f.born) == t.begun {
			h.breach(found.of(doubled, fmt.Sprintf("at most %d of these events", t.begun),
				e.String()))
			return false
		}
		t.facts = append(t.facts, &f)
	}
	c.events[e.Seq] = append(c.events[e.Seq], &f)
	return true
}

// reported returns how many events of an action are in a history.
func (c *conversation) reported(t *tally, number int) (n int) {
	for _, f := range t.facts {
		if c.of(f.born, f.seq).has(number) {
			n++
		}
	}
	return n
}

// checkLog compares all events of a conversation, as its owner follows them from the first, with
// the recorded ones: each event that a server delivered, each action as often as it was confirmed,
// and nothing else.
func (h *history) checkLog(conversation string, list []event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conversations[conversation]
	found := violation{conversation: conversation, stream: "the log of events"}
	last := int64(0)
	counts := map[action]int{}
	for _, e := range list {
		found.seq = e.Seq
		switch {
		case e.Seq <= last:
			h.breach(found.of(reordered, fmt.Sprintf("a seq above %d", last), e.String()))
			continue
		case e.covers() > last+1:
			h.breach(found.of(lost, fmt.Sprintf("seq %d", last+1), e.String()))
		}
		last = e.Seq
		if h.record(c, e, found) {
			h.checkCount(e, counts, found)
		}
	}
	for seq := range c.events {
		if f, ok := c.fact(seq, c.newest()); ok && seq > last {
			found.seq = seq
			h.breach(found.of(lost, f.text+", which an answer or a stream contained", "nothing"))
		}
	}
	h.checkActions(c)
}

// checkCount checks the number of reactions in an event. counts has those of the events before it,
// by message and emoji.
func (h *history) checkCount(e event, counts map[action]int, found violation) {
	if e.Kind != reactionAdded && e.Kind != reactionRemoved || e.Message == nil {
		return
	}
	of := action{message: e.Message.ID, emoji: e.Emoji}
	if e.Kind == reactionAdded {
		counts[of]++
	} else {
		counts[of]--
	}
	if e.Count != counts[of] {
		expected := fmt.Sprintf("a count of %d", counts[of])
		h.breach(found.of(altered, expected, fmt.Sprintf("%d: %s", e.Count, e)))
	}
}

// checkActions finds confirmed actions without an event, and events with another time than the
// answer.
func (h *history) checkActions(c *conversation) {
	found := violation{conversation: c.id, stream: "the log of events"}
	for a, t := range c.actions {
		var times []time.Time
		for _, f := range t.facts {
			if c.of(f.born, f.seq).has(c.newest()) {
				times = append(times, f.at)
			}
		}
		kept := slices.DeleteFunc(slices.Clone(t.acked), h.undoable)
		if len(times) < len(kept) {
			expected := fmt.Sprintf("%v %d times, as it was confirmed", a, len(kept))
			h.breach(found.of(lost, expected, fmt.Sprint(len(times))))
			continue
		}
		for _, at := range t.at {
			if !slices.ContainsFunc(times, at.Equal) && !h.undoableAt(at) {
				h.breach(found.of(altered, fmt.Sprintf("%v at %v", a, at),
					fmt.Sprint("at ", times)))
			}
		}
	}
}

// additions returns the seqs at which a user was added in a history, in order.
func (c *conversation) additions(person string, number int) (seqs []int64) {
	for _, f := range c.tally(action{kind: memberAdded, person: person}).facts {
		if c.of(f.born, f.seq).has(number) {
			seqs = append(seqs, f.seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}
