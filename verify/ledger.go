package verify

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// ledger is the law. It is told what was done and what came, and says what must not be so. It knows
// no servers, no clock and no goroutines of its own; it may be told by many.
//
//   - A message that was stored is delivered to each stream of everybody who may see it, once, in
//     order of seq; and so is every event to each stream of events, without a gap between any two.
//   - A send that was acknowledged is stored, once, under the seq of the answer; and later than
//     what had been acknowledged before it began. An edit, a deletion, a reaction, and a change of
//     members that was acknowledged is told as one event.
//   - What is told is the same for all, and somebody has done it.
//   - Nothing is delivered to somebody who is no member: to none at all, to whom the removal was
//     confirmed nothing beyond it, and where history begins with joining nothing of what was
//     written meanwhile.
//   - Nothing is delivered to a session that has ended of what was sent more than a grace later.
//   - A stream ends for good only for somebody who is no member.
type ledger struct {
	grace time.Duration // how long a node may take to notice that a session has ended

	mu            sync.Mutex // guards what follows, and everything that hangs on it
	conversations map[string]*conversation
	streams       []*stream
	everythings   []*everything
	sessions      map[string]time.Time // those that have ended, and since when that was confirmed
	counts        counts
	first         *violation
}

// counts are the figures of the report.
type counts struct {
	Acknowledged, Changed, Retried, Repeated      int
	Lost, Doubled, Reordered, Leaked, OtherBreach int
	// streams that began anew because their cursor was too old
	Resets     int
	Deliveries map[string]int // by the kind of stream
	// LateAfterEnd is the longest after the end of a session that something was begun which it
	// still received.
	LateAfterEnd time.Duration
}

func (c counts) broken() bool {
	return c.Lost+c.Doubled+c.Reordered+c.Leaked+c.OtherBreach > 0
}

// conversation is what is known of one.
type conversation struct {
	id          string
	fromJoining bool
	sends       map[string]*send  // by content
	byID        map[string]*send  // those of which the id is known
	edits       map[string]string // by content: the id of the message
	deeds       map[deed]*tally
	// stored for certain, because an answer, a stream or a list has had it
	known   map[int64]fact
	logged  bool  // known has all there is
	floor   int64 // the highest seq that an answer has confirmed
	members map[string]*membership
}

// send is a message that somebody wants to be stored.
type send struct {
	begun  time.Time
	acked  time.Time // zero while it is not known to be stored
	floor  int64     // of the conversation, when it began
	id     string    // once it is known, like the seq
	stored int64
}

func newLedger(grace time.Duration) *ledger {
	return &ledger{
		grace: grace, conversations: map[string]*conversation{}, sessions: map[string]time.Time{},
		counts: counts{Deliveries: map[string]int{}},
	}
}

// opened tells of a conversation and its members.
func (l *ledger) opened(id string, fromJoining bool, people ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &conversation{
		id: id, fromJoining: fromJoining, sends: map[string]*send{}, byID: map[string]*send{}, edits: map[string]string{},
		deeds: map[deed]*tally{{kind: conversationCreated}: {begun: 1, done: 1}}, known: map[int64]fact{},
		members: map[string]*membership{},
	}
	for _, person := range people {
		c.members[person] = &membership{state: member}
	}
	l.conversations[id] = c
}

// sending tells that a message will be sent, before the first try. No two have the same content.
func (l *ledger) sending(conversation, content string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conversations[conversation]
	c.sends[content] = &send{begun: at, floor: c.floor}
}

// retried tells that the outcome of a try is unknown, and that the message is sent again with its
// key.
func (l *ledger) retried() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Retried++
}

// acknowledged tells what a send was answered with. A repeated one has to be answered with the
// same.
func (l *ledger) acknowledged(conversation string, m message, content string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conversations[conversation]
	s := c.sends[content]
	found := violation{conversation: conversation, seq: m.Seq, stream: "the answer to a send"}
	if m.Content != content {
		l.breach(&l.counts.OtherBreach, found.of("altered", quoted(content), quoted(m.Content)))
		return
	}
	first := s.acked.IsZero()
	if first && m.Seq <= s.floor {
		l.breach(&l.counts.Reordered, found.of("reordered", fmt.Sprintf("a seq above %d, which was confirmed before this send began", s.floor),
			fmt.Sprintf("seq %d", m.Seq)))
	}
	if !l.isTold(c, arrival(m), found) {
		return
	}
	if !first {
		l.counts.Repeated++
		return
	}
	l.counts.Acknowledged++
	s.acked = at
	c.floor = max(c.floor, m.Seq)
}

// gaveUp tells that the outcome of a send could not be found out, or that somebody who may write
// was refused.
func (l *ledger) gaveUp(conversation, content string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := violation{conversation: conversation, stream: "the answer to a send"}
	l.breach(&l.counts.OtherBreach, found.of("refused", "that "+quoted(content)+" is stored", err.Error()))
}

// floorOf is the highest seq that is confirmed.
func (l *ledger) floorOf(conversation string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conversations[conversation].floor
}

// ackedAt is when a message was acknowledged, zero when it was not, or not yet.
func (l *ledger) ackedAt(conversation, content string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.conversations[conversation].sends[content]; s != nil {
		return s.acked
	}
	return time.Time{}
}

// listed compares all messages of a conversation, as its owner reads them page by page, with what
// was acknowledged.
func (l *ledger) listed(conversation string, list []message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conversations[conversation]
	here := map[int64]bool{}
	last := int64(0)
	for _, m := range list {
		found := violation{conversation: conversation, seq: m.Seq, stream: "the list of messages"}
		switch {
		case here[m.Seq]:
			l.breach(&l.counts.Doubled, found.of("doubled", fmt.Sprintf("seq %d once", m.Seq), m.String()+" again"))
			continue
		case m.Seq < last:
			l.breach(&l.counts.Reordered, found.of("reordered", fmt.Sprintf("a seq above %d", last), m.String()))
		}
		last = max(last, m.Seq)
		here[m.Seq] = l.isTold(c, arrival(m), found)
	}
	for _, seq := range c.seqs() {
		if f := c.known[seq]; f.kind == messageAdded && !here[seq] {
			found := violation{conversation: conversation, seq: seq, stream: "the list of messages"}
			l.breach(&l.counts.Lost, found.of("lost", f.told+", which an answer or a stream has had", "nothing"))
		}
	}
}

func (c *conversation) seqs() []int64 {
	seqs := make([]int64, 0, len(c.known))
	for seq := range c.known {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	return seqs
}

// settle compares at the end what each stream has received with what is stored.
func (l *ledger) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		s.settle()
	}
	for _, e := range l.everythings {
		e.settle()
	}
}

// result is what is known so far.
func (l *ledger) result() (counts, *violation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := l.counts
	counts.Deliveries = maps.Clone(counts.Deliveries)
	return counts, l.first
}

// breach counts a violation, and keeps the first.
func (l *ledger) breach(count *int, v violation) {
	*count++
	if l.first == nil {
		l.first = &v
	}
}

// violation is one breach of the law, told so that somebody can look for its cause.
type violation struct {
	what         string // lost, doubled, reordered, leaked, …
	conversation string
	seq          int64
	stream       string
	expected     string
	came         string
	steps        []step // of the stream, until it was noticed
}

func (v violation) of(what, expected, came string) violation {
	v.what, v.expected, v.came = what, expected, came
	return v
}

// quoted is the beginning of a content: the rest of it is padding.
func quoted(content string) string {
	if len(content) > 60 {
		content = content[:60] + "…"
	}
	return fmt.Sprintf("%q", content)
}
