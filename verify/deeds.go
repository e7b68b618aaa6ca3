package verify

import (
	"fmt"
	"slices"
	"time"
)

// deed is what somebody does to a conversation, besides sending: each is told as one event.
type deed struct {
	kind    string
	message string // id; empty where it is about none
	person  string // whom it is about
	emoji   string
}

// tally is how often a deed was done. Only edits and changes of members are done more than once.
type tally struct {
	begun, done, told int
	since             time.Time // when the first was begun
	// when those that were confirmed have happened, as far as the answers say
	at []time.Time
}

// fact is an event as everybody has to be told of it.
type fact struct {
	deed
	at    time.Time // zero as long as only sources without it have told
	count int
	told  string // for people
}

func (e event) fact() fact {
	f := fact{deed: deed{kind: e.Kind, person: e.person(), emoji: e.Emoji}, at: e.At, count: e.Count, told: e.String()}
	if m := e.subject(); m != nil {
		f.message = m.ID
	}
	return f
}

// agrees compares what two were told. Where the message is hidden from one of them, the rest
// counts.
func (f fact) agrees(g fact) bool {
	if f.message == "" || g.message == "" {
		f.message, g.message = "", ""
	}
	return f.deed == g.deed && f.count == g.count && (f.at.IsZero() || g.at.IsZero() || f.at.Equal(g.at))
}

func (c *conversation) tally(d deed) *tally {
	t := c.deeds[d]
	if t == nil {
		t = &tally{}
		c.deeds[d] = t
	}
	return t
}

// beginning tells, with the lock held, that a deed will be tried.
func (c *conversation) beginning(d deed, at time.Time) {
	t := c.tally(d)
	if t.begun == 0 {
		t.since = at
	}
	t.begun++
}

// changing tells that a message will be changed, before the first try. content is that of an edit;
// no two have the same.
func (l *ledger) changing(conversation string, d deed, content string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conversations[conversation]
	c.beginning(d, at)
	if d.kind == messageEdited {
		c.edits[content] = d.message
	}
}

// changed tells what a change was answered with.
func (l *ledger) changed(conversation string, d deed, m message, content string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conversations[conversation]
	found := violation{conversation: conversation, seq: m.Seq, stream: "the answer to a change"}
	if !l.isRight(c, m, found) {
		return
	}
	t := c.tally(d)
	t.done++
	l.counts.Changed++
	var at *time.Time
	switch d.kind {
	case messageEdited:
		at = m.EditedAt
	case messageDeleted:
		at, content = m.DeletedAt, ""
	default:
		return
	}
	if m.Content != content || at == nil {
		l.breach(&l.counts.OtherBreach, found.of("altered", fmt.Sprintf("%s, and since when", quoted(content)), m.String()))
		return
	}
	t.at = append(t.at, *at)
}

// isRight compares a message that somebody has got from a server, at whatever time, with what is
// known of it: whose content it has, and where it stands.
func (l *ledger) isRight(c *conversation, m message, found violation) bool {
	s, ok := c.byID[m.ID], false
	switch of, edited := c.edits[m.Content]; {
	case m.Content == "":
		ok = s != nil && c.tally(deed{kind: messageDeleted, message: m.ID}).begun > 0
	case edited:
		ok = s != nil && of == m.ID
	default:
		s, ok = c.sends[m.Content]
	}
	if !ok {
		l.breach(&l.counts.OtherBreach, found.of("invented", "messages that were sent, as somebody has written them", m.String()))
		return false
	}
	if s.stored != 0 && s.stored != m.Seq {
		once := fmt.Sprintf("%s once, with seq %d", quoted(m.Content), s.stored)
		l.breach(&l.counts.Doubled, found.of("doubled", once, m.String()))
		return false
	}
	if other := c.byID[m.ID]; s.id != "" && s.id != m.ID || other != nil && other != s {
		l.breach(&l.counts.OtherBreach, found.of("altered", "each message under an id of its own", m.String()))
		return false
	}
	s.id, s.stored = m.ID, m.Seq
	c.byID[m.ID] = s
	return true
}

// isTold keeps an event that somebody has got from a server, and compares it with what is known of
// it.
func (l *ledger) isTold(c *conversation, e event, found violation) bool {
	if m := e.subject(); m != nil && !l.isRight(c, *m, found) {
		return false
	}
	if why := e.contradiction(); why != "" {
		l.breach(&l.counts.OtherBreach, found.of("altered", why, e.String()))
		return false
	}
	f := e.fact()
	before, known := c.known[e.Seq]
	switch {
	case known && !before.agrees(f):
		l.breach(&l.counts.OtherBreach, found.of("altered", before.told, e.String()))
		return false
	case known && before.at.IsZero():
		before.at = f.at
		c.known[e.Seq] = before
		return true
	case known || e.isBare():
		return true
	}
	if e.Kind != messageAdded {
		t := c.tally(f.deed)
		if t.begun == 0 {
			l.breach(&l.counts.OtherBreach, found.of("invented", "what somebody has done", e.String()))
			return false
		}
		if t.told == t.begun {
			l.breach(&l.counts.Doubled, found.of("doubled", fmt.Sprintf("what was done %d times as often", t.begun), e.String()))
			return false
		}
		t.told++
	}
	c.known[e.Seq] = f
	return true
}

// isBare reports whether an event is about a message, and has none.
func (e event) isBare() bool {
	switch e.Kind {
	case messageAdded, messageEdited, messageDeleted, reactionAdded, reactionRemoved:
		return e.subject() == nil
	}
	return false
}

// contradiction says what in an event cannot be: its message is as it is now, so it is not older
// than the event.
func (e event) contradiction() string {
	m := e.subject()
	switch {
	case m == nil && e.Kind == messageAdded:
		return "a message"
	case m == nil:
		return ""
	case e.Kind == messageAdded && m.Seq != e.Seq:
		return fmt.Sprintf("the message of seq %d", e.Seq)
	case e.Kind == messageEdited && m.DeletedAt == nil && (m.EditedAt == nil || m.EditedAt.Before(e.At)):
		return fmt.Sprintf("a message that was edited at %v, or later", e.At)
	case e.Kind == messageDeleted && (m.Content != "" || m.DeletedAt == nil || !m.DeletedAt.Equal(e.At)):
		return fmt.Sprintf("a message that was deleted at %v", e.At)
	}
	return ""
}

// logged compares all events of a conversation, as its owner follows them from the first, with what
// was done. What has been told so far has to be there, each deed as often as it was done, and
// nothing else.
func (l *ledger) logged(conversation string, list []event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conversations[conversation]
	found := violation{conversation: conversation, stream: "the log of events"}
	last := int64(0)
	counts := map[deed]int{}
	for _, e := range list {
		found.seq = e.Seq
		switch {
		case e.Seq <= last:
			l.breach(&l.counts.Reordered, found.of("reordered", fmt.Sprintf("a seq above %d", last), e.String()))
			continue
		case e.Seq > last+1:
			l.breach(&l.counts.Lost, found.of("lost", fmt.Sprintf("seq %d", last+1), e.String()))
		}
		last = e.Seq
		if l.isTold(c, e, found) {
			l.count(e, counts, found)
		}
	}
	for seq, f := range c.known {
		if seq > last {
			found.seq = seq
			l.breach(&l.counts.Lost, found.of("lost", f.told+", which an answer or a stream has had", "nothing"))
		}
	}
	c.logged = true
	l.settleDeeds(c)
}

// count follows how many have put an emoji to a message.
func (l *ledger) count(e event, counts map[deed]int, found violation) {
	if e.Kind != reactionAdded && e.Kind != reactionRemoved || e.Message == nil {
		return
	}
	of := deed{message: e.Message.ID, emoji: e.Emoji}
	if counts[of]++; e.Kind == reactionRemoved {
		counts[of] -= 2
	}
	if e.Count != counts[of] {
		right := fmt.Sprintf("that there were %d", counts[of])
		l.breach(&l.counts.OtherBreach, found.of("altered", right, fmt.Sprintf("%d: %s", e.Count, e)))
	}
}

// settleDeeds finds what was confirmed and is told nowhere.
func (l *ledger) settleDeeds(c *conversation) {
	found := violation{conversation: c.id, stream: "the log of events"}
	times := map[deed][]time.Time{}
	for _, f := range c.known {
		times[f.deed] = append(times[f.deed], f.at)
	}
	for d, t := range c.deeds {
		if t.told < t.done {
			l.breach(&l.counts.Lost, found.of("lost", fmt.Sprintf("%v %d times, as it was confirmed", d, t.done), fmt.Sprint(t.told)))
			continue
		}
		for _, at := range t.at {
			if !slices.ContainsFunc(times[d], at.Equal) {
				l.breach(&l.counts.OtherBreach, found.of("altered", fmt.Sprintf("%v at %v", d, at), fmt.Sprint("at ", times[d])))
			}
		}
	}
}

// joinings are the seqs at which somebody was added, in order.
func (c *conversation) joinings(person string) (seqs []int64) {
	for seq, f := range c.known {
		if f.kind == memberAdded && f.person == person {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}
