package judge

import "fmt"

// streams reads the deliveries of a file, and finds the anomalies of each stream.
type streams struct {
	verdict *Verdict
	logs    map[string]*log
	all     map[string]*stream
}

// stream is one follower, through all its subscriptions.
type stream struct {
	name, source, user string
	subscription       int // the number of the current one
	places             map[string]*place
}

// place is where a stream is in the log of one conversation.
type place struct {
	known        bool // false: the next event may have any seq
	sought       bool // the client has read up to seq elsewhere: earlier events may come once more
	seq          int64
	subscription int // the one that has delivered seq

	// The histories that everything delivered since the stream was last told may be of.
	born, dead int
}

func (s *stream) place(conversation string) *place {
	p := s.places[conversation]
	if p == nil {
		p = &place{dead: never}
		s.places[conversation] = p
	}
	return p
}

func (s *streams) add(r Record) error {
	if r.Stream == "" {
		return nil
	}
	st := s.all[r.Stream]
	if st == nil {
		st = &stream{name: r.Stream, places: map[string]*place{}}
		s.all[r.Stream] = st
	}
	switch r.Type {
	case Subscribe:
		st.subscription++
		st.source, st.user = r.Source, r.User
		if r.Source != everything {
			p := st.place(r.Conversation)
			p.known, p.seq = true, r.After
		}
	case Seek:
		p := st.place(r.Conversation)
		p.known, p.sought, p.seq = true, true, r.Seq
	case Told:
		for id, p := range st.places {
			if r.Conversation == "" || r.Conversation == id {
				*p = place{dead: never}
			}
		}
	case Deliver:
		s.deliver(st, r)
	default:
	}
	return nil
}

func (s *streams) deliver(st *stream, r Record) {
	if r.Kind == conversationJoined || r.Kind == conversationLeft {
		*st.place(r.Conversation) = place{dead: never}
		return
	}
	l := s.logs[r.Conversation]
	if l == nil || r.Seq == 0 || l.entries[r.ID] == nil {
		return
	}
	e, p := l.entries[r.ID], st.place(r.Conversation)
	first := r.Seq
	if r.First > 0 {
		first = r.First
	}
	isOwnRemoval := r.Kind == memberRemoved && r.User == st.user
	switch {
	case !p.known:
		p.seq = r.Seq
	case r.Seq <= p.seq && p.sought:
		p.seq = r.Seq
	case r.Seq <= p.seq:
		s.find(choose(p, st, InternalNonmonotonic, ExternalNonmonotonic), l, r,
			fmt.Sprintf("its last event had seq %d", p.seq))
	case first > p.seq+1 && isOwnRemoval: // the events before it may be left out
		return
	default:
		s.checkSkipped(st, p, l, e, r, first)
		p.seq = r.Seq
	}
	p.known, p.sought, p.subscription = true, false, st.subscription
	p.born, p.dead = max(p.born, e.born), min(p.dead, e.dead)
	if p.born >= p.dead {
		s.find(MixedHistories, l, r, "the stream has delivered events of another history, "+
			"and was not told of the change")
		p.born, p.dead = e.born, e.dead
	}
}

// checkSkipped finds events between the place of a stream and an event that it delivers.
func (s *streams) checkSkipped(st *stream, p *place, l *log, e *entry, r Record, first int64) {
	skipped, from := 0, int64(0)
	for seq := p.seq + 1; seq < first; seq++ {
		if l.mayLeaveOut(st, p.seq, seq, r.Seq) ||
			st.source == "messageAdded" && l.messageBetween(nil, e, seq) == nil {
			continue
		}
		if skipped == 0 {
			from = seq
		}
		skipped++
	}
	if skipped > 0 {
		s.find(choose(p, st, InternalSkip, ExternalSkip), l, r,
			fmt.Sprintf("after seq %d, without %d events from seq %d", p.seq, skipped, from))
	}
}

// mayLeaveOut reports whether a stream that was at a seq may leave out another, before it delivers
// a third: because history begins with joining, and its user was added in between.
func (l *log) mayLeaveOut(st *stream, at, seq, next int64) bool {
	if !l.fromJoining {
		return false
	}
	for _, added := range l.additions[st.user] {
		if added > at && added <= next && (seq < added || seq == added && st.source == everything) {
			return true
		}
	}
	return false
}

// choose returns the name of an anomaly inside of a subscription, or of one between two.
func choose(p *place, st *stream, internal, external Anomaly) Anomaly {
	if p.subscription == st.subscription {
		return internal
	}
	return external
}

func (s *streams) find(a Anomaly, l *log, r Record, what string) {
	s.verdict.add(Finding{a, l.id, r.Seq, r.Stream, r.ID + ": " + what, r.Time})
}
