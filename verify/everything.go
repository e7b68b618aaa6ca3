package verify

import (
	"fmt"
	"time"
)

// everything is one follower's view of all conversations that a user sees, through all its
// connections: a stream of each conversation, and one cursor.
//
// In each conversation the server delivers periods. A period begins with ConversationJoined, or
// where the cursor starts, and ends with the event that removes the user. It has no gap. The last
// one continues to the end of the run if the user is a member then.
type everything struct {
	*trace
	history *history
	label   string
	person  string // id of the user that follows
	cursor  string // to resume with; empty before there is one
	items   int64
	views   map[string]*view // of every conversation, even if the user is not a member
	live    bool
}

// view is one conversation in everything.
type view struct {
	*stream
	begins     beginning // which event may come next
	left       bool      // ConversationLeft was delivered
	over       bool      // the removal was delivered, and ConversationLeft has to follow
	firsts     []first   // what came after each ConversationJoined
	joins      int       // how often ConversationJoined was delivered
	departures int       // how often ConversationLeft was delivered
}

// first is the first event after ConversationJoined.
type first struct {
	seq    int64
	number int // of a history that has it
}

// beginning says which event may come next.
type beginning int

const (
	nextOnly     beginning = iota // the seq after the last one
	anySeq                        // any: it is not known where the period begins
	afterBase                     // the seq after the base, or an earlier one again
	afterJoining                  // the seq after the event that added the user
)

// everything adds a stream of all conversations that a user sees.
func (h *history) everything(name, person string) *everything {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := &everything{
		trace: &trace{name: name}, history: h, label: string(ofEverything), person: person,
		views: map[string]*view{},
	}
	for id, c := range h.conversations {
		e.views[id] = &view{stream: h.newStream(e.trace, c, person, true), begins: anySeq}
	}
	h.everythings = append(h.everythings, e)
	return e
}

// starting records what the client has read by other means: the last seq of each conversation. The
// stream begins there, or starts over. cursor is where to begin; empty if the stream has given one.
func (e *everything) starting(cursor string, lastSeqs map[string]int64) {
	e.history.mu.Lock()
	defer e.history.mu.Unlock()
	if cursor != "" {
		e.cursor = cursor
	}
	for id, v := range e.views {
		seq, listed := lastSeqs[id]
		switch {
		case listed:
			v.begins, v.left, v.over = afterBase, false, false
			v.base, v.last = seq, seq
			v.received = nil
		case !v.left: // the user was removed before the client read, and the removal may still come
			v.begins, v.over = anySeq, false
		}
	}
}

// everythingSubscription is one attempt to follow everything.
type everythingSubscription struct {
	*everything
	of       map[string]*subscription
	after    string // the cursor of the request
	received bool   // at least one item
}

func (e *everything) subscribing(session string) observation {
	e.history.mu.Lock()
	defer e.history.mu.Unlock()
	e.live = false
	s := &everythingSubscription{everything: e, of: map[string]*subscription{}, after: e.cursor}
	for id, v := range e.views {
		s.of[id] = v.subscribe(session)
	}
	return s
}

func (e *everything) note(at time.Time, format string, args ...any) {
	e.history.mu.Lock()
	defer e.history.mu.Unlock()
	e.add(step{at: at, what: fmt.Sprintf(format, args...)})
}

// breach reports a violation. conversation is empty if it is not about a single one.
func (e *everything) breach(
	conversation string, seq int64, kind violationKind, expected, came string,
) {
	e.history.breach(e.violation(conversation, seq, kind, expected, came))
}

// receive records an item that the subscription has delivered.
func (s *everythingSubscription) receive(it item, at time.Time) {
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	first := !s.received
	s.received = true
	s.items++
	if it.cursor == "" {
		s.breach("", it.Seq, unexpected, "a cursor", it.String())
	}
	s.cursor = it.cursor
	switch it.Kind {
	case caughtUp:
		s.catchUp(at)
		return
	case streamReset:
		s.reset(at, first && s.after != "")
		return
	}
	if first && s.after == "" {
		s.breach("", it.Seq, unexpected, "CaughtUp first, without a cursor", it.String())
	}
	v := s.views[it.conversation]
	if v == nil {
		s.breach(it.conversation, it.Seq, invented, "conversations that exist", it.String())
		return
	}
	switch it.Kind {
	case conversationJoined:
		s.add(step{at: at, what: it.Kind + " " + v.of.id})
		v.join(s.of[v.of.id])
	case conversationLeft:
		s.add(step{at: at, what: it.Kind + " " + v.of.id})
		v.leave()
	default:
		h.counts.Deliveries[s.label]++
		s.addDelivery(v.of.id, it.Seq, at)
		v.receive(s.of[v.of.id], it.event)
	}
}

// reset begins again from now. It may come first after a cursor, and whenever the history has
// changed.
func (s *everythingSubscription) reset(at time.Time, resumed bool) {
	s.add(step{at: at, what: "received StreamReset"})
	s.history.counts.Resets++
	if !resumed && !s.history.soonAfterRestore(at) && !s.isBehind() {
		s.breach("", 0, unexpected,
			"StreamReset only first, and only after a cursor, or after a restore", streamReset)
	}
	if len(s.history.restores) == 0 {
		return
	}
	s.live = false // CaughtUp follows once more
	for _, v := range s.views {
		v.startAgain(allHistories(), v.last)
		v.begins, v.over = anySeq, false
	}
}

// isBehind reports whether the stream has delivered something that is undone.
func (e *everything) isBehind() bool {
	for _, v := range e.views {
		if !v.histories.has(v.of.newest()) {
			return true
		}
	}
	return false
}

// receive checks an event of one conversation.
func (v *view) receive(sub *subscription, e event) {
	if v.left || v.over {
		v.breach(e.Seq, leaked, "nothing between a removal and ConversationJoined", e.String())
		return
	}
	if !sub.check(e) {
		return
	}
	// A lower v.last allows e to come next.
	switch before := e.Seq <= v.last; {
	case before && (v.begins != afterBase || v.received.has(e.Seq)): // checkOrder reports it
	case before: // the client has read it by other means, and may receive it again
		v.last = e.Seq - 1
	case v.begins == anySeq || v.begins == afterJoining || v.isOwnRemoval(e): // e may follow a gap
		v.last = e.Seq - 1
	}
	if v.begins == afterJoining {
		v.firsts = append(v.firsts, first{e.Seq, v.history.historyAt(e.written())})
	}
	v.begins, v.over = nextOnly, v.isOwnRemoval(e)
	v.checkOrder(e)
}

// join begins a period.
func (v *view) join(sub *subscription) {
	v.joins++
	m := v.membership()
	switch begun := v.of.tally(action{kind: memberAdded, person: v.person}).begun; {
	case m.state == neverMember || m.state == removed && sub.version == m.version:
		v.breach(v.last, leaked, "nothing, because the user is not a member", conversationJoined)
	case v.joins > begun:
		v.breach(v.last, doubled, fmt.Sprintf("ConversationJoined %d times", begun),
			conversationJoined+" again")
	}
	v.begins, v.left, v.over = afterJoining, false, false
	if len(v.history.restores) > 0 {
		v.startAgain(allHistories(), 0)
	}
}

// leave ends a period.
func (v *view) leave() {
	v.departures++
	begun := v.of.tally(action{kind: memberRemoved, person: v.person}).begun
	if v.departures > begun {
		v.breach(v.last, doubled, fmt.Sprintf("ConversationLeft %d times", begun),
			conversationLeft+" again")
	}
	v.begins, v.left, v.over = nextOnly, true, false
}

// catchUp checks the end of replay.
func (s *everythingSubscription) catchUp(at time.Time) {
	s.add(step{at: at, what: "received CaughtUp"})
	if s.live {
		s.breach("", 0, doubled, "that replay ends once", "CaughtUp again")
	}
	s.live = true
	for id, v := range s.views {
		sub := s.of[id]
		switch {
		case v.begins == nextOnly && !v.left && !v.over, v.begins == afterBase:
			sub.checkReplayed()
		case v.left && sub.wasMember && v.membership().version == sub.version:
			v.breach(v.last, tooEarly, "ConversationJoined before CaughtUp", caughtUp)
		}
	}
}

// refused reports a violation, because every user may follow everything.
func (s *everythingSubscription) refused(code string) (removed bool) {
	s.unexpected("that every user may follow what they see", code)
	return false
}

func (s *everythingSubscription) unexpected(expected, came string) {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	s.breach("", s.items, unexpected, expected, came)
}

// checkComplete finds, at the end, items that were not delivered.
func (e *everything) checkComplete() {
	isMember := false
	for _, v := range e.views {
		isMember = isMember || v.membership().state == member
		v.checkComplete()
	}
	if isMember && !e.live {
		e.breach("", e.items, lost, "CaughtUp", "nothing until the end")
	}
}

func (v *view) checkComplete() {
	v.checkBare()
	for _, first := range v.firsts {
		if f, known := v.of.fact(first.seq-1, first.number); !known || f.kind != memberAdded ||
			f.person != v.person {
			v.breach(first.seq, lost,
				fmt.Sprintf("the seq after one at which the user was added: %v",
					v.of.additions(v.person, first.number)),
				fmt.Sprintf("seq %d", first.seq))
		}
	}
	if v.membership().state != member {
		return
	}
	from := v.base
	additions := v.of.additions(v.person, v.of.newest())
	if n := len(additions); n > 0 {
		from = max(from, additions[n-1])
	}
	v.checkReceived(from + 1)
	if v.left {
		v.breach(v.last, lost, "ConversationJoined", "ConversationLeft as the last item")
	}
}
