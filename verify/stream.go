package verify

import (
	"fmt"
	"slices"
	"time"
)

// stream is one follower's view of one conversation, through all its connections.
type stream struct {
	*trace
	history  *history
	of       *conversation
	label    string // for the figures
	person   string // id of the user that follows
	full     bool   // delivers every event, not only messages
	last     int64  // the seq to resume after
	cursor   string // to resume with; empty before there is one
	base     int64  // the seq up to which the client has read by other means
	sought   bool   // events up to last may come once more
	reach    int64  // the highest seq that it has delivered since it was last told
	received bitset
	missed   map[int64]bool // seqs that were counted as lost
	excused  []span         // seqs that the server may leave out, because the user was not a member
	bare     []event        // events whose message was hidden from the user
	live     bool           // the newest subscription has received CaughtUp
	// those that everything received since it was last told may be of
	histories histories
}

// subscription is one attempt to follow: from a request to its end.
type subscription struct {
	*stream
	session   string
	version   int   // of the membership, when the subscription was requested
	wasMember bool  // certainly, when the subscription was requested
	confirmed int64 // the conversation's highest confirmed seq at that time
	over      bool  // the event that ends the membership was delivered
}

// stream adds a stream of a conversation: of all its events if full is true, else of its messages.
func (h *history) stream(name, conversation, person string, full bool) *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.newStream(&trace{name: name}, h.conversations[conversation], person, full)
	s.label = string(ofMessages)
	if full {
		s.label = string(ofConversation)
	}
	h.streams = append(h.streams, s)
	return s
}

func (h *history) newStream(t *trace, c *conversation, person string, full bool) *stream {
	return &stream{
		trace: t, history: h, of: c, person: person, full: full,
		missed: map[int64]bool{}, histories: allHistories(),
	}
}

func (s *stream) membership() *membership { return s.of.membershipOf(s.person) }

// subscribing records a request to follow, before it is sent.
func (s *stream) subscribing(session string) observation {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return s.subscribe(session)
}

func (s *stream) subscribe(session string) *subscription {
	m := s.membership()
	s.live = false
	return &subscription{
		stream: s, session: session, version: m.version, wasMember: m.state == member,
		confirmed: s.of.confirmed,
	}
}

// note adds a step to the trace.
func (s *stream) note(at time.Time, format string, args ...any) {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	s.add(step{at: at, what: fmt.Sprintf(format, args...)})
}

func (s *stream) violation(seq int64, kind violationKind, expected, came string) violation {
	return s.trace.violation(s.of.id, seq, kind, expected, came)
}

func (s *stream) breach(seq int64, kind violationKind, expected, came string) {
	s.history.breach(s.violation(seq, kind, expected, came))
}

// receive records an item that the subscription has delivered.
func (s *subscription) receive(it item, at time.Time) {
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if it.Kind == caughtUp && s.full {
		s.catchUp(it.event)
		return
	}
	h.counts.Deliveries[s.label]++
	s.addDelivery("", it.Seq, at)
	if !s.check(it.event) {
		return
	}
	expected := s.forbidden(it.newest, s.isUndone(it.event))
	if it.newest > it.Seq && expected != "" {
		s.breach(it.Seq, leaked, expected,
			fmt.Sprintf("%s, with a last message of seq %d", it, it.newest))
		return
	}
	if s.isOwnRemoval(it.event) && it.Seq > s.last+1 {
		// The server may leave out the events before it. A client that is added again resumes after
		// the last event that it has, so s.last stays.
		s.over = true
		return
	}
	if s.sought && it.Seq <= s.last && !s.received.has(it.Seq) { // read by other means, and again
		s.last = it.Seq - 1
	}
	s.sought = false
	s.checkOrder(it.event)
	if s.last == it.Seq {
		s.cursor = it.Cursor
	}
}

// isOwnRemoval reports whether an event removes the user who follows.
func (s *stream) isOwnRemoval(e event) bool {
	return s.full && e.Kind == memberRemoved && e.person() == s.person
}

// check reports whether the subscription may deliver an event, and whether a client caused it.
func (s *subscription) check(e event) bool {
	expected := s.forbidden(e.Seq, s.isUndone(e))
	if expected == "" && s.over {
		expected = "nothing after the event that ends the membership"
	}
	if expected == "" {
		expected = s.hidden(e)
	}
	if expected != "" {
		s.breach(e.Seq, leaked, expected, e.String())
		return false
	}
	if expected := s.tooLate(e); expected != "" {
		s.breach(e.Seq, leaked, expected, e.String())
	}
	if !s.full && e.Kind != messageAdded {
		s.breach(e.Seq, unexpected, "messages", e.String())
		return false
	}
	if !s.history.record(s.of, e, s.violation(e.Seq, "", "", "")) {
		return false
	}
	if e.isBare() {
		s.bare = append(s.bare, e)
	}
	return true
}

// checkOrder finds events that are doubled, reordered or left out.
func (s *stream) checkOrder(e event) {
	s.checkHistory(e)
	above := fmt.Sprintf("a seq above %d", s.last)
	switch {
	case s.received.has(e.Seq):
		s.breach(e.Seq, doubled, above, e.String()+" again")
	case e.Seq <= s.last:
		s.breach(e.Seq, reordered, above, e.String())
		if s.missed[e.Seq] { // it was late, not lost
			delete(s.missed, e.Seq)
			s.history.counts.Lost--
		}
	default:
		s.checkGap(e)
		s.last = e.Seq
	}
	s.received.add(e.Seq)
}

// checkGap finds events that had to come before e: in a stream of messages those that are known to
// be stored by now, in a stream of events every seq.
func (s *stream) checkGap(e event) {
	if !s.full && s.membership().state != member {
		return
	}
	for seq := s.last + 1; seq < e.covers(); seq++ {
		if s.carries(seq, s.histories.born) && s.mustReceive(seq) {
			s.lost(seq, "before it", e.String())
		}
	}
}

// catchUp checks the end of replay.
func (s *subscription) catchUp(e event) {
	switch {
	case s.live:
		s.breach(e.Seq, doubled, "that replay ends once", "CaughtUp again")
	case e.Seq != s.last:
		s.breach(e.Seq, altered, fmt.Sprintf("CaughtUp at seq %d", s.last), e.String())
	default:
		s.checkReplayed()
	}
	s.live = true
}

// checkReplayed finds a replay that ended before it delivered everything that was confirmed when it
// was requested.
func (s *subscription) checkReplayed() {
	stayed := s.wasMember && s.membership().version == s.version
	if !stayed || s.last >= s.confirmed || !s.mustReceive(s.confirmed) {
		return
	}
	s.breach(s.confirmed, tooEarly,
		fmt.Sprintf(
			"CaughtUp after seq %d, which was confirmed before the subscription was requested",
			s.confirmed),
		fmt.Sprintf("after seq %d", s.last))
}

func (s *stream) lost(seq int64, when, came string) {
	expected := fmt.Sprintf("seq %d", seq)
	if f, ok := s.of.fact(seq, s.histories.born); ok {
		expected = f.text
	}
	s.breach(seq, lost, expected+" "+when, came)
	s.missed[seq] = true
}

// carries reports whether this kind of stream delivers the event of a seq in a history.
func (s *stream) carries(seq int64, number int) bool {
	f, _ := s.of.fact(seq, number)
	return s.full || f.kind == messageAdded
}

// mustReceive reports whether the server may not leave out a seq.
func (s *stream) mustReceive(seq int64) bool {
	return !slices.ContainsFunc(s.excused, func(e span) bool { return e.has(seq) })
}

// checkComplete finds, at the end, events that were not delivered.
func (s *stream) checkComplete() {
	s.checkBare()
	if s.membership().state != member {
		return
	}
	s.checkReceived(s.base + 1)
	if s.full && !s.live {
		s.breach(s.last, lost, "CaughtUp", "nothing until the end")
	}
}

// checkReceived finds, at the end, events from a seq on that were not delivered.
func (s *stream) checkReceived(from int64) {
	newest := s.of.newest()
	if !s.histories.has(newest) {
		s.breach(s.last, mixed, "to be told that the history has changed", "nothing until the end")
		return
	}
	for _, seq := range s.of.seqs() {
		_, exists := s.of.fact(seq, newest)
		if exists && seq >= from && !s.received.has(seq) && !s.missed[seq] &&
			s.carries(seq, newest) && s.mustReceive(seq) {
			s.lost(seq, "until the end", "nothing")
		}
	}
}

// checkBare finds events whose message was hidden from a user who may see it. A message is rightly
// hidden only if history begins with joining, and the user was added between the message and the
// event.
func (s *stream) checkBare() {
	for _, e := range s.bare {
		number := s.history.historyAt(e.written())
		f, known := s.of.fact(e.Seq, number)
		message := s.of.messages[f.message]
		additions := s.of.additions(s.person, number)
		hides := func(added int64) bool { return added <= e.Seq && message.seq < added }
		if known && s.of.fromJoining && message != nil && slices.ContainsFunc(additions, hides) {
			continue
		}
		s.breach(e.Seq, altered, f.text, e.String()+", without its message")
	}
}

// hidden returns what was expected instead if an event contains a message that the user may not
// see, and "" otherwise.
func (s *stream) hidden(e event) string {
	if e.Message == nil || s.isUndone(e) {
		return ""
	}
	for _, gap := range s.membership().gaps {
		if e.Message.Seq <= gap.to && gap.to < e.Seq {
			return fmt.Sprintf("no message up to seq %d, where the visible history begins", gap.to)
		}
	}
	return ""
}

// tooLate returns what was expected instead if the session ended too long before the event was
// begun, and "" otherwise.
func (s *subscription) tooLate(e event) string {
	ended, ok := s.history.sessions[s.session]
	begun := s.of.begunAt(e)
	if !ok || !begun.After(ended) {
		return ""
	}
	late := begun.Sub(ended)
	s.history.counts.LateAfterEnd = max(s.history.counts.LateAfterEnd, late)
	if late <= s.history.grace {
		return ""
	}
	return fmt.Sprintf(
		"nothing that was begun more than %v after the session ended; this was begun %v after it",
		s.history.grace, late.Round(time.Millisecond))
}

// begunAt returns when a client began to cause an event, or an earlier time. It is zero if that is
// not known.
func (c *conversation) begunAt(e event) time.Time {
	if e.Kind != messageAdded {
		if t := c.actions[e.fact().action]; t != nil {
			return t.since
		}
		return time.Time{}
	}
	if s := c.sends[e.Added.Content]; s != nil {
		return s.begun
	}
	if m := c.messages[e.Added.ID]; m != nil {
		return m.send.begun
	}
	return time.Time{}
}

func (s *subscription) refused(code string) (removed bool) {
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	m := s.membership()
	if s.wasMember && m.version == s.version {
		s.breach(s.last, refused, "that a member may follow", code)
	}
	return m.state != member
}

func (s *subscription) unexpected(expected, came string) {
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	s.breach(s.last, unexpected, expected, came)
}
