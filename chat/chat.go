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
	"strings"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub"
	"parley/store"
)

// Options are the settings of a Service; the zero value serves.
type Options struct {
	// RequireVerifiedEmail lets only people with a verified address start conversations.
	RequireVerifiedEmail bool
	// EditWindow is how long after sending it a message can be edited; 0 means for ever.
	EditWindow time.Duration
	// CompareEvery is how often Run asks the database whether a hint went missing; 0 means 3 seconds.
	CompareEvery time.Duration
	Log          *slog.Logger // nil means slog.Default
}

// Service is the conversations of one database.
type Service struct {
	db    *store.DB
	opts  Options
	hints *pubsub.Bus[hint]
	// publish stands between a commit and the bus, so that a test can lose, double, delay and shuffle hints.
	publish func(topic string, h hint)
}

// hint says that a conversation has reached a seq. event is what happened there, where the publisher had it at hand.
type hint struct {
	seq   int64
	event *model.Event
}

// New makes the service. Run has to run beside it.
func New(db *store.DB, opts Options) *Service {
	if opts.CompareEvery == 0 {
		opts.CompareEvery = 3 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	s := &Service{db: db, opts: opts, hints: pubsub.New[hint]()}
	s.publish = s.hints.Publish
	return s
}

const topicPrefix = "conversation_"

func topicOf(id model.ConversationID) string { return topicPrefix + id.String() }

func (s *Service) announce(e *model.Event) {
	s.publish(topicOf(e.ConversationID), hint{seq: e.Seq, event: e})
}

// Run asks the database, again and again until ctx ends, which of the conversations that are followed here have moved, and
// hints at it: for the hint that never came, because the node that owed it is dead or cut off.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(s.opts.CompareEvery)
	defer tick.Stop()
	known := map[model.ConversationID]int64{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.compare(ctx, known); err != nil && ctx.Err() == nil {
				s.opts.Log.Warn("cannot compare the followed conversations with the database", "error", err)
			}
		}
	}
}

// compareAtOnce bounds one statement.
const compareAtOnce = 1000

func (s *Service) compare(ctx context.Context, known map[model.ConversationID]int64) error {
	followed := map[model.ConversationID]bool{}
	var ids []model.ConversationID
	for _, topic := range s.hints.Topics() {
		if text, ok := strings.CutPrefix(topic, topicPrefix); ok {
			if id, err := model.ParseID[model.ConversationID](text); err == nil {
				followed[id] = true
				ids = append(ids, id)
			}
		}
	}
	for id := range known {
		if !followed[id] {
			delete(known, id)
		}
	}
	for len(ids) > 0 {
		some := ids[:min(len(ids), compareAtOnce)]
		ids = ids[len(some):]
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
