package judge

import (
	"fmt"
	"math"
	"slices"
)

// Kinds of events that the judge treats in a special way, as the schema names them.
const (
	messageAdded       = "MessageAdded"
	memberAdded        = "MemberAdded"
	memberRemoved      = "MemberRemoved"
	conversationJoined = "ConversationJoined"
	conversationLeft   = "ConversationLeft"
)

// everything is the subscription to all conversations of a user.
const everything = "events"

// endless is the time at which an operation ends that was never answered.
const endless = math.MaxInt64

// findAnomalies finds the anomalies of a log that do not depend on streams.
func (l *log) findAnomalies(v *Verdict) {
	for _, e := range sorted(l.entries) {
		l.findLost(e, v)
	}
	l.findDuplicates(v)
	l.findInconsistent(v)
	l.findUnwritten(v)
	l.findNonmonotonicSends(v)
	for _, p := range l.pages {
		l.checkPage(p, v)
	}
}

// findLost finds a message that was acknowledged and is not read, although a later read would have
// to contain it.
func (l *log) findLost(e *entry, v *Verdict) {
	if e.acked == 0 || e.isFinal || !l.finalRead && (e.read || e.seq >= l.highest) {
		return
	}
	undone := l.undoes(e)
	if undone != nil && e.acked > undone.since {
		v.Undone++
		return
	}
	what := "the acknowledged message " + e.id + " is not read again"
	if undone != nil {
		what = "the message " + e.id + " was acknowledged before the copy that was restored"
	}
	v.add(Finding{LostWrite, l.id, e.seq, "all reads", what, e.acked})
}

// findDuplicates finds sends that are in the log twice.
func (l *log) findDuplicates(v *Verdict) {
	by := map[string][]*entry{}
	for _, e := range l.entries {
		if e.key != "" {
			by[e.key] = append(by[e.key], e)
		}
	}
	for key, list := range by {
		slices.SortFunc(list, func(a, b *entry) int { return int(a.seq - b.seq) })
		for i, e := range list[1:] {
			if l.together(list[i], e) {
				v.add(Finding{
					Duplicate, l.id, e.seq, "all reads",
					fmt.Sprintf("%s is at seq %d too", key, list[i].seq), e.seen,
				})
			}
		}
	}
}

// findInconsistent finds seqs with two events in one history.
func (l *log) findInconsistent(v *Verdict) {
	for seq, list := range l.bySeq {
		histories := 1
		for _, r := range l.restores {
			if r.keeps < seq {
				histories++
			}
		}
		for i, e := range list[1:] {
			if l.together(list[i], e) || i+2 > histories {
				v.add(Finding{
					InconsistentOffsets, l.id, seq, "all reads",
					fmt.Sprintf("%s and %s", list[i].id, e.id), e.seen,
				})
			}
		}
	}
}

// findUnwritten finds contents that were read although no operation has written them.
func (l *log) findUnwritten(v *Verdict) {
	for value, r := range l.readValues {
		switch in := l.intents[value]; {
		case in == nil:
			v.add(Finding{
				GarbageRead, l.id, r.Seq, r.Stream, fmt.Sprintf("%q, which no client wrote", value),
				r.Time,
			})
		case in.open == 0:
			v.add(Finding{
				AbortedRead, l.id, r.Seq, r.Stream,
				fmt.Sprintf("%q, which the server had refused", value), r.Time,
			})
		}
	}
}

// findNonmonotonicSends finds sends of a process that got a lower seq than its send before.
func (l *log) findNonmonotonicSends(v *Verdict) {
	last := map[string]*operation{}
	for _, o := range l.sends { // in order of their answers, and so of each process
		before := last[o.process]
		last[o.process] = o
		if before == nil || before.invoke.Key == o.invoke.Key || before.answer.Seq < o.answer.Seq {
			continue
		}
		undone := slices.ContainsFunc(l.restores, func(r restore) bool {
			return r.keeps < before.answer.Seq && r.to > before.invoked && r.from < o.ended
		})
		if !undone {
			v.add(Finding{
				NonmonotonicSend, l.id, o.answer.Seq, o.process,
				fmt.Sprintf("its send before got seq %d", before.answer.Seq), o.ended,
			})
		}
	}
}

// checkPage finds messages that are out of order in a page, or missing in the middle of it.
func (l *log) checkPage(p *operation, v *Verdict) {
	page := p.answer.Page
	for i := 1; i < len(page); i++ {
		a, b := page[i-1], page[i]
		if b.Seq <= a.Seq {
			v.add(Finding{
				InternalNonmonotonic, l.id, b.Seq, p.process,
				fmt.Sprintf("after seq %d in the same page", a.Seq), p.ended,
			})
		}
		for seq := a.Seq + 1; seq < b.Seq; seq++ {
			if m := l.messageBetween(l.entries[a.ID], l.entries[b.ID], seq); m != nil {
				v.add(Finding{
					InternalSkip, l.id, seq, p.process,
					fmt.Sprintf("%s is not between seq %d and %d of the page", m.id, a.Seq, b.Seq),
					p.ended,
				})
			}
		}
	}
}

// messageBetween returns a message that certainly is of the same history as a and b, and is at a
// seq between theirs: nil if there is none. a may be nil.
func (l *log) messageBetween(a, b *entry, seq int64) *entry {
	for _, m := range l.bySeq[seq] {
		if m.kind == messageAdded && b != nil && l.together(m, b) &&
			(a == nil || l.together(a, m)) {
			return m
		}
	}
	return nil
}
