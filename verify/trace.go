package verify

import (
	"fmt"
	"slices"
	"time"
)

// trace is the recent steps of a stream. A violation prints them.
type trace struct {
	name  string
	steps []step
}

// step is an act of a follower, or a run of deliveries.
type step struct {
	at         time.Time
	what       string
	deliveries int    // printed together; 0 for an act
	seqs       span   // of the deliveries
	of         string // their conversation; empty for a stream of one conversation
}

func (s step) String() string {
	of := ""
	if s.of != "" {
		of = " of " + s.of
	}
	switch s.deliveries {
	case 0:
		return s.what
	case 1:
		return fmt.Sprintf("received seq %d%s", s.seqs.to, of)
	}
	return fmt.Sprintf("received %d items, seq %d to %d%s", s.deliveries, s.seqs.from, s.seqs.to,
		of)
}

// tracedSteps is how many steps a violation prints.
const tracedSteps = 60

func (t *trace) add(next step) {
	if len(t.steps) == 2*tracedSteps {
		t.steps = append(t.steps[:0], t.steps[tracedSteps:]...)
	}
	t.steps = append(t.steps, next)
}

func (t *trace) addDelivery(of string, seq int64, at time.Time) {
	if n := len(t.steps); n > 0 {
		last := &t.steps[n-1]
		if last.deliveries > 0 && last.of == of && seq > last.seqs.to {
			last.seqs.to = seq
			last.deliveries++
			return
		}
	}
	t.add(step{at: at, deliveries: 1, seqs: span{seq, seq}, of: of})
}

// violation returns one with the newest steps.
func (t *trace) violation(
	conversation string, seq int64, kind violationKind, expected, came string,
) violation {
	return violation{
		kind: kind, conversation: conversation, seq: seq, stream: t.name, expected: expected,
		came:  came,
		steps: slices.Clone(t.steps[max(0, len(t.steps)-tracedSteps):]),
	}
}
