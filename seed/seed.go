// Package seed fills an empty database with a year of conversations, for trying Parley out and for
// benchmarks.
//
// It inserts rows in bulk, because the operations of chat would take hours for a million messages.
// The rows are the same as those that the operations would have written. It generates the events of
// the year in order of time, so that rows have their natural order in the tables, and every event
// has the next seq of its conversation.
//
// # Concurrency
//
// Fill generates on a goroutine of its own, one batch ahead of the one that is written. The
// goroutine ends before Fill returns.
package seed

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"parley/model"
	"parley/store"
)

// Size is how many people, conversations and messages there are.
type Size struct{ People, Conversations, Messages int }

// Small is for trying Parley out, Large for benchmarks.
//
//nolint:gochecknoglobals // constants
var (
	Small = Size{People: 20, Conversations: 30, Messages: 2000}
	Large = Size{People: 1000, Conversations: 10_000, Messages: 1_000_000}
)

// Password is the password of all accounts.
const Password = "correct horse battery staple"

// Options are the settings of Fill.
type Options struct {
	Size
	// Seed is the seed of everything random except the salt of the password: the same seed at the
	// same time gives the same rows.
	Seed uint64
	// Progress, if not nil, is called from time to time with the number of messages stored so far.
	Progress func(messages int)
}

// Filled is what Fill has made.
type Filled struct {
	People        []*model.User
	Conversations int
	Messages      int
	Events        int
}

var errNotEmpty = errors.New("the database has people in it already: seed fills only an empty one")

const (
	minPeople = 2
	// maxPairs is which part of all pairs of people may have a direct conversation. A limit keeps
	// it quick to find a pair at random that has none.
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

// Fill makes accounts, conversations, and a year of messages that ends now. The database must have
// its tables, and no accounts. If Fill fails, the rows that it has written stay, and no account has
// a password: make the database again.
func Fill(ctx context.Context, db *store.DB, opts Options) (*Filled, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	exists, err := db.NewSelect().Model((*model.User)(nil)).Exists(ctx)
	if err != nil {
		return nil, err
	}
	if exists {
		return nil, errNotEmpty
	}
	g := &generator{
		rng: rand.New(rand.NewPCG(opts.Seed, 0)), //nolint:gosec // must be reproducible
		now: db.Now(), size: opts.Size,
	}
	g.makePeople()
	if opts.Progress == nil {
		opts.Progress = func(int) {}
	}
	return write(ctx, db, g, opts.Progress)
}

const (
	year = 365 * 24 * time.Hour
	day  = 24 * time.Hour
)
