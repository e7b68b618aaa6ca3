// Package feed keeps the log of conversations and delivers it to followers. It keeps Parley's
// promise: no message is lost, doubled or out of order.
//
// # Guarantees
//
// Every durable change of a conversation is one event, with the next seq of that conversation,
// written in the transaction that makes the change. The conversation's row is locked from the
// moment the seq is assigned until the commit. So commits are in order of seq, and there are no
// gaps: a gap that a reader sees means "not here yet", never "will never come". The exception is
// the range that RaiseSeqs leaves out after a restore: a read finds the event after it.
//
// A follower of a conversation (Follow, FollowInto) gets every event after the seq that it began
// with: each exactly once, in order of seq, for as long as the actor is a member. The last event is
// the one that ends the membership; events from before it that are not delivered by then never are.
// ViewerEvents does the same for all conversations of one user, and resumes from a cursor. If it
// cannot, because too much was missed, it delivers Reset. Live events are not ordered across
// conversations.
//
// The database may go back in time: a backup is restored, or a server that was behind takes over.
// Nothing of one history is delivered as if it followed an event of another: Follow ends with
// HISTORY_CHANGED, ViewerEvents delivers Reset. Events have marks for that, and the low watermarks
// of cursors have checkpoints: see docs/adr/0020-marks-and-checkpoints.md.
//
// Watcher, Inbox and Joined do not deliver the log. They notify their consumer of changes, and of
// several changes to the same thing perhaps only once.
//
// Hints and membership hints may be lost, delayed, doubled and reordered; no guarantee depends on
// them. A feed that misses events reads them from the database: if it knows of a gap, when that has
// not closed within 50 ms; if not, when Run reconciles.
//
// # Positions
//
// An event also has a position, which orders the events of all conversations. On PostgreSQL it is
// the transaction's id, so events do not become visible in order of position. The low watermark is
// the position below which no event is added any more. A cursor has a low watermark, and the seqs
// of the few conversations with delivered events above it.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. Run reconciles, connects the buses with those
// of the other nodes on goroutines of their own, and returns after its context has ended. Each
// followed conversation has one feed, whose worker goroutine exists while there are hints to merge
// or events to read. The feed is closed, and what it reads is canceled, when its last follower
// leaves. Each Sink has at most one goroutine, which exists while the sink is behind and ends with
// FollowInto's context. A sequence runs on the goroutine that ranges over it.
//
// Publishers never wait for a feed or a follower. A feed never waits for a consumer that ranges
// over a sequence. It calls a Sink's Live, which must return at once. Followers wait for the
// database and, before they read missed events, for one of the MaxReplays slots. A feed reads
// without a slot, once for all its followers.
//
// Lock order: Service.roundMu → all others; the map of feeds → the bus of hints → feed.inboxMu; the
// map of feeds → feed.mu → stream.mu; feed.mu → feed.inboxMu; feed.mu → histories.mu → stream.mu;
// the bus of membership hints → stream.mu. Live is called with stream.mu held.
package feed

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/refmap"
	"parley/store"
)

// Defaults of Options.
const (
	DefaultReconcileEvery = 3 * time.Second
	DefaultMaxReplays     = 16
	DefaultMaxReplayed    = 10_000
)

// Options are the settings of a Service. The zero value has the defaults.
type Options struct {
	// ReconcileEvery is how often Run compares what is followed with the database; 0 means
	// DefaultReconcileEvery.
	ReconcileEvery time.Duration
	// MaxReplays is how many slots there are for followers that read missed events from the
	// database; 0 means DefaultMaxReplays. The others wait.
	MaxReplays int
	// MaxReplayed is how many events, joins and departures ViewerEvents catches up with; 0 means
	// DefaultMaxReplayed. A stream that has missed more is reset.
	MaxReplayed int
	// Nodes carries hints between this node and the others, while Run runs; nil is a node alone.
	Nodes *natsbus.Conn
	Log   *slog.Logger // nil means slog.Default

	maxNamed int           // for tests; 0 means maxNamed
	roomWait time.Duration // for tests; 0 means roomWait
}

// Service is the log of one database on one node.
type Service struct {
	db   *store.DB
	opts Options

	hints       *natsbus.Bus[Hint]
	lostHints   *dirtyTopics
	memberships *natsbus.Bus[MembershipHint]
	lostMembers *dirtyTopics

	feeds         refmap.Map[model.ConversationID, *feed]
	rounds        atomic.Int64               // how many rounds of reconciling have begun
	reconciled    atomic.Pointer[reconciled] // the result of the newest round that succeeded
	keptCursorKey atomic.Pointer[cursorKey]  // nil until it is first read
	replays       chan struct{}              // a semaphore: one value for each replay slot in use

	moved                atomic.Bool // there are new events since this node wrote a checkpoint
	roundMu              sync.Mutex  // held for a round of reconciling all; guards what follows
	checkpointed, pruned time.Time   // when this node did so last
	histories            *histories
}

// New returns a service. It needs Run to run for as long as it is used.
func New(db *store.DB, opts Options) *Service {
	if opts.ReconcileEvery == 0 {
		opts.ReconcileEvery = DefaultReconcileEvery
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.MaxReplayed == 0 {
		opts.MaxReplayed = DefaultMaxReplayed
	}
	if opts.MaxReplays == 0 {
		opts.MaxReplays = DefaultMaxReplays
	}
	if opts.maxNamed == 0 {
		opts.maxNamed = maxNamed
	}
	if opts.roomWait == 0 {
		opts.roomWait = roomWait
	}
	s := &Service{
		db: db, opts: opts, lostHints: newDirtyTopics(), lostMembers: newDirtyTopics(),
		replays: make(chan struct{}, opts.MaxReplays), histories: newHistories(),
	}
	s.hints = natsbus.NewBus(opts.Nodes, "chat", hintCodec, s.lostHints.mark)
	s.memberships = natsbus.NewBus(opts.Nodes, "memberships", membershipHintCodec,
		s.lostMembers.mark)
	s.reconciled.Store(&reconciled{})
	db.OnServerChange(s.histories.suspect)
	return s
}

// Run exchanges hints with the other nodes, and reconciles, until ctx ends. Every ReconcileEvery,
// and at once if hints may have been lost, it reads from the database which of the followed
// conversations have new events, and which memberships have changed: the hint may be lost if its
// node has died or was cut off.
func (s *Service) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { s.hints.Run(ctx) })
	running.Go(func() { s.memberships.Run(ctx) })
	s.moved.Store(true) // so that the first round writes a checkpoint
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
		case <-s.histories.C():
			err = s.reconcileAll(ctx)
		}
		if err != nil && ctx.Err() == nil { // the next tick tries again
			s.opts.Log.Warn(
				"cannot reconcile the followed conversations with the database; retrying",
				"error", err)
		}
	}
}

// Hints returns the bus of hints, which tests intercept.
func (s *Service) Hints() *natsbus.Bus[Hint] { return s.hints }

// MembershipHints returns the bus of membership hints, which tests intercept.
func (s *Service) MembershipHints() *natsbus.Bus[MembershipHint] { return s.memberships }

// Stats counts what is followed on this node now.
type Stats struct {
	Feeds     int // followed conversations
	Followers int // of all feeds together
	Behind    int // followers that have to read events that are not in their queue
	Replays   int // replay slots in use
}

// Stats counts what is followed. It locks one feed after the other, so the counts are not of one
// moment.
func (s *Service) Stats() (n Stats) {
	n.Replays = len(s.replays)
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

// dirtyFeeds returns the feeds whose hints may have been lost.
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

// noRound is given as the round if only some feeds are reconciled.
const noRound = 0

// reconciled is the result of one round of reconciling everything. The newest seq of each
// conversation is in its feed.
type reconciled struct {
	round      int64
	checkpoint // read before the conversations
}

// reconcileAll reconciles everything that is followed here, conversations and memberships.
func (s *Service) reconcileAll(ctx context.Context) error {
	s.roundMu.Lock()
	defer s.roundMu.Unlock()
	before, suspected := s.reconciled.Load(), s.histories.suspected()
	recorded := s.recordProgress(ctx) // if it fails, the low watermark does not rise
	if err := s.checkHistory(ctx, before); err != nil {
		return err
	}
	newest, err := s.newestCheckpoint(ctx)
	if err != nil {
		return err
	}
	now := &reconciled{s.rounds.Add(1), newest}
	if err := s.reconcileFeeds(ctx, now.round, s.feeds.Values()); err != nil {
		return err
	}
	// after another history was found, all
	if err := s.reconcileMemberships(ctx, s.reconciled.Load().low); err != nil {
		return err
	}
	s.reconciled.Store(now)
	s.histories.trust(suspected)
	return errors.Join(recorded, s.pruneCheckpoints(ctx))
}

// startRounds reads the checkpoint that the first round begins with, so that it publishes only
// memberships that have changed since. Streams that began before Run get a hint for each
// membership.
func (s *Service) startRounds(ctx context.Context) {
	newest, err := s.newestCheckpoint(ctx)
	if err == nil {
		err = s.reconcileMemberships(ctx, 0)
	}
	if err == nil { // if not, the first round publishes all memberships
		s.reconciled.CompareAndSwap(s.reconciled.Load(), &reconciled{checkpoint: newest})
	}
}

// reconcileBatch is how many ids one statement has at most.
const reconcileBatch = 1000

// reconcileMemberships publishes, on this node alone, a hint for each membership that has changed
// at or above a position and whose user has a stream here.
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

// reconcileFeeds reads the newest seq of each feed's conversation, and what stands at the feed's
// edge. It makes the feeds that are behind read events, and those whose history has changed start
// again.
func (s *Service) reconcileFeeds(ctx context.Context, round int64, feeds []*feed) error {
	for some := range slices.Chunk(feeds, reconcileBatch) {
		ids := make([]model.ConversationID, len(some))
		keys := make([]EventKey, len(some))
		edges := make([]Place, len(some))
		changes := make([]int64, len(some))
		for i, f := range some {
			ids[i] = f.id
			edges[i], changes[i] = f.edgeToReconcile()
			keys[i] = EventKey{f.id, edges[i].Seq}
		}
		at, err := s.Places(ctx, keys)
		if err != nil {
			return err
		}
		var found []model.Conversation
		err = s.db.NewSelect().Model(&found).Column("id", "last_seq").
			Where("c.id IN (?)", bun.List(ids)).Scan(ctx)
		if err != nil {
			return err
		}
		last := make(map[model.ConversationID]int64, len(found))
		for _, c := range found {
			last[c.ID] = c.LastSeq
		}
		for i, f := range some {
			if seq, exists := last[f.id]; exists {
				f.reconcile(round, edges[i], changes[i], at[keys[i]], seq)
			} else {
				f.markGone()
			}
		}
	}
	return nil
}

// EventKey is the primary key of an event.
type EventKey struct {
	Conversation model.ConversationID
	Seq          int64
}

// Places reads the places of the events with these keys. Keys without an event are left out. The
// caller checks that the actor may know of the conversations.
func (s *Service) Places(ctx context.Context, keys []EventKey) (map[EventKey]Place, error) {
	row := "(?, ?)"
	if s.db.Postgres() {
		row = "(?::uuid, ?)"
	}
	var rows []schema.QueryWithArgs
	for _, key := range keys {
		if key.Seq > 0 {
			rows = append(rows, bun.SafeQuery(row, key.Conversation, key.Seq))
		}
	}
	found := make(map[EventKey]Place, len(rows))
	if len(rows) == 0 {
		return found, nil
	}
	var events []*model.Event
	err := s.db.NewSelect().Model(&events).
		Column("conversation_id", "seq", "kind", "message_id", "mark").
		Where("(e.conversation_id, e.seq) IN (VALUES ?)", bun.List(rows)).Scan(ctx)
	for _, e := range events {
		found[EventKey{e.ConversationID, e.Seq}] = placeOf(e)
	}
	return found, store.Error(err)
}

// WithReplaySlot runs fn, which reads much from the database, when one of the MaxReplays slots is
// free. So clients that come back all at once do not use all connections to the database. It
// returns fn's error, or the cause of ctx's end if there was no slot before.
func (s *Service) WithReplaySlot(ctx context.Context, fn func() error) error {
	select {
	case s.replays <- struct{}{}:
		defer func() { <-s.replays }()
		return fn()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
