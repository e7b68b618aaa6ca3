// Package live delivers the current state that is not part of the log: presence, typing and read
// receipts. Signals carry it between nodes.
//
// # Guarantees
//
// Signals may be lost, delayed, doubled and reordered. Presence and receipts are read from the
// database, and Run reconciles them with it: a change whose signal was lost is delivered after the
// next round. Each watch of presence also reads everything again after five to ten minutes, for
// changes that no round finds. Typing is not stored: if a signal is lost, nothing replaces it, and
// typing ends by its timeout. A slow consumer gets the newest state, not every state in between.
// States of different users have no order.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. Run has five of its own, and returns after its
// context has ended: two connect the buses with those of the other nodes, one records who is
// connected to this node and sends the node's heartbeat, one delivers presence signals and
// reconciles presence, one reconciles receipts. Each conversation whose receipts are watched has at
// most one goroutine, which exists while members are read, and what it reads is canceled with the
// last watch. A sequence runs on the goroutine that ranges over it.
//
// Publishers never wait for a consumer: handlers of signals mark what has changed, and return.
// Consumers wait for the database and, before they read much, for one of the feed's replay slots.
//
// Lock order: the map of readers → the bus of signals → readers.mu; the bus of signals →
// presenceWatches.mu; the bus of typing → typingWatch.mu. No other two locks are held together.
package live

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"parley/feed"
	"parley/model"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
	"parley/refmap"
	"parley/store"
)

// Options are the settings of a Service. The zero value has the defaults.
type Options struct {
	// Limits is how fast accounts may publish that they type; nil limits nothing.
	Limits *ratelimit.Accounts
	// ReconcileEvery is how often Run compares what is watched with the database; 0 means
	// feed.DefaultReconcileEvery.
	ReconcileEvery time.Duration
	// TypingEvery is how long a user's next "types" is not published after one; 0 means 3 seconds.
	TypingEvery time.Duration
	// TypingTimeout is how long after the last signal a user counts as typing; 0 means 6 seconds.
	TypingTimeout time.Duration
	// PresenceTimeout is how long a user counts as online after their last connection has ended; 0
	// means 30 seconds.
	PresenceTimeout time.Duration
	// NodeTimeout is how long after a node's last heartbeat its users count as online; 0 means 30
	// seconds.
	NodeTimeout time.Duration
	// Nodes carries signals between this node and the others, while Run runs; nil is a node alone.
	Nodes *natsbus.Conn
	Log   *slog.Logger // nil means slog.Default
}

// Service delivers presence, typing and receipts on one node.
type Service struct {
	db   *store.DB
	feed *feed.Service
	opts Options

	typing      *natsbus.Bus[typingSignal]
	throttle    *typingThrottle
	signals     *natsbus.Bus[Signal]
	connections *localConnections
	watches     *presenceWatches
	readers     refmap.Map[model.ConversationID, *readers]
	presence    presenceRound // the newest round; only runPresence uses it
}

// New returns a service. It needs its Run, and that of feeds, to run for as long as it is used.
func New(db *store.DB, feeds *feed.Service, opts Options) *Service {
	if opts.ReconcileEvery == 0 {
		opts.ReconcileEvery = feed.DefaultReconcileEvery
	}
	if opts.TypingEvery == 0 {
		opts.TypingEvery = 3 * time.Second
	}
	if opts.TypingTimeout == 0 {
		opts.TypingTimeout = 6 * time.Second
	}
	if opts.PresenceTimeout == 0 {
		opts.PresenceTimeout = 30 * time.Second
	}
	if opts.NodeTimeout == 0 {
		opts.NodeTimeout = 30 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	s := &Service{
		db: db, feed: feeds, opts: opts, throttle: newTypingThrottle(opts.TypingEvery),
		connections: newLocalConnections(opts.PresenceTimeout, opts.NodeTimeout),
		watches:     newPresenceWatches(),
	}
	s.typing = natsbus.NewBus(opts.Nodes, "typing", typingCodec, ignoreLost)
	s.signals = natsbus.NewBus(opts.Nodes, "signals", signalCodec, s.reconcileLost)
	s.signals.Handle(presenceTopic, s.watches.handle)
	s.signals.Handle(settingsTopic, s.watches.handle)
	return s
}

// ignoreLost does nothing about lost signals of typing: typing ends by its timeout.
func ignoreLost([]string) {}

// Run records who is connected to this node, delivers signals and reconciles, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { s.typing.Run(ctx) })
	running.Go(func() { s.signals.Run(ctx) })
	running.Go(func() { s.recordConnections(ctx) })
	running.Go(func() { s.runPresence(ctx) })
	running.Go(func() { s.runReaders(ctx) })
	running.Wait()
}

var errStopped = errors.New("the consumer has stopped")
