package verify

import (
	"fmt"
	"math"
	"slices"
	"time"

	api "parley/internal/client"
)

// restore is a fault that takes the database back in time: it undoes what was committed last. The
// log of each conversation then goes on with other events, which get the seqs of lost ones: this is
// another history of it. Histories are numbered from 0, by the restores before them.
//
// When an event was written says of which history it is: verify and the cluster that it breaks have
// one clock.
type restore struct {
	since    time.Time // everything acknowledged before is kept
	from, to time.Time // the history before ends, and the next one may begin
}

// never is the number of a history that does not come.
const never = math.MaxInt

// histories are those that an event exists in: from born to before dead.
type histories struct{ born, dead int }

func (h histories) with(other histories) histories {
	return histories{max(h.born, other.born), min(h.dead, other.dead)}
}

func (h histories) has(number int) bool { return h.born <= number && number < h.dead }

func (h histories) none() bool { return h.born >= h.dead }

// allHistories is what a stream may continue that has delivered nothing of a certain history.
func allHistories() histories { return histories{0, never} }

// restored records a restore, before any client can reach the restored database. keeps has the
// newest seq of each conversation in it.
func (h *history) restored(r restore, keeps map[string]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restores = append(h.restores, r)
	for id, c := range h.conversations {
		c.keeps = append(c.keeps, keeps[id])
		h.undo(c, r, keeps[id])
	}
	for id, ended := range h.sessions {
		if !ended.Before(r.since) {
			delete(h.sessions, id)
		}
	}
	for _, s := range h.streams {
		s.undo(keeps[s.of.id])
	}
	for _, e := range h.everythings {
		for _, v := range e.views {
			v.undo(keeps[v.of.id])
		}
	}
}

// leavingOut records that an operator leaves out seqs in every conversation after a restore.
func (h *history) leavingOut(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conversations {
		c.begin(action{kind: historyRestored}, at)
	}
}

// undo makes a conversation what it is in a copy of the database.
func (h *history) undo(c *conversation, r restore, keeps int64) {
	c.confirmed = min(c.confirmed, keeps)
	for _, s := range c.sends {
		s.confirmed = min(s.confirmed, keeps)
	}
	for _, m := range c.messages {
		if m.seq <= keeps || !c.of(m.born, m.seq).has(len(c.keeps)-1) || m.acked.IsZero() {
			continue
		}
		h.counts.Undone++
		if m.acked.Before(r.since) {
			found := violation{conversation: c.id, seq: m.seq, stream: "the restored copy"}
			h.breach(found.of(lost, "a message that was acknowledged before the copy was made",
				fmt.Sprintf("a log up to seq %d", keeps)))
		}
	}
	for _, m := range c.members {
		m.version++
		m.gaps = slices.DeleteFunc(m.gaps, func(gap span) bool { return gap.from > keeps })
	}
}

// undo notes that a stream has delivered something that is undone, and forgets what it need not
// deliver because of changes that are undone.
func (s *stream) undo(keeps int64) {
	if s.reach > keeps {
		s.histories.dead = min(s.histories.dead, s.of.newest())
	}
	s.excused = slices.DeleteFunc(s.excused, func(e span) bool { return e.from > keeps })
}

// historyAt returns the number of the history that an event was written in. Must be called with
// h.mu held.
func (h *history) historyAt(written time.Time) (number int) {
	for i, r := range h.restores {
		if !written.Before(r.from.Truncate(time.Microsecond)) { // as precise as the database is
			number = i + 1
		}
	}
	return number
}

// tellingTime is how long after a restore streams may be told that have lost nothing. A node that
// has found out that the database was restored tells all its streams of everything, also those that
// were told already, or have begun since.
const tellingTime = 30 * time.Second

// soonAfterRestore reports whether streams may be told at a time that have lost nothing.
func (h *history) soonAfterRestore(at time.Time) bool {
	return slices.ContainsFunc(h.restores, func(r restore) bool {
		return !at.Before(r.from) && at.Before(r.to.Add(tellingTime))
	})
}

// undoable reports whether a restore may have undone what was acknowledged at a time: the answer
// may have been on its way for as long as a client waits.
func (h *history) undoable(acked time.Time) bool {
	return slices.ContainsFunc(h.restores, func(r restore) bool {
		return !acked.Before(r.since) && acked.Before(r.to.Add(answerTimeout))
	})
}

// undoableAt reports the same for a change whose time is known, which is that of the beginning of
// its transaction: a copy that was made before the commit does not have it.
func (h *history) undoableAt(at time.Time) bool {
	return h.undoable(at) || h.undoable(at.Add(answerTimeout))
}

// of returns the histories that have an event which was written in one of them, at a seq.
func (c *conversation) of(born int, seq int64) histories {
	for i := born; i < len(c.keeps); i++ {
		if c.keeps[i] < seq {
			return histories{born, i + 1}
		}
	}
	return histories{born, never}
}

// newest returns the number of the newest history.
func (c *conversation) newest() int { return len(c.keeps) }

// fact returns the event at a seq in a history.
func (c *conversation) fact(seq int64, number int) (fact, bool) {
	for _, f := range c.events[seq] {
		if c.of(f.born, seq).has(number) {
			return *f, true
		}
	}
	return fact{}, false
}

// isUndone reports whether an event is not in the newest history.
func (s *stream) isUndone(e event) bool {
	return !s.of.of(s.history.historyAt(e.written()), e.Seq).has(s.of.newest())
}

// told records that a stream was told that the history has changed, and where to begin again. The
// client has read the conversation up to a seq by other means since. The histories before number
// had ended when it did.
func (s *stream) told(at time.Time, number int, upTo int64, cursor string) {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	s.add(step{at: at, what: "was told that the history has changed"})
	s.cursor = cursor
	s.history.counts.Told++
	if s.histories.has(s.of.newest()) && !s.history.soonAfterRestore(at) {
		s.breach(s.last, unexpected, "a change of the history only after a restore",
			api.HistoryChanged)
	}
	s.startAgain(histories{number, never}, upTo)
}

// startAgain begins to follow another history.
func (s *stream) startAgain(of histories, upTo int64) {
	s.histories, s.last, s.base, s.sought = of, upTo, upTo, true
	s.reach, s.received, s.missed = 0, nil, map[int64]bool{}
}

// checkHistory finds an event that is of another history than those that were delivered before,
// although the stream was not told.
func (s *stream) checkHistory(e event) {
	of := s.of.of(s.history.historyAt(e.written()), e.Seq)
	if both := s.histories.with(of); !both.none() {
		s.histories, s.reach = both, max(s.reach, e.Seq)
		return
	}
	s.breach(e.Seq, mixed, fmt.Sprintf("an event of the history that seq %d is of, "+
		"or to be told of another one first", s.last), e.String())
	s.startAgain(of, e.Seq-1)
	s.reach = e.Seq
}

// restoresSoFar returns the number of the newest history.
func (h *history) restoresSoFar() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.restores)
}
