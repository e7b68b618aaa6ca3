package judge

import (
	"cmp"
	"math"
	"slices"
)

// log is everything that a history file says about the log of one conversation.
//
// A fault that restores an older copy of the database begins another history of the log: it keeps
// the events up to a seq, and the events after it get seqs that lost ones had. Histories are
// numbered from 0. Without such a fault there is only one.
type log struct {
	id          string
	fromJoining bool
	entries     map[string]*entry  // by id
	bySeq       map[int64][]*entry // more than one in different histories, or if nodes disagree
	intents     map[string]*intent // by content: what clients wanted to write
	byKey       map[string]*intent // the sends among them, by key
	sends       []*operation
	pages       []*operation
	restores    []restore
	additions   map[string][]int64 // by user: seqs of the events that added them
	readValues  map[string]Record  // contents that were read, with the first record that has them
	finalRead   bool               // all of it was read after everything else
	highest     int64              // the highest seq that was read
}

// entry is one event at its seq.
type entry struct {
	seq     int64
	id      string
	kind    string
	key     string // of the send, if it is known
	acked   int64  // when a send was answered with it; 0 for never
	seen    int64  // when it was first read or answered
	read    bool   // by a stream or a page
	isFinal bool   // it is in the final read of the log
	garbage bool   // its content was read, and no client wrote it

	// The entry exists in the histories from born to before dead, as far as the file can tell: the
	// range may be too large, but not too small.
	born, dead int
}

// intent is a content that clients wanted to write.
type intent struct {
	key     string // of a send
	invoked int64  // when the first operation began
	open    int    // operations that were not refused
}

// operation is a send or a page that was answered, or may have been executed.
type operation struct {
	process        string
	invoked, ended int64
	answer         Record // of type OK
	invoke         Record
	failed         bool
}

// restore is a fault that has undone the events after a seq.
type restore struct {
	from, to int64 // the time of the fault; no event of the history before is written after it
	keeps    int64 // the last seq of the copy
	since    int64 // everything acknowledged until then is in the copy
}

// never is the number of a history that does not come.
const never = math.MaxInt

func newLog(id string) *log {
	return &log{
		id: id, entries: map[string]*entry{}, bySeq: map[int64][]*entry{},
		intents: map[string]*intent{},
		byKey:   map[string]*intent{}, additions: map[string][]int64{},
		readValues: map[string]Record{},
	}
}

// see records that an event was read or answered. It returns nil if the same event was seen at
// another seq.
func (l *log) see(seq int64, id, kind string, at int64) *entry {
	e := l.entries[id]
	switch {
	case e == nil:
		e = &entry{seq: seq, id: id, kind: kind, seen: at, dead: never}
		l.entries[id] = e
		l.bySeq[seq] = append(l.bySeq[seq], e)
	case e.seq != seq:
		return nil
	}
	return e
}

// sortHistories finds out which histories each entry may be of.
func (l *log) sortHistories() {
	for _, e := range l.entries {
		hi := 0
		for i, r := range l.restores {
			if r.to <= l.invokedAt(e) || e.isFinal && r.keeps < e.seq {
				e.born = i + 1
			}
			if r.from < e.seen {
				hi = i + 1
			}
		}
		if e.isFinal {
			continue
		}
		for i, r := range l.restores {
			if r.keeps < e.seq && i >= e.born {
				e.dead = i + 1
				if i >= hi {
					break
				}
			}
		}
	}
	for _, list := range l.bySeq {
		slices.SortFunc(list, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.born, b.born), cmp.Compare(a.seen, b.seen))
		})
	}
}

// invokedAt returns when the first operation began that may have written an entry: 0 if that is not
// known.
func (l *log) invokedAt(e *entry) int64 {
	if in := l.byKey[e.key]; in != nil {
		return in.invoked
	}
	return 0
}

// together reports whether two entries are certainly of one history.
func (l *log) together(a, b *entry) bool {
	if a.isFinal && b.isFinal {
		return true
	}
	return !slices.ContainsFunc(l.restores, func(r restore) bool {
		return r.keeps < max(a.seq, b.seq)
	})
}

// undoes returns the restore that has undone an entry: nil if none has.
func (l *log) undoes(e *entry) *restore {
	if e.isFinal || e.dead == never {
		return nil
	}
	return &l.restores[e.dead-1]
}

// sorted returns entries by seq.
func sorted(entries map[string]*entry) []*entry {
	var list []*entry
	for _, e := range entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.id, b.id))
	})
	return list
}
