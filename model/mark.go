package model

import (
	"encoding/binary"
	"math/rand/v2"
)

// Mark distinguishes events that have the same seq in the same conversation, each in a history of
// its own: if a backup is restored, the seqs of the events that are lost are assigned again. It is
// a random number, which never changes. If an event has the mark that a client knows, then all
// events before it are those that the client knows too: this is the log matching of Raft (Ongaro
// and Ousterhout 2014, section 5.3), with an identity of each event in place of its term. 0 means
// that the mark is not known, and matches every mark.
type Mark int64

// NewMark returns a mark for a new event.
func NewMark() Mark {
	for {
		if m := Mark(rand.Uint64()); m != 0 {
			return m
		}
	}
}

// Mark returns the mark of message_added events: the random half of the id.
func (id MessageID) Mark() Mark { return Mark(binary.BigEndian.Uint64(id[8:])) }

// Mark returns the event's mark. The event of a message needs no stored one.
func (e *Event) Mark() Mark {
	if e.Kind == MessageAdded && e.MessageID != nil {
		return e.MessageID.Mark()
	}
	return e.StoredMark
}

// Matches reports whether two marks may be those of the same event.
func (m Mark) Matches(other Mark) bool { return m == other || m == 0 || other == 0 }
