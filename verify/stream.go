package verify

import (
	"fmt"
	"slices"
	"time"
)

// stream is one follower's view of one conversation, through all its connections.
type stream struct {
	ledger   *ledger
	of       *conversation
	name     string
	person   string
	last     int64 // the seq to resume after
	received bits
	missed   map[int64]bool // what was counted as lost
	excused  []span         // what the person was not to see, or not any more, when they came back
	steps    []step
}

// span is a range of seqs, both ends included.
type span struct{ from, to int64 }

func (s span) has(seq int64) bool { return s.from <= seq && seq <= s.to }

// step is what a follower has done, or what came.
type step struct {
	at   time.Time
	what string
	n    int  // of deliveries, which are told together
	seqs span // of these
}

func (s step) String() string {
	switch s.n {
	case 0:
		return s.what
	case 1:
		return fmt.Sprintf("received seq %d", s.seqs.to)
	}
	return fmt.Sprintf("received %d messages, seq %d to %d", s.n, s.seqs.from, s.seqs.to)
}

// subscription is one try to follow: from a request to its end.
type subscription struct {
	*stream
	session string
	asked   int // the membership's version when it was requested
	owedAll bool
}

// stream begins a view of a conversation.
func (l *ledger) stream(name, conversation, person string) *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &stream{ledger: l, of: l.conversations[conversation], name: name, person: person, missed: map[int64]bool{}}
	l.streams = append(l.streams, s)
	return s
}

// subscribing tells that the stream is asked for, before it is.
func (s *stream) subscribing(session string) *subscription {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	m := s.of.memberOf(s.person)
	return &subscription{stream: s, session: session, asked: m.version, owedAll: m.state == member}
}

// position is the seq to resume after.
func (s *stream) position() int64 {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.last
}

// note keeps a step for the story of a violation.
func (s *stream) note(at time.Time, format string, args ...any) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.keep(step{at: at, what: fmt.Sprintf(format, args...)})
}

// keptSteps of a stream are told with its violation.
const keptSteps = 60

func (s *stream) keep(next step) {
	if len(s.steps) == 2*keptSteps {
		s.steps = append(s.steps[:0], s.steps[keptSteps:]...)
	}
	s.steps = append(s.steps, next)
}

func (s *stream) keepReceived(seq int64, at time.Time) {
	if n := len(s.steps); n > 0 && s.steps[n-1].n > 0 && seq > s.steps[n-1].seqs.to {
		s.steps[n-1].seqs.to = seq
		s.steps[n-1].n++
		return
	}
	s.keep(step{at: at, n: 1, seqs: span{seq, seq}})
}

func (s *stream) violation(seq int64, what, expected, came string) violation {
	return violation{
		what: what, conversation: s.of.id, seq: seq, stream: s.name, expected: expected, came: came,
		steps: slices.Clone(s.steps[max(0, len(s.steps)-keptSteps):]),
	}
}

// receive tells what the subscription has delivered.
func (s *subscription) receive(m message, at time.Time) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Deliveries++
	s.keepReceived(m.Seq, at)
	if why := s.forbidden(m.Seq); why != "" {
		l.breach(&l.counts.Leaked, s.violation(m.Seq, "leaked", why, m.String()))
		return
	}
	if why := s.tooLate(m, at); why != "" {
		l.breach(&l.counts.Leaked, s.violation(m.Seq, "leaked", why, m.String()))
	}
	if !l.isStored(s.of, m, s.violation(m.Seq, "", "", "")) {
		return
	}
	switch {
	case s.received.has(m.Seq):
		l.breach(&l.counts.Doubled, s.violation(m.Seq, "doubled", fmt.Sprintf("a seq above %d", s.last), m.String()+" again"))
	case m.Seq <= s.last:
		l.breach(&l.counts.Reordered, s.violation(m.Seq, "reordered", fmt.Sprintf("a seq above %d", s.last), m.String()))
		if s.missed[m.Seq] { // it is there after all
			delete(s.missed, m.Seq)
			l.counts.Lost--
		}
	default:
		s.skipped(m)
		s.last = m.Seq
	}
	s.received.add(m.Seq)
}

// skipped finds what should have come before m: what is known to be stored by now and is passed over.
func (s *stream) skipped(m message) {
	for seq := s.last + 1; seq < m.Seq; seq++ {
		if before, ok := s.of.known[seq]; ok && s.owed(seq) {
			s.ledger.breach(&s.ledger.counts.Lost, s.violation(seq, "lost", before.String()+" before it", m.String()))
			s.missed[seq] = true
		}
	}
}

// owed reports whether the stream has to receive a stored message.
func (s *stream) owed(seq int64) bool {
	if s.of.memberOf(s.person).state != member && seq > s.last {
		return false
	}
	return !slices.ContainsFunc(s.excused, func(e span) bool { return e.has(seq) })
}

// tooLate says why a session may not receive the message, if it has ended long enough before that was sent.
func (s *subscription) tooLate(m message, at time.Time) string {
	ended, ok := s.ledger.sessions[s.session]
	sent := s.of.sends[m.Content]
	if !ok || sent == nil || !sent.begun.After(ended) {
		return ""
	}
	s.ledger.counts.LateAfterEnd = max(s.ledger.counts.LateAfterEnd, at.Sub(ended))
	if sent.begun.Sub(ended) <= s.ledger.grace {
		return ""
	}
	return fmt.Sprintf("nothing that was sent more than %v after the session was ended, and this was sent %v after",
		s.ledger.grace, sent.begun.Sub(ended).Round(time.Millisecond))
}

// refused tells that the server has ended the subscription for good, or denied it, and reports whether the person is no
// member, so that it has to wait until they are one again.
func (s *subscription) refused(code string) (out bool) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	m := s.of.memberOf(s.person)
	if s.owedAll && m.version == s.asked {
		l.breach(&l.counts.OtherBreach, s.violation(s.last, "refused", "that a member may follow", code))
	}
	return m.state != member
}

// unexpected tells of an answer that the API does not give.
func (s *subscription) unexpected(expected, came string) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breach(&l.counts.OtherBreach, s.violation(s.last, "unexpected", expected, came))
}

// bits is a set of seqs, which are small numbers without large gaps.
type bits []uint64

func (b *bits) add(seq int64) {
	for int64(len(*b)) <= seq/64 {
		*b = append(*b, 0)
	}
	(*b)[seq/64] |= 1 << (seq % 64)
}

func (b bits) has(seq int64) bool {
	return seq/64 < int64(len(b)) && b[seq/64]&(1<<(seq%64)) != 0
}
