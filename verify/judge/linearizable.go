package judge

import (
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkLinearizable lets Porcupine check each log. The sends, pages and restores of a conversation
// must have an order in which each takes effect between its begin and its end, and in which each
// answer is the one that an append-only log gives.
func checkLinearizable(logs []*log, patience time.Duration, v *Verdict) {
	deadline := time.Now().Add(patience)
	for i, l := range logs {
		history := l.operations()
		v.Operations += len(history)
		// Each gets its part of the time that the ones before it have left. 0 would be no limit.
		timeout := max(time.Until(deadline)/time.Duration(len(logs)-i), time.Millisecond)
		switch porcupine.CheckOperationsTimeout(model(), history, timeout) {
		case porcupine.Ok:
			v.Linearizable++
		case porcupine.Unknown:
			v.Undecided = append(v.Undecided, l.id)
		case porcupine.Illegal:
			v.add(Finding{
				Anomaly: NotLinearizable, Conversation: l.id, By: "Porcupine",
				What: fmt.Sprintf("no order of %d sends and pages explains their answers",
					len(history)),
			})
		}
	}
}

// logged is a state of the model: the newest message, and those before it. It is never changed, so
// states share what they have in common.
type logged struct {
	before *logged
	length int
	seq    int64
	id     string
	key    string
	hash   uint64 // of the whole log
}

// The inputs of the model.
type (
	// sent is a send. Its output is where it was stored, as an Item.
	sent struct {
		key      string
		repeated bool // other sends have the same key
	}
	// pageRead reads messages. Its output is a []Item.
	pageRead struct {
		newest bool
		after  int64
		limit  int
	}
	// undone removes the messages after a seq. It has no output.
	undone struct{ keeps int64 }
)

// operations returns what is known about a log in the form that Porcupine takes.
//
// A send that was repeated until it was answered is one operation, from the first attempt to the
// answer, or to the first read of the message if that was earlier. If another message of the same
// send was read, an attempt has written it at some time from then to its first read. Attempts whose
// message no one has read may have happened after everything else, or not at all: they are left
// out.
func (l *log) operations() (list []porcupine.Operation) {
	entries := sorted(l.entries)
	times := map[string]int{}
	for _, e := range entries {
		times[e.key]++
	}
	for _, o := range l.sends {
		times[o.invoke.Key]++
	}
	stored := func(e *entry, invoked, ended int64) {
		repeated := e.key != "" && times[e.key] > 2
		list = append(list, porcupine.Operation{
			Input: sent{e.key, repeated}, Call: invoked,
			Output: Item{Seq: e.seq, ID: e.id}, Return: max(invoked, ended),
		})
	}
	for _, o := range l.sends {
		e := l.entries[o.answer.ID]
		switch {
		case e == nil || e.seq != o.answer.Seq: // reported as a duplicate
		case e.acked == o.ended:
			stored(e, o.invoked, min(o.ended, e.seen))
		default:
			stored(e, o.invoked, o.ended)
		}
	}
	for _, e := range entries {
		if e.acked == 0 && e.kind == messageAdded && !e.garbage {
			stored(e, l.invokedAt(e), e.seen)
		}
	}
	for _, p := range l.pages {
		list = append(list, porcupine.Operation{
			Input: pageRead{p.invoke.Newest, p.invoke.After, p.invoke.Limit},
			Call:  p.invoked, Output: p.answer.Page, Return: p.ended,
		})
	}
	for _, r := range l.restores {
		list = append(list, porcupine.Operation{
			Input: undone{r.keeps}, Call: r.from, Return: r.to,
		})
	}
	return list
}

func model() porcupine.Model {
	seed := maphash.MakeSeed()
	return porcupine.Model{
		Init: func() any { return (*logged)(nil) },
		Step: func(state, input, output any) (bool, any) {
			s := state.(*logged)
			switch in := input.(type) {
			case sent:
				at := output.(Item)
				if in.repeated {
					if found := s.find(in.key); found != nil {
						return found.seq == at.Seq && found.id == at.ID, s
					}
				}
				if at.Seq <= s.last() {
					return false, nil
				}
				return true, s.append(seed, at, in.key)
			case pageRead:
				return slices.Equal(s.page(in), output.([]Item)), s
			case undone:
				for s != nil && s.seq > in.keeps {
					s = s.before
				}
				return true, s
			}
			return false, nil
		},
		Equal: func(a, b any) bool {
			x, y := a.(*logged), b.(*logged)
			return x == y || x != nil && y != nil && x.hash == y.hash && x.seq == y.seq &&
				x.length == y.length
		},
		Hash: func(state any) uint64 {
			if s := state.(*logged); s != nil {
				return s.hash
			}
			return 0
		},
	}
}

func (s *logged) last() int64 {
	if s == nil {
		return 0
	}
	return s.seq
}

func (s *logged) append(seed maphash.Seed, at Item, key string) *logged {
	next := &logged{before: s, length: 1, seq: at.Seq, id: at.ID, key: key}
	before := uint64(0)
	if s != nil {
		next.length, before = s.length+1, s.hash
	}
	next.hash = maphash.Comparable(seed, struct {
		before uint64
		at     Item
	}{before, at})
	return next
}

func (s *logged) find(key string) *logged {
	for ; s != nil; s = s.before {
		if s.key == key {
			return s
		}
	}
	return nil
}

// page returns what a log answers to a page.
func (s *logged) page(of pageRead) (list []Item) {
	for m := s; m != nil && m.seq > of.after; m = m.before {
		if of.newest && len(list) == of.limit {
			break
		}
		list = append(list, Item{m.seq, m.id})
	}
	slices.Reverse(list)
	if !of.newest {
		list = list[:min(len(list), of.limit)]
	}
	return list
}
