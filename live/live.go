// Package live has what is true at this moment and is not part of the log: presence, typing and
// read receipts, with the signals about them between nodes.
//
// # Guarantees
//
// Signals may be lost, delayed, doubled and reordered. Presence and receipts are read from the
// database, and reconciled with it by Run, so what a consumer knows is at most one round old.
// Typing is stored nowhere: a lost signal is lost, and typing ends by itself. A slow consumer gets
// the newest state, not every state in between.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. Run has three of its own and one for each bus,
// and ends with its context: one records who is connected here and sends the node's heartbeat, one
// delivers presence signals and reconciles presence, one reconciles receipts. Each conversation
// whose receipts are watched has at most one goroutine more, while members are read; it ends with
// the last watch.
//
// Handlers of signals mark and return; no publisher waits for a consumer.
//
// Lock order: the map of readers → readers.mu; presenceWatches.mu → presenceWatch.mu.
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
	// ReconcileEvery is how often Run compares what is watched with the database; 0 means 3
	// seconds.
	ReconcileEvery time.Duration
	// TypingEvery is how often, at most, it is published that a user types; 0 means 3 seconds.
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

// Service is presence, typing and receipts on one node.
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
	presence    presenceRound // of the goroutine that reconciles presence
}

// New returns a service. Run has to run beside it, and that of feeds.
func New(db *store.DB, feeds *feed.Service, opts Options) *Service {
	if opts.ReconcileEvery == 0 {
		opts.ReconcileEvery = 3 * time.Second
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
	s.signals = natsbus.NewBus(opts.Nodes, "signs", signalCodec, s.reconcileLost)
	s.signals.Handle(presenceTopic, s.watches.handle)
	s.signals.Handle(settingsTopic, s.watches.handle)
	return s
}

// ignoreLost is for signals about typing: what they said is soon over.
func ignoreLost([]string) {}

// Run records who is connected here, delivers signals and reconciles, until ctx ends.
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
