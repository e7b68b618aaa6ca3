// Package seed fills an empty database with people who have been talking for a year: to try Parley
// out, and to measure it.
//
// It writes rows in bulk, past the operations of chat, which would take hours for a million
// messages; but what it leaves is what these operations would have left. It walks through the year
// from its beginning to its end, so that rows lie in the database in the order in which they would
// have come, and every event takes the next seq of its conversation.
//
// # Concurrency
//
// Fill walks on a goroutine of its own, one batch ahead of what is written, and ends it before it
// returns.
package seed

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"parley/model"
	"parley/store"
)

// Size is how much there is to be.
type Size struct{ People, Conversations, Messages int }

// Small is enough to try the product out, and Large to see where it slows down.
//
//nolint:gochecknoglobals // constants
var (
	Small = Size{People: 20, Conversations: 30, Messages: 2000}
	Large = Size{People: 1000, Conversations: 10_000, Messages: 1_000_000}
)

// Password is everybody's.
const Password = "correct horse battery staple"

// Options say what to fill the database with.
type Options struct {
	Size
	// Seed decides about everything but the salt of the password: the same seed at the same time
	// gives the same rows.
	Seed uint64
	// Progress is told from time to time how many of the messages are stored; nil where nobody
	// waits.
	Progress func(messages int)
}

// Filled says what was made.
type Filled struct {
	People        []*model.User
	Conversations int
	Messages      int
	Events        int
}

var errNotEmpty = errors.New("the database has people in it already: seed fills only an empty one")

const (
	minPeople = 2
	// maxPairs is how much of all pairs of people may have a direct conversation: finding a free
	// pair stays easy.
	maxPairs = 0.4
)

func (s Size) check() error {
	switch {
	case s.People < minPeople:
		return errors.New("people: at least two are needed to talk")
	case s.Conversations < 1:
		return errors.New("conversations: at least one is needed")
	case s.Messages < 0:
		return errors.New("messages: a number from 0 on")
	}
	return nil
}

// Fill makes the people, their conversations, and a year of messages that ends now. The database
// has to have its tables, and nobody in it. Where it fails, what it has written so far stays, and
// nobody can sign in to it: the database is to be made anew.
func Fill(ctx context.Context, db *store.DB, opts Options) (*Filled, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	there, err := db.NewSelect().Model((*model.User)(nil)).Exists(ctx)
	if err != nil {
		return nil, err
	}
	if there {
		return nil, errNotEmpty
	}
	w := &walk{
		rng: rand.New(rand.NewPCG(opts.Seed, 0)), //nolint:gosec // it has to come out the same
		now: db.Now(), size: opts.Size,
	}
	w.invite()
	if opts.Progress == nil {
		opts.Progress = func(int) {}
	}
	return write(ctx, db, w, opts.Progress)
}

const (
	year = 365 * 24 * time.Hour
	day  = 24 * time.Hour
)
