package verify

import "time"

// track is what a follower has of a stream, of one conversation (stream) or of all (everything).
type track interface {
	note(at time.Time, format string, args ...any)
	progress() int64 // goes up with what comes
	// ask is the operation that follows from here on, and where that is, for people.
	ask() (query string, variables map[string]any, from string)
	subscribing(session string) hearing
	target() target
	reached(t target) bool
	// complete reports whether there is nothing more to come beyond these seqs.
	complete(finished map[string]int64) bool
}

// hearing is one try to follow: from a request to its end.
type hearing interface {
	receive(it item, at time.Time)
	// refused tells that the server has ended the subscription for good, or denied it, and reports
	// whether the person is no member, so that it has to wait until they are one again.
	refused(code string) (out bool)
	// unexpected tells of an answer that the API does not give.
	unexpected(expected, came string)
}

// target is how far each conversation has to come, for whose membership stays as it is.
type target map[string]struct {
	seq     int64
	version int
}

func (t target) add(s *stream) {
	if m := s.of.memberOf(s.person); m.state == member {
		t[s.of.id] = struct {
			seq     int64
			version int
		}{s.of.floor, m.version}
	}
}

func (t target) has(s *stream) bool {
	want, ok := t[s.of.id]
	return !ok || s.last >= want.seq || s.of.memberOf(s.person).version != want.version
}

func (s *stream) progress() int64 { return s.position() }

func (s *stream) ask() (query string, variables map[string]any, from string) {
	after := s.position()
	query = messagesQuery
	if s.full {
		query = conversationQuery
	}
	return query, map[string]any{"c": s.of.id, "a": after}, (step{n: 1, seqs: span{after, after}}).String()
}

func (s *stream) target() target {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	t := target{}
	t.add(s)
	return t
}

func (s *stream) reached(t target) bool {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return t.has(s)
}

func (s *stream) complete(finished map[string]int64) bool {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.last >= finished[s.of.id] && (s.live || !s.full)
}

func (e *everything) progress() int64 {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	return e.items
}

func (e *everything) ask() (query string, variables map[string]any, from string) {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	if e.cursor == "" {
		return everythingQuery, nil, "from now on"
	}
	return everythingQuery, map[string]any{"a": e.cursor}, "with its cursor"
}

func (e *everything) target() target {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	t := target{}
	for _, v := range e.views {
		t.add(v.stream)
	}
	return t
}

func (e *everything) reached(t target) bool {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	for _, v := range e.views {
		if !t.has(v.stream) {
			return false
		}
	}
	return e.live
}

func (e *everything) complete(finished map[string]int64) bool {
	e.ledger.mu.Lock()
	defer e.ledger.mu.Unlock()
	for id, v := range e.views {
		if v.of.memberOf(e.person).state == member && v.last < finished[id] {
			return false
		}
	}
	return e.live
}
