package verify

import (
	"fmt"
	"math"
	"time"
)

// membership is what is known of one person in one conversation. Between the request for a change
// and its answer it may be either way, and nothing can be held against a server.
type membership struct {
	state   memberState
	version int    // changes with every step
	removed span   // where the last removal stands: exactly, or between two seqs
	gaps    []span // what was written while the person was away, for certain
}

type memberState int

const (
	stranger memberState = iota
	member
	leaving // the removal is requested
	out     // it is confirmed
	joining // adding them again is requested
)

func (c *conversation) memberOf(person string) *membership {
	m := c.members[person]
	if m == nil {
		m = &membership{state: stranger}
		c.members[person] = m
	}
	return m
}

// removing tells that a removal is requested.
func (l *ledger) removing(conversation, person string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.change(conversation, person, leaving)
	l.conversations[conversation].beginning(deed{kind: memberRemoved, person: person}, time.Time{})
}

// removed tells that a removal is confirmed, with a seq that is the event's own (from = to), or
// between the two.
func (l *ledger) removed(conversation, person string, at span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.change(conversation, person, out).removed = at
	l.conversations[conversation].tally(deed{kind: memberRemoved, person: person}).done++
}

// adding tells that the person is to be a member again. Where history begins with joining, what a
// stream of theirs has not received by now it may never.
func (l *ledger) adding(conversation, person string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.change(conversation, person, joining)
	l.conversations[conversation].beginning(deed{kind: memberAdded, person: person}, time.Time{})
	for _, s := range l.streamsOf(conversation, person) {
		s.excused = append(s.excused, span{s.last + 1, math.MaxInt64})
	}
}

// added tells that the person is a member again, since a seq, or one between two.
func (l *ledger) added(conversation, person string, at span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.change(conversation, person, member)
	l.conversations[conversation].tally(deed{kind: memberAdded, person: person}).done++
	if l.conversations[conversation].fromJoining {
		m.gaps = append(m.gaps, span{m.removed.to + 1, at.from - 1})
	}
	for _, s := range l.streamsOf(conversation, person) {
		s.excused[len(s.excused)-1].to = at.to - 1
	}
}

// streamsOf are the person's streams of a conversation whose history begins with joining.
func (l *ledger) streamsOf(conversation, person string) (found []*stream) {
	for _, s := range l.streams {
		if s.of.id == conversation && s.of.fromJoining && s.person == person {
			found = append(found, s)
		}
	}
	return found
}

func (l *ledger) change(conversation, person string, to memberState) *membership {
	m := l.conversations[conversation].memberOf(person)
	m.state = to
	m.version++
	return m
}

// mayNot reports whether the person is certainly no member now: then a server must not let them in.
func (l *ledger) mayNot(conversation, person string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.conversations[conversation].memberOf(person)
	return m.state == stranger || m.state == out
}

// ended tells that the end of a session is confirmed.
func (l *ledger) ended(session string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[session] = at
}

// admitted tells that somebody was let in who must not be.
func (l *ledger) admitted(who, conversation, expected, came string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := violation{conversation: conversation, stream: who}
	l.breach(&l.counts.Leaked, found.of("leaked", expected, came))
}

// forbidden says why the person may not receive a message, if they may not.
func (s *subscription) forbidden(seq int64) string {
	m := s.of.memberOf(s.person)
	switch {
	case m.state == stranger:
		return "nothing, for somebody who never was a member"
	case m.state == out && seq > m.removed.to:
		return fmt.Sprintf("nothing after the removal, seq %d", m.removed.to)
	case m.state == out && s.asked == m.version:
		return "nothing on a subscription that was asked for after the removal was confirmed"
	}
	for _, gap := range m.gaps {
		if gap.has(seq) {
			return fmt.Sprintf("nothing from seq %d to %d, when the person was no member", gap.from, gap.to)
		}
	}
	return ""
}
