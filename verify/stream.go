package verify

import (
	"fmt"
	"slices"
	"time"
)

// stream is one follower's view of one conversation, through all its connections.
type stream struct {
	*story
	ledger   *ledger
	of       *conversation
	label    string // of its kind, for the figures
	person   string
	full     bool  // it tells every event, and not only messages
	last     int64 // the seq to resume after
	received bits
	missed   map[int64]bool // what was counted as lost
	excused  []span         // what the person was not to see, or not any more, when they came back
	bare     []event        // about messages that are hidden from the person
	live     bool           // the newest subscription has told that it has caught up
}

// story is what has happened to a stream, for telling of a violation.
type story struct {
	name  string
	steps []step
}

// span is a range of seqs, both ends included.
type span struct{ from, to int64 }

func (s span) has(seq int64) bool { return s.from <= seq && seq <= s.to }

// step is what a follower has done, or what came.
type step struct {
	at   time.Time
	what string
	n    int    // of deliveries, which are told together
	seqs span   // of these
	of   string // the conversation, where it is one of many
}

func (s step) String() string {
	of := ""
	if s.of != "" {
		of = " of " + s.of
	}
	switch s.n {
	case 0:
		return s.what
	case 1:
		return fmt.Sprintf("received seq %d%s", s.seqs.to, of)
	}
	return fmt.Sprintf("received %d items, seq %d to %d%s", s.n, s.seqs.from, s.seqs.to, of)
}

// subscription is one try to follow: from a request to its end.
type subscription struct {
	*stream
	session string
	asked   int // the membership's version when it was requested
	owedAll bool
	floor   int64 // what had been confirmed then
	over    bool  // it has told that the membership has ended
}

// stream begins a view of a conversation: of its messages or, where it is full, of all its events.
func (l *ledger) stream(name, conversation, person string, full bool) *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.view(&story{name: name}, l.conversations[conversation], person, full)
	s.label = string(ofMessages)
	if full {
		s.label = string(ofConversation)
	}
	l.streams = append(l.streams, s)
	return s
}

func (l *ledger) view(of *story, c *conversation, person string, full bool) *stream {
	return &stream{story: of, ledger: l, of: c, person: person, full: full, missed: map[int64]bool{}}
}

// subscribing tells that the stream is asked for, before it is.
func (s *stream) subscribing(session string) hearing {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.subscribe(session)
}

func (s *stream) subscribe(session string) *subscription {
	m := s.of.memberOf(s.person)
	s.live = false
	return &subscription{stream: s, session: session, asked: m.version, owedAll: m.state == member, floor: s.of.floor}
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

func (s *story) keep(next step) {
	if len(s.steps) == 2*keptSteps {
		s.steps = append(s.steps[:0], s.steps[keptSteps:]...)
	}
	s.steps = append(s.steps, next)
}

func (s *story) keepReceived(of string, seq int64, at time.Time) {
	if n := len(s.steps); n > 0 && s.steps[n-1].n > 0 && s.steps[n-1].of == of && seq > s.steps[n-1].seqs.to {
		s.steps[n-1].seqs.to = seq
		s.steps[n-1].n++
		return
	}
	s.keep(step{at: at, n: 1, seqs: span{seq, seq}, of: of})
}

// violation is one that the story ends with.
func (s *story) violation(conversation string, seq int64, what, expected, came string) violation {
	return violation{
		what: what, conversation: conversation, seq: seq, stream: s.name, expected: expected, came: came,
		steps: slices.Clone(s.steps[max(0, len(s.steps)-keptSteps):]),
	}
}

func (s *stream) violation(seq int64, what, expected, came string) violation {
	return s.story.violation(s.of.id, seq, what, expected, came)
}

// breach tells of what is wrong with the stream.
func (s *stream) breach(count *int, seq int64, what, expected, came string) {
	s.ledger.breach(count, s.violation(seq, what, expected, came))
}

// receive tells what the subscription has delivered.
func (s *subscription) receive(it item, at time.Time) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if it.Kind == caughtUp && s.full {
		s.catchesUp(it.event)
		return
	}
	l.counts.Deliveries[s.label]++
	s.keepReceived("", it.Seq, at)
	if !s.isRightful(it.event) {
		return
	}
	if why := s.forbidden(it.newest); it.newest > it.Seq && why != "" {
		s.breach(&l.counts.Leaked, it.Seq, "leaked", why, fmt.Sprintf("%s, with a last message of seq %d", it, it.newest))
		return
	}
	if s.endsWith(it.event) && it.Seq > s.last+1 {
		// What came before it and was not delivered is left out: whoever comes back resumes before
		// that.
		s.over = true
		return
	}
	s.inOrder(it.event)
}

// endsWith reports whether an event says that the person is removed.
func (s *stream) endsWith(e event) bool {
	return s.full && e.Kind == memberRemoved && e.person() == s.person
}

// isRightful reports whether the person may see an event, and it is one.
func (s *subscription) isRightful(e event) bool {
	l := s.ledger
	why := s.forbidden(e.Seq)
	if why == "" && s.over {
		why = "nothing after the event that ends the membership"
	}
	if why == "" {
		why = s.hidden(e)
	}
	if why != "" {
		s.breach(&l.counts.Leaked, e.Seq, "leaked", why, e.String())
		return false
	}
	if why := s.tooLate(e); why != "" {
		s.breach(&l.counts.Leaked, e.Seq, "leaked", why, e.String())
	}
	if !s.full && e.Kind != messageAdded {
		s.breach(&l.counts.OtherBreach, e.Seq, "unexpected", "messages", e.String())
		return false
	}
	if !l.isTold(s.of, e, s.violation(e.Seq, "", "", "")) {
		return false
	}
	if e.isBare() {
		s.bare = append(s.bare, e)
	}
	return true
}

// inOrder finds what is doubled or comes too late, and what is passed over.
func (s *stream) inOrder(e event) {
	l := s.ledger
	switch {
	case s.received.has(e.Seq):
		s.breach(&l.counts.Doubled, e.Seq, "doubled", fmt.Sprintf("a seq above %d", s.last), e.String()+" again")
	case e.Seq <= s.last:
		s.breach(&l.counts.Reordered, e.Seq, "reordered", fmt.Sprintf("a seq above %d", s.last), e.String())
		if s.missed[e.Seq] { // it is there after all
			delete(s.missed, e.Seq)
			l.counts.Lost--
		}
	default:
		s.skipped(e)
		s.last = e.Seq
	}
	s.received.add(e.Seq)
}

// catchesUp tells that all that was missed has come, as the server has it.
func (s *subscription) catchesUp(e event) {
	l := s.ledger
	switch {
	case s.live:
		s.breach(&l.counts.Doubled, e.Seq, "doubled", "that replay ends once", "CaughtUp again")
	case e.Seq != s.last:
		s.breach(&l.counts.OtherBreach, e.Seq, "altered", fmt.Sprintf("CaughtUp at seq %d", s.last), e.String())
	default:
		s.notTooEarly()
	}
	s.live = true
}

// notTooEarly finds that replay is said to have ended, and what had been confirmed before it began
// has not come.
func (s *subscription) notTooEarly() {
	if !s.owedAll || s.of.memberOf(s.person).version != s.asked || s.last >= s.floor || !s.owed(s.floor) {
		return
	}
	s.breach(&s.ledger.counts.OtherBreach, s.floor, "too early",
		fmt.Sprintf("CaughtUp behind seq %d, which was confirmed before this was asked for", s.floor),
		fmt.Sprintf("behind seq %d", s.last))
}

// skipped finds what should have come before e and is passed over: of a stream of messages what is
// known to be stored by now, of a stream of events every seq.
func (s *stream) skipped(e event) {
	if !s.full && s.of.memberOf(s.person).state != member {
		return
	}
	for seq := s.last + 1; seq < e.Seq; seq++ {
		if s.isDue(seq) && s.owed(seq) {
			s.lost(seq, "before it", e.String())
		}
	}
}

func (s *stream) lost(seq int64, when, came string) {
	told := fmt.Sprintf("seq %d", seq)
	if f, ok := s.of.known[seq]; ok {
		told = f.told
	}
	s.breach(&s.ledger.counts.Lost, seq, "lost", told+" "+when, came)
	s.missed[seq] = true
}

// isDue reports whether there is something at a seq, for such a stream.
func (s *stream) isDue(seq int64) bool { return s.full || s.of.known[seq].kind == messageAdded }

// owed reports whether the stream has to receive what is there.
func (s *stream) owed(seq int64) bool {
	return !slices.ContainsFunc(s.excused, func(e span) bool { return e.has(seq) })
}

// settle finds what has not come until the end.
func (s *stream) settle() {
	s.settleBare()
	if s.of.memberOf(s.person).state != member {
		return
	}
	s.settleFrom(1)
	if s.full && !s.live {
		s.breach(&s.ledger.counts.Lost, s.last, "lost", "CaughtUp", "nothing until the end")
	}
}

func (s *stream) settleFrom(first int64) {
	for _, seq := range s.of.seqs() {
		if seq >= first && !s.received.has(seq) && !s.missed[seq] && s.isDue(seq) && s.owed(seq) {
			s.lost(seq, "until the end", "nothing")
		}
	}
}

// settleBare finds messages that were withheld from somebody who may see them: only who has joined
// a conversation whose history begins with joining may not, what was written before.
func (s *stream) settleBare() {
	joinings := s.of.joinings(s.person)
	for _, e := range s.bare {
		f, known := s.of.known[e.Seq]
		hides := func(joined int64) bool { return joined <= e.Seq && s.of.byID[f.message].stored < joined }
		if known && s.of.fromJoining && s.of.byID[f.message] != nil && slices.ContainsFunc(joinings, hides) {
			continue
		}
		s.breach(&s.ledger.counts.OtherBreach, e.Seq, "altered", f.told, e.String()+", without its message")
	}
}

// hidden says why the person may not see the message that an event is about.
func (s *stream) hidden(e event) string {
	if e.Message == nil {
		return ""
	}
	for _, gap := range s.of.memberOf(s.person).gaps {
		if e.Message.Seq <= gap.to && gap.to < e.Seq {
			return fmt.Sprintf("no message up to seq %d, from before the time that the person may see", gap.to)
		}
	}
	return ""
}

// tooLate says why a session may not receive an event, if it has ended long enough before that was
// begun.
func (s *subscription) tooLate(e event) string {
	ended, ok := s.ledger.sessions[s.session]
	begun := s.of.begun(e)
	if !ok || !begun.After(ended) {
		return ""
	}
	late := begun.Sub(ended)
	s.ledger.counts.LateAfterEnd = max(s.ledger.counts.LateAfterEnd, late)
	if late <= s.ledger.grace {
		return ""
	}
	return fmt.Sprintf("nothing that was begun more than %v after the session was ended, and this was begun %v after",
		s.ledger.grace, late.Round(time.Millisecond))
}

// begun is when somebody began to do what an event tells, or earlier; zero where that is not known.
func (c *conversation) begun(e event) time.Time {
	if e.Kind != messageAdded {
		if t := c.deeds[e.fact().deed]; t != nil {
			return t.since
		}
		return time.Time{}
	}
	if s := c.sends[e.Added.Content]; s != nil {
		return s.begun
	}
	if s := c.byID[e.Added.ID]; s != nil {
		return s.begun
	}
	return time.Time{}
}

// refused tells that the server has ended the subscription for good, or denied it, and reports
// whether the person is no member, so that it has to wait until they are one again.
func (s *subscription) refused(code string) (out bool) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	m := s.of.memberOf(s.person)
	if s.owedAll && m.version == s.asked {
		s.breach(&l.counts.OtherBreach, s.last, "refused", "that a member may follow", code)
	}
	return m.state != member
}

// unexpected tells of an answer that the API does not give.
func (s *subscription) unexpected(expected, came string) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	s.breach(&l.counts.OtherBreach, s.last, "unexpected", expected, came)
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
