package verify

import (
	"fmt"
	"time"
)

// everything is one follower's view of all that a person may see, through all its connections: a
// stream of each conversation, and one cursor.
//
// In each conversation it is told in periods, from a beginning to the event that removes the
// person. In a period there is no gap; the last one goes on to the end of the run, if the person is
// a member then.
type everything struct {
	*story
	ledger *ledger
	label  string
	person string
	cursor string // to come back with; empty before there is one
	items  int64
	views  map[string]*view // of every conversation, also of those that the person is not in
	live   bool
}

// view is a conversation in it.
type view struct {
	*stream
	begins beginning // of the period that the next event begins, if it does
	base   int64     // what the client has read by other means; what comes after it is due
	left   bool
	over   bool    // the removal was told, and ConversationLeft has to follow
	firsts []int64 // the first event after each ConversationJoined
	joined int     // how often
	gone   int
}

// beginning says which event may come first.
type beginning int

const (
	nowhere       beginning = iota // the next one only
	anywhere                       // any: it is not known where the period begins
	fetched                        // the one behind the base, or one before it again
	behindJoining                  // the one behind the joining
)

// everything begins a view of all that a person may see.
func (l *ledger) everything(name, person string) *everything {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &everything{
		story: &story{name: name}, ledger: l, label: string(ofEverything), person: person, views: map[string]*view{},
	}
	for id, c := range l.conversations {
		e.views[id] = &view{stream: l.view(e.story, c, person, true), begins: anywhere}
	}
	l.everythings = append(l.everythings, e)
	return e
}

// starting is what somebody has read before they follow, or because the stream begins anew: where
// to begin, unless the stream has said that, and how far each conversation had come.
func (e *everything) starting(cursor string, lastSeqs map[string]int64) {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	if cursor != "" {
		e.cursor = cursor
	}
	for id, v := range e.views {
		seq, listed := lastSeqs[id]
		switch {
		case listed:
			v.begins, v.left, v.over = fetched, false, false
			v.base, v.last = seq, seq
		case !v.left: // the person was removed before this was read, and that may come still
			v.begins, v.over = anywhere, false
		}
	}
}

// hearingAll is one try to follow everything.
type hearingAll struct {
	*everything
	of    map[string]*subscription
	after string
	heard bool
}

func (e *everything) subscribing(session string) hearing {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	e.live = false
	h := &hearingAll{everything: e, of: map[string]*subscription{}, after: e.cursor}
	for id, v := range e.views {
		h.of[id] = v.subscribe(session)
	}
	return h
}

func (e *everything) note(at time.Time, format string, args ...any) {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	e.keep(step{at: at, what: fmt.Sprintf(format, args...)})
}

// breach tells of what is wrong with the stream, in a conversation where it is one's.
func (e *everything) breach(count *int, conversation string, seq int64, what, expected, came string) {
	e.ledger.breach(count, e.violation(conversation, seq, what, expected, came))
}

// receive tells what the subscription has delivered.
func (h *hearingAll) receive(it item, at time.Time) {
	l := h.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !h.heard
	h.heard = true
	h.items++
	if it.cursor == "" {
		h.breach(&l.counts.OtherBreach, "", it.Seq, "unexpected", "a cursor", it.String())
	}
	h.cursor = it.cursor
	switch it.Kind {
	case caughtUp:
		h.catchesUp(at)
		return
	case streamReset:
		h.keep(step{at: at, what: "received StreamReset"})
		l.counts.Resets++
		if !first || h.after == "" {
			h.breach(&l.counts.OtherBreach, "", 0, "unexpected", "StreamReset first, and only where there is a cursor", it.Kind)
		}
		return
	}
	if first && h.after == "" {
		h.breach(&l.counts.OtherBreach, "", it.Seq, "unexpected", "CaughtUp first, where there is no cursor", it.String())
	}
	v := h.views[it.conversation]
	if v == nil {
		h.breach(&l.counts.OtherBreach, it.conversation, it.Seq, "invented", "conversations that there are", it.String())
		return
	}
	switch it.Kind {
	case conversationJoined:
		h.keep(step{at: at, what: it.Kind + " " + v.of.id})
		v.joins(h.of[v.of.id])
	case conversationLeft:
		h.keep(step{at: at, what: it.Kind + " " + v.of.id})
		v.leaves()
	default:
		l.counts.Deliveries[h.label]++
		h.keepReceived(v.of.id, it.Seq, at)
		v.receive(h.of[v.of.id], it.event)
	}
}

// receive takes an event of one conversation.
func (v *view) receive(sub *subscription, e event) {
	if v.left || v.over {
		v.breach(&v.ledger.counts.Leaked, e.Seq, "leaked", "nothing between a removal and ConversationJoined", e.String())
		return
	}
	if !sub.isRightful(e) {
		return
	}
	before := v.last
	switch ends := v.endsWith(e); {
	case e.Seq <= before && (v.begins != fetched || v.received.has(e.Seq)): // out of order
	case v.begins == fetched && e.Seq <= before: // again, what the client has read
		v.last = e.Seq - 1
	case v.begins == anywhere || v.begins == behindJoining || ends: // what was not told before is not told any more
		v.last = e.Seq - 1
	}
	if v.begins == behindJoining {
		v.firsts = append(v.firsts, e.Seq)
	}
	v.begins, v.over = nowhere, v.endsWith(e)
	v.inOrder(e)
}

// joins begins a period.
func (v *view) joins(sub *subscription) {
	l := v.ledger
	v.joined++
	m := v.of.memberOf(v.person)
	switch begun := v.of.tally(deed{kind: memberAdded, person: v.person}).begun; {
	case m.state == stranger || m.state == out && sub.asked == m.version:
		v.breach(&l.counts.Leaked, v.last, "leaked", "nothing, for somebody who is no member", conversationJoined)
	case v.joined > begun:
		v.breach(&l.counts.Doubled, v.last, "doubled", fmt.Sprintf("ConversationJoined %d times", begun), conversationJoined+" again")
	}
	v.begins, v.left, v.over = behindJoining, false, false
}

// leaves ends one.
func (v *view) leaves() {
	l := v.ledger
	v.gone++
	if begun := v.of.tally(deed{kind: memberRemoved, person: v.person}).begun; v.gone > begun {
		v.breach(&l.counts.Doubled, v.last, "doubled", fmt.Sprintf("ConversationLeft %d times", begun), conversationLeft+" again")
	}
	v.begins, v.left, v.over = nowhere, true, false
}

func (h *hearingAll) catchesUp(at time.Time) {
	h.keep(step{at: at, what: "received CaughtUp"})
	l := h.ledger
	if h.live {
		h.breach(&l.counts.Doubled, "", 0, "doubled", "that replay ends once", "CaughtUp again")
	}
	h.live = true
	for id, v := range h.views {
		sub := h.of[id]
		switch {
		case v.begins == nowhere && !v.left && !v.over, v.begins == fetched:
			sub.notTooEarly()
		case v.left && sub.owedAll && v.of.memberOf(v.person).version == sub.asked:
			v.breach(&l.counts.OtherBreach, v.last, "too early", "ConversationJoined before CaughtUp", caughtUp)
		}
	}
}

// refused tells that the server has ended or denied what nobody is denied.
func (h *hearingAll) refused(code string) (out bool) {
	h.unexpected("that everybody may follow what they see", code)
	return false
}

func (h *hearingAll) unexpected(expected, came string) {
	l := h.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	h.breach(&l.counts.OtherBreach, "", h.items, "unexpected", expected, came)
}

// settle finds what has not come until the end.
func (e *everything) settle() {
	l := e.ledger
	isMember := false
	for _, v := range e.views {
		isMember = isMember || v.of.memberOf(e.person).state == member
		v.settle()
	}
	if isMember && !e.live {
		l.breach(&l.counts.Lost, e.violation("", e.items, "lost", "CaughtUp", "nothing until the end"))
	}
}

func (v *view) settle() {
	v.settleBare()
	joinings := v.of.joinings(v.person)
	for _, first := range v.firsts {
		if f, known := v.of.known[first-1]; !known || f.kind != memberAdded || f.person != v.person {
			v.ledger.breach(&v.ledger.counts.Lost, v.violation(first, "lost",
				fmt.Sprintf("what comes behind one of the joinings, %v", joinings), fmt.Sprintf("seq %d", first)))
		}
	}
	if v.of.memberOf(v.person).state != member {
		return
	}
	from := v.base
	if n := len(joinings); n > 0 {
		from = max(from, joinings[n-1])
	}
	v.settleFrom(from + 1)
	if v.left {
		v.breach(&v.ledger.counts.Lost, v.last, "lost", "ConversationJoined", "ConversationLeft as the last of it")
	}
}
