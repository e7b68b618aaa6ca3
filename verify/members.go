package verify

import (
	"fmt"
	"math"
	"time"
)

// membership is everything known about one user in one conversation. Between the request for a
// change and its answer either state is possible, and no violation is reported.
type membership struct {
	state   memberState
	version int    // increases with every step
	removed span   // the seq of the last removal: exact, or between two
	gaps    []span // seqs that were certainly written while the user was not a member
}

type memberState int

const (
	neverMember memberState = iota
	member
	leaving // the removal is requested
	removed // the removal is confirmed
	joining // adding the user again is requested
)

func (c *conversation) membershipOf(person string) *membership {
	m := c.members[person]
	if m == nil {
		m = &membership{state: neverMember}
		c.members[person] = m
	}
	return m
}

// removing records that a removal is requested.
func (h *history) removing(conversation, person string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setState(conversation, person, leaving)
	h.conversations[conversation].begin(action{kind: memberRemoved, person: person}, time.Time{})
}

// removed records that a removal is confirmed. Its event has the seq at.from if at.from = at.to,
// else one between the two.
func (h *history) removed(conversation, person string, at span, answered time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setState(conversation, person, removed).removed = at
	h.confirm(conversation, action{kind: memberRemoved, person: person}, answered)
}

// adding records that adding a user again is requested. If history begins with joining, the user's
// streams need not deliver what they have not delivered by now.
func (h *history) adding(conversation, person string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setState(conversation, person, joining)
	h.conversations[conversation].begin(action{kind: memberAdded, person: person}, time.Time{})
	for _, s := range h.streamsFromJoining(conversation, person) {
		s.excused = append(s.excused, span{s.last + 1, math.MaxInt64})
	}
}

// added records that a user is a member again, since the seq at.from if at.from = at.to, else since
// one between the two.
func (h *history) added(conversation, person string, at span, answered time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.setState(conversation, person, member)
	h.confirm(conversation, action{kind: memberAdded, person: person}, answered)
	if h.conversations[conversation].fromJoining {
		m.gaps = append(m.gaps, span{m.removed.to + 1, at.from - 1})
	}
	for _, s := range h.streamsFromJoining(conversation, person) {
		s.excused[len(s.excused)-1].to = at.to - 1
	}
}

func (h *history) confirm(conversation string, a action, answered time.Time) {
	t := h.conversations[conversation].tally(a)
	t.acked = append(t.acked, answered)
}

// streamsFromJoining returns the user's streams of a conversation whose history begins with
// joining.
func (h *history) streamsFromJoining(conversation, person string) (found []*stream) {
	for _, s := range h.streams {
		if s.of.id == conversation && s.of.fromJoining && s.person == person {
			found = append(found, s)
		}
	}
	return found
}

func (h *history) setState(conversation, person string, to memberState) *membership {
	m := h.conversations[conversation].membershipOf(person)
	m.state = to
	m.version++
	return m
}

// isNonMember reports whether the user is certainly not a member now.
func (h *history) isNonMember(conversation, person string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.conversations[conversation].membershipOf(person)
	return m.state == neverMember || m.state == removed
}

// ended records that the end of a session is confirmed.
func (h *history) ended(session string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[session] = at
}

// hasEnded reports whether the end of a session is confirmed, and not undone.
func (h *history) hasEnded(session string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.sessions[session].IsZero()
}

// leakedTo records that a server let in a client that it has to refuse.
func (h *history) leakedTo(client, conversation, expected, came string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := violation{conversation: conversation, stream: client}
	h.breach(found.of(leaked, expected, came))
}

// forbidden returns what was expected instead if the user may not receive a seq, and "" otherwise.
// It does not forbid what is undone: the membership is that of the newest history, with other seqs.
func (s *subscription) forbidden(seq int64, undone bool) string {
	m := s.membership()
	switch {
	case m.state == neverMember:
		return "nothing, because the user never was a member"
	case undone:
		return ""
	case m.state == removed && seq > m.removed.to:
		return fmt.Sprintf("nothing after the removal, seq %d", m.removed.to)
	case m.state == removed && s.version == m.version:
		return "nothing on a subscription that was requested after the removal was confirmed"
	}
	for _, gap := range m.gaps {
		if gap.has(seq) {
			return fmt.Sprintf("nothing from seq %d to %d, when the user was not a member",
				gap.from, gap.to)
		}
	}
	return ""
}
