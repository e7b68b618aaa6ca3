package verify

import (
	"fmt"
	"time"
)

// recorder keeps what a follower has received: of one conversation (stream), or of all
// (everything).
type recorder interface {
	// note adds a step to the trace.
	note(at time.Time, format string, args ...any)
	// progress grows with each item.
	progress() int64
	// resumption returns the operation that follows from here on, and where that is, for people.
	resumption() (query string, variables map[string]any, from string)
	// subscribing records a request to follow, before it is sent.
	subscribing(session string) observation
	// target returns what has to be received by now.
	target() target
	reached(t target) bool
	// complete reports whether everything up to these seqs was received, by conversation.
	complete(finished map[string]int64) bool
}

// observation is one attempt to follow: from a request to its end.
type observation interface {
	receive(it item, at time.Time)
	// refused records that the server has ended or denied the subscription for good. It reports
	// whether the user is not a member, so that the follower has to wait until they are added.
	refused(code string) (removed bool)
	// unexpected records an answer that the API does not give.
	unexpected(expected, came string)
}

// target is the seq that each conversation has to reach. It holds for as long as the membership
// stays as it is.
type target map[string]struct {
	seq     int64
	version int // of the membership
}

func (t target) add(s *stream) {
	if m := s.membership(); m.state == member {
		t[s.of.id] = struct {
			seq     int64
			version int
		}{s.of.confirmed, m.version}
	}
}

func (t target) has(s *stream) bool {
	want, ok := t[s.of.id]
	return !ok || s.last >= want.seq || s.membership().version != want.version
}

func (s *stream) progress() int64 {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return s.last
}

func (s *stream) resumption() (query string, variables map[string]any, from string) {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	query = messagesQuery
	if s.full {
		query = conversationQuery
	}
	if s.cursor == "" {
		return query, map[string]any{"c": s.of.id, "s": s.last}, fmt.Sprintf("after seq %d", s.last)
	}
	return query, map[string]any{"c": s.of.id, "a": s.cursor},
		fmt.Sprintf("after the cursor of seq %d", s.last)
}

func (s *stream) target() target {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	t := target{}
	t.add(s)
	return t
}

func (s *stream) reached(t target) bool {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return t.has(s)
}

func (s *stream) complete(finished map[string]int64) bool {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return s.last >= finished[s.of.id] && (s.live || !s.full) &&
		s.histories.has(s.of.newest())
}

func (e *everything) progress() int64 {
	e.history.mu.Lock()
	defer e.history.mu.Unlock()
	return e.items
}

func (e *everything) resumption() (query string, variables map[string]any, from string) {
	e.history.mu.Lock()
	defer e.history.mu.Unlock()
	if e.cursor == "" {
		return everythingQuery, nil, "from now on"
	}
	return everythingQuery, map[string]any{"a": e.cursor}, "after its cursor"
}

func (e *everything) target() target {
	e.history.mu.Lock()
	defer e.history.mu.Unlock()
	t := target{}
	for _, v := range e.views {
		t.add(v.stream)
	}
	return t
}

func (e *everything) reached(t target) bool {
	e.history.mu.Lock()
	defer e.history.mu.Unlock()
	for _, v := range e.views {
		if !t.has(v.stream) {
			return false
		}
	}
	return e.live
}

func (e *everything) complete(finished map[string]int64) bool {
	e.history.mu.Lock()
	defer e.history.mu.Unlock()
	for id, v := range e.views {
		if v.membership().state == member &&
			(v.last < finished[id] || !v.histories.has(v.of.newest())) {
			return false
		}
	}
	return e.live
}
