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
	begun, confirmed, reported int         // reported counts its events
	since                      time.Time   // when the first was begun
	at                         []time.Time // of the confirmed ones, if their answers contain a time
}

// fact is an event as every stream has to deliver it.
type fact struct {
	action
	at    time.Time // zero as long as only sources without a time delivered the event
	count int
	text  string // for people
}

func (e event) fact() fact {
	f := fact{
		action: action{kind: e.Kind, person: e.person(), emoji: e.Emoji}, at: e.At, count: e.Count,
		text: e.String(),
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
func (h *history) changed(conversation string, a action, m message, content string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conversations[conversation]
	found := violation{conversation: conversation, seq: m.Seq, stream: "the answer to a change"}
	if !h.checkMessage(c, m, found) {
		return
	}
	t := c.tally(a)
	t.confirmed++
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
	s, ok := c.byID[m.ID], false
	switch of, edited := c.edits[m.Content]; {
	case m.Content == "":
		ok = s != nil && c.tally(action{kind: messageDeleted, message: m.ID}).begun > 0
	case edited:
		ok = s != nil && of == m.ID
	default:
		s, ok = c.sends[m.Content]
	}
	if !ok {
		h.breach(found.of(invented, "messages that were sent, as a client wrote them", m.String()))
		return false
	}
	if s.seq != 0 && s.seq != m.Seq {
		once := fmt.Sprintf("%s once, with seq %d", quoted(m.Content), s.seq)
		h.breach(found.of(doubled, once, m.String()))
		return false
	}
	if other := c.byID[m.ID]; s.id != "" && s.id != m.ID || other != nil && other != s {
		h.breach(found.of(altered, "each message under an id of its own", m.String()))
		return false
	}
	s.id, s.seq = m.ID, m.Seq
	c.byID[m.ID] = s
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
	before, known := c.events[e.Seq]
	switch {
	case known && !before.agrees(f):
		h.breach(found.of(altered, before.text, e.String()))
		return false
	case known && before.at.IsZero():
		before.at = f.at
		c.events[e.Seq] = before
		return true
	case known || e.isBare():
		return true
	}
	if e.Kind != messageAdded {
		t := c.tally(f.action)
		if t.begun == 0 {
			h.breach(found.of(invented, "an event that a client caused", e.String()))
			return false
		}
		if t.reported == t.begun {
			h.breach(found.of(doubled, fmt.Sprintf("at most %d of these events", t.begun),
				e.String()))
			return false
		}
		t.reported++
	}
	c.events[e.Seq] = f
	return true
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
		case e.Seq > last+1:
			h.breach(found.of(lost, fmt.Sprintf("seq %d", last+1), e.String()))
		}
		last = e.Seq
		if h.record(c, e, found) {
			h.checkCount(e, counts, found)
		}
	}
	for seq, f := range c.events {
		if seq > last {
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
	times := map[action][]time.Time{}
	for _, f := range c.events {
		times[f.action] = append(times[f.action], f.at)
	}
	for a, t := range c.actions {
		if t.reported < t.confirmed {
			expected := fmt.Sprintf("%v %d times, as it was confirmed", a, t.confirmed)
			h.breach(found.of(lost, expected, fmt.Sprint(t.reported)))
			continue
		}
		for _, at := range t.at {
			if !slices.ContainsFunc(times[a], at.Equal) {
				h.breach(found.of(altered, fmt.Sprintf("%v at %v", a, at),
					fmt.Sprint("at ", times[a])))
			}
		}
	}
}

// additions returns the seqs at which a user was added, in order.
func (c *conversation) additions(person string) (seqs []int64) {
	for seq, f := range c.events {
		if f.kind == memberAdded && f.person == person {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}
