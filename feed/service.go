// Package feed is the log of conversations, and whoever follows it: what Parley promises is kept
// here.
//
// # Guarantees
//
// Every durable change of a conversation is one event, with the next seq of that conversation,
// written in the transaction that makes the change. The conversation's row is locked from the
// moment the seq is taken until the commit. So commits come in order of seq, there are no gaps, and
// a gap that a reader sees means "not here yet", never "will never come".
//
// A follower of a conversation receives every event after the seq that it began with: each exactly
// once, in order of seq, for as long as it is a member. The stream of a viewer's events
// (ViewerEvents) does so for all conversations of one user, and resumes from a cursor. Nothing is
// ordered across conversations in live delivery. Hints, membership hints and whatever package live
// publishes may be lost, delayed, doubled or reordered, and none of these guarantees depends on
// them: a follower that misses events reads them from the database, at the latest when Run
// reconciles.
//
// # Positions
//
// An event also has a position, which orders the events of all conversations. On PostgreSQL it is
// the transaction's id, so positions do not become visible in order. The low watermark is the
// position below which nothing is added any more; a cursor names the conversations above it one by
// one.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. Run reconciles and joins the buses of the
// other nodes; it ends with its context. Each followed conversation has one feed, with at most one
// goroutine, which exists while there are hints to merge or events to read. Each Sink has at most
// one goroutine, which exists while the sink is behind. Both end with their last user.
//
// Publishers never wait: not for a feed, not for a follower. A feed never waits for a follower that
// takes; a Sink's Live is called by the feed's goroutine and has to return at once. Followers wait
// for the database, in a bounded number of replay slots.
//
// Lock order: the map of feeds → feed.mu → stream.mu. feed.inboxMu is taken last, alone, by those
// that publish.
package feed

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/refmap"
	"parley/store"
)

// Options are the settings of a Service. The zero value has the defaults.
type Options struct {
	// ReconcileEvery is how often Run compares what is followed with the database; 0 means 3
	// seconds.
	ReconcileEvery time.Duration
	// MaxReplays is how many followers read missed events from the database at once; 0 means 16.
	// The others wait.
	MaxReplays int
	// MaxReplayed is how many events, joins and departures a viewer's stream catches up with; 0
	// means 10,000. A stream that has missed more is reset.
	MaxReplayed int
	// Nodes carries hints between this node and the others, while Run runs; nil is a node alone.
	Nodes *natsbus.Conn
	Log   *slog.Logger // nil means slog.Default

	maxNamed int           // for tests; 0 means maxNamed
	roomWait time.Duration // for tests; 0 means roomWait
}

// Service is the log of one database, as one node follows it.
type Service struct {
	db   *store.DB
	opts Options

	hints       *natsbus.Bus[Hint]
	lostHints   *dirtyTopics
	memberships *natsbus.Bus[MembershipHint]
	lostMembers *dirtyTopics

	feeds         refmap.Map[model.ConversationID, *feed]
	rounds        atomic.Int64               // of reconciling that have begun
	reconciled    atomic.Pointer[reconciled] // by the newest round that succeeded
	keptCursorKey atomic.Pointer[cursorKey]  // nil until it is needed
	// the replay slots: has one value for each that is taken
	replays chan struct{}
}

// New returns a service. Run has to run beside it.
func New(db *store.DB, opts Options) *Service {
	if opts.ReconcileEvery == 0 {
		opts.ReconcileEvery = 3 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.MaxReplayed == 0 {
		opts.MaxReplayed = 10_000
	}
	if opts.MaxReplays == 0 {
		opts.MaxReplays = 16
	}
	if opts.maxNamed == 0 {
		opts.maxNamed = maxNamed
	}
	if opts.roomWait == 0 {
		opts.roomWait = roomWait
	}
	s := &Service{
		db: db, opts: opts, lostHints: newDirtyTopics(), lostMembers: newDirtyTopics(),
		replays: make(chan struct{}, opts.MaxReplays),
	}
	s.hints = natsbus.NewBus(opts.Nodes, "chat", hintCodec, s.lostHints.mark)
	s.memberships = natsbus.NewBus(opts.Nodes, "news", membershipHintCodec, s.lostMembers.mark)
	s.reconciled.Store(&reconciled{})
	return s
}

// Run reconciles until ctx ends: again and again it asks the database which of the followed
// conversations have new events, for the hint that was lost because its node died or was cut off.
// When hints are known to be lost, it asks at once. Meanwhile it exchanges hints with the other
// nodes.
func (s *Service) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { s.hints.Run(ctx) })
	running.Go(func() { s.memberships.Run(ctx) })
	_ = s.recordReached(ctx) // if it fails, the first round does it
	s.startRounds(ctx)
	tick := time.NewTicker(s.opts.ReconcileEvery)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			err = s.reconcileAll(ctx)
		case <-s.lostHints.C():
			err = s.reconcileFeeds(ctx, noRound, s.dirtyFeeds())
		case <-s.lostMembers.C():
			s.lostMembers.drain()
			err = s.reconcileAll(ctx)
		}
		if err != nil && ctx.Err() == nil { // the next tick reconciles what this should have
			s.opts.Log.Warn(
				"cannot reconcile the followed conversations with the database; retrying",
				"error", err)
		}
	}
}

// Hints is the bus of hints. Tests intercept it.
func (s *Service) Hints() *natsbus.Bus[Hint] { return s.hints }

// MembershipHints is the bus of membership hints. Tests intercept it.
func (s *Service) MembershipHints() *natsbus.Bus[MembershipHint] { return s.memberships }

// Stats counts what is followed on this node now.
type Stats struct {
	Feeds     int // followed conversations
	Followers int // of all feeds together
	Behind    int // followers that have to read what their queue had no room for
}

// Stats returns them. Each feed is counted at another moment.
func (s *Service) Stats() (n Stats) {
	for _, f := range s.feeds.Values() {
		n.Feeds++
		f.mu.Lock()
		for fo := range f.followers {
			n.Followers++
			if fo.isBehind() {
				n.Behind++
			}
		}
		f.mu.Unlock()
	}
	return n
}

// dirtyFeeds are those for which hints may have been lost.
func (s *Service) dirtyFeeds() []*feed {
	topics, all := s.lostHints.drain()
	if all {
		return s.feeds.Values()
	}
	var feeds []*feed
	for _, topic := range topics {
		id, err := conversationOf(topic)
		if err != nil {
			continue
		}
		if f, open := s.feeds.Get(id); open {
			feeds = append(feeds, f)
		}
	}
	return feeds
}

// noRound is the round of reconciling that covers only some feeds.
const noRound = 0

// reconciled is what one round of reconciling all followed conversations has found out.
type reconciled struct {
	round        int64
	lowWatermark int64 // read before the conversations were
}

// reconcileAll reconciles everything that is followed here, conversations and memberships.
func (s *Service) reconcileAll(ctx context.Context) error {
	before := s.reconciled.Load()
	recorded := s.recordReached(ctx) // if it fails, the low watermark stays the same
	low, err := s.LowWatermark(ctx)
	if err != nil {
		return err
	}
	now := &reconciled{round: s.rounds.Add(1), lowWatermark: low}
	if err := s.reconcileFeeds(ctx, now.round, s.feeds.Values()); err != nil {
		return err
	}
	if err := s.reconcileMemberships(ctx, before.lowWatermark); err != nil {
		return err
	}
	s.reconciled.Store(now)
	return recorded
}

// startRounds makes the first round publish only what changes from now on. Streams that began
// before get a hint for every membership.
func (s *Service) startRounds(ctx context.Context) {
	low, err := s.LowWatermark(ctx)
	if err == nil {
		err = s.reconcileMemberships(ctx, 0)
	}
	if err == nil { // else the first round publishes everything
		s.reconciled.CompareAndSwap(s.reconciled.Load(), &reconciled{lowWatermark: low})
	}
}

// reconcileBatch bounds one statement.
const reconcileBatch = 1000

// reconcileMemberships publishes, on this node alone, a hint for each membership of the users who
// follow here that has changed at or above a position.
func (s *Service) reconcileMemberships(ctx context.Context, since int64) error {
	var users []model.UserID
	for _, topic := range s.memberships.Topics() {
		if id, err := userOf(topic); err == nil {
			users = append(users, id)
		}
	}
	for some := range slices.Chunk(users, reconcileBatch) {
		for _, table := range []string{"conversation_members", "departures"} {
			var found []model.Departure
			err := s.db.NewSelect().Table(table).Column("user_id", "conversation_id").
				Where("position >= ?", since).Where("user_id IN (?)", bun.List(some)).
				Scan(ctx, &found)
			if err != nil {
				return store.Error(err)
			}
			for _, c := range found {
				s.memberships.PublishLocal(UserTopic(c.UserID), MembershipHint{c.ConversationID})
			}
		}
	}
	return nil
}

// reconcileFeeds reads the newest seq of each feed's conversation.
func (s *Service) reconcileFeeds(ctx context.Context, round int64, feeds []*feed) error {
	for some := range slices.Chunk(feeds, reconcileBatch) {
		ids := make([]model.ConversationID, len(some))
		for i, f := range some {
			ids[i] = f.id
		}
		var found []model.Conversation
		err := s.db.NewSelect().Model(&found).Column("id", "last_seq").
			Where("c.id IN (?)", bun.List(ids)).Scan(ctx)
		if err != nil {
			return err
		}
		last := make(map[model.ConversationID]int64, len(found))
		for _, c := range found {
			last[c.ID] = c.LastSeq
		}
		for _, f := range some {
			if seq, exists := last[f.id]; exists {
				f.reconcile(round, seq)
			} else {
				f.markGone()
			}
		}
	}
	return nil
}

// WithReplaySlot runs fn, which reads much, in one of the MaxReplays slots: many clients that come
// back together leave connections to the database for the rest.
func (s *Service) WithReplaySlot(ctx context.Context, fn func() error) error {
	select {
	case s.replays <- struct{}{}:
		defer func() { <-s.replays }()
		return fn()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
