// Package chat has every rule about who may do what in a conversation: its members, its messages, and following it.
//
// Every durable change of a conversation is one event, written in the transaction that makes the change, with the next seq
// of that conversation. The conversation's row is locked while the seq is taken, and until the commit; so commits come in
// the order of seq, there are no gaps, and a gap that somebody sees means "not here yet", never "will never come".
//
// # Concurrency
//
// A Service may be used by any number of goroutines. Hints about new events leave after the commit, and may overtake each
// other on the way; Follow puts them in order. Senders never wait for followers. Whoever locks more than one row locks the
// conversation first; only the removal of an account has locked that before, and where the two meet, the database gives one
// up, which store runs again.
package chat

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub"
	"parley/pubsub/natsbus"
	"parley/store"
)

// Options are the settings of a Service; the zero value serves.
type Options struct {
	// RequireVerifiedEmail lets only people with a verified address start conversations.
	RequireVerifiedEmail bool
	// CompareEvery is how often Run asks the database whether a hint went missing; 0 means 3 seconds.
	CompareEvery time.Duration
	// Nodes carries hints between this node and the others, while Run runs; nil is a node alone.
	Nodes *natsbus.Conn
	Log   *slog.Logger // nil means slog.Default
}

// Service is the conversations of one database.
type Service struct {
	db    *store.DB
	opts  Options
	hints *pubsub.Bus[hint]
	nodes *natsbus.Link[hint] // nil on a node alone
	lost  *lostHints
	// publish stands between a commit and the bus, so that a test can lose, double, delay and shuffle hints.
	publish func(topic string, h hint)
}

// New makes the service. Run has to run beside it.
func New(db *store.DB, opts Options) *Service {
	if opts.CompareEvery == 0 {
		opts.CompareEvery = 3 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	s := &Service{db: db, opts: opts, hints: pubsub.New[hint](), lost: newLostHints()}
	s.publish = s.hints.Publish
	if opts.Nodes != nil {
		s.joinNodes()
	}
	return s
}

// Run asks the database, again and again until ctx ends, which of the conversations that are followed here have moved, and
// hints at it: for the hint that never came, because the node that owed it is dead or cut off. Where it is known that hints
// may have been lost, it asks at once. Meanwhile hints go to the other nodes, and come from them.
func (s *Service) Run(ctx context.Context) {
	if s.nodes != nil {
		var joined sync.WaitGroup
		joined.Go(func() { s.nodes.Run(ctx) })
		defer joined.Wait()
	}
	tick := time.NewTicker(s.opts.CompareEvery)
	defer tick.Stop()
	known := map[model.ConversationID]int64{}
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			err = s.compare(ctx, known)
		case <-s.lost.bell:
			if topics, all := s.lost.take(); all {
				err = s.compare(ctx, known)
			} else {
				err = s.compareTopics(ctx, known, topics)
			}
		}
		if err != nil && ctx.Err() == nil { // the next tick repairs what this should have
			s.opts.Log.Warn("cannot compare the followed conversations with the database", "error", err)
		}
	}
}

// compareAtOnce bounds one statement.
const compareAtOnce = 1000

// compare looks at all that is followed. known is, for each of them, the seq that was hinted at last: whoever follows it now
// has heard of that, or has begun to read later.
func (s *Service) compare(ctx context.Context, known map[model.ConversationID]int64) error {
	topics := s.hints.Topics()
	followed := make(map[string]bool, len(topics))
	for _, topic := range topics {
		followed[topic] = true
	}
	for id := range known {
		if !followed[topicOf(id)] {
			delete(known, id)
		}
	}
	return s.compareTopics(ctx, known, topics)
}

func (s *Service) compareTopics(ctx context.Context, known map[model.ConversationID]int64, topics []string) error {
	var ids []model.ConversationID
	for _, topic := range topics {
		if id, err := conversationOf(topic); err == nil {
			ids = append(ids, id)
		}
	}
	for some := range slices.Chunk(ids, compareAtOnce) {
		var moved []model.Conversation
		err := s.db.NewSelect().Model(&moved).Column("id", "last_seq").Where("c.id IN (?)", bun.List(some)).Scan(ctx)
		if err != nil {
			return err
		}
		for _, c := range moved {
			if known[c.ID] != c.LastSeq {
				known[c.ID] = c.LastSeq
				// Straight to the bus: this repairs what publish may have lost.
				s.hints.Publish(topicOf(c.ID), hint{seq: c.LastSeq})
			}
		}
	}
	return nil
}
