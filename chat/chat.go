// Package chat has every rule about who may do what in a conversation: its members, its messages,
// and following it.
//
// Every durable change of a conversation is one event, written in the transaction that makes the
// change, with the next seq of that conversation. The conversation's row is locked while the seq is
// taken, and until the commit; so commits come in the order of seq, there are no gaps, and a gap
// that somebody sees means "not here yet", never "will never come".
//
// # Concurrency
//
// A Service may be used by any number of goroutines. Hints about new events leave after the commit,
// and may overtake each other on the way; Follow puts them in order. Senders never wait for
// followers. Whoever locks more than one row locks conversations first, in order of id, and then
// accounts, in order of id. There is one exception: package auth claims an account that is being
// removed before CleanUpAccount locks conversations, in order of id. On PostgreSQL this may
// deadlock with a transaction that holds one of these conversations and looked the account up just
// before it was marked (lockPeople). If two transactions wait for each other all the same, the
// database gives one up, and store runs it again.
package chat

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"

	"parley/batch"
	"parley/model"
	"parley/pubsub"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
	"parley/store"
)

// Options are the settings of a Service; the zero value serves.
type Options struct {
	// RequireVerifiedEmail lets only people with a verified address start conversations.
	RequireVerifiedEmail bool
	// MaxConversations is how many conversations one account is in at most; 0 means 5,000. An
	// account that is in more keeps them.
	MaxConversations int
	// Limits is how fast accounts may write and search; nil limits nothing.
	Limits *ratelimit.Accounts
	// EditWindow is how long after sending it a message can be edited; 0 means for ever.
	EditWindow time.Duration
	// CompareEvery is how often Run asks the database whether a hint went missing; 0 means 3
	// seconds.
	CompareEvery time.Duration
	// MaxReplays is how many followers read from the database at once, after having been away; 0
	// means 16. Others wait.
	MaxReplays int
	// MaxReplayed is how many events, joins and leavings a stream of everything catches up with;
	// beyond, it is reset. 0 means 10,000.
	MaxReplayed int
	// TypingEvery is how often, at most, it is passed on that somebody types; 0 means 3 seconds.
	TypingEvery time.Duration
	// TypingTimeout is how long after the last sign somebody counts as typing; 0 means 6 seconds.
	TypingTimeout time.Duration
	// PresenceTimeout is how long somebody counts as online after their last connection has ended;
	// 0 means 30 seconds.
	PresenceTimeout time.Duration
	// NodeTimeout is how long people count as online whose node gives no sign of life; 0 means 30
	// seconds.
	NodeTimeout time.Duration
	// Sending is how messages share commits.
	Sending batch.Options
	// Nodes carries hints between this node and the others, while Run runs; nil is a node alone.
	Nodes *natsbus.Conn
	Log   *slog.Logger // nil means slog.Default

	maxNamed     int           // for tests; 0 means maxNamed
	roomPatience time.Duration // for tests; 0 means roomPatience
}

// Service is the conversations of one database.
type Service struct {
	db      *store.DB
	opts    Options
	sending *batch.Writer[model.ConversationID, *outgoing]

	sendingSQLite sqliteStatements

	hints *pubsub.Bus[hint]
	nodes *natsbus.Link[hint] // nil on a node alone
	lost  *lostHints

	people      *pubsub.Bus[news]
	nodesNews   *natsbus.Link[news] // nil on a node alone
	lostNews    *lostHints
	publishNews func(topic string, n news)

	typing        *pubsub.Bus[typingSign]
	nodesTyping   *natsbus.Link[typingSign] // nil on a node alone
	publishTyping func(topic string, sign typingSign)
	typists       *typists

	signs       *pubsub.Bus[sign]
	nodesSigns  *natsbus.Link[sign] // nil on a node alone
	publishSign func(topic string, told sign)
	attendance  *attendance
	watches     *presenceWatches
	readersMu   sync.Mutex // guards readers, and the users of each
	readers     map[model.ConversationID]*readers

	feedsMu       sync.Mutex // guards feeds, and the users of each; taken before a feed's own locks
	feeds         map[model.ConversationID]*feed
	rounds        atomic.Int64              // of comparing that have begun
	settled       atomic.Pointer[settled]   // by the newest round that succeeded
	keptCursorKey atomic.Pointer[cursorKey] // nil before it is needed
	replays       chan struct{}             // a place for each follower that reads what it missed
	ended         chan struct{}             // wakes the sweep
	// publish stands between a commit and the bus, so that a test can lose, double, delay and
	// shuffle hints.
	publish func(topic string, h hint)
}

// New makes the service. Run has to run beside it.
func New(db *store.DB, opts Options) *Service {
	if opts.CompareEvery == 0 {
		opts.CompareEvery = 3 * time.Second
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
	if opts.MaxReplayed == 0 {
		opts.MaxReplayed = 10_000
	}
	if opts.MaxConversations == 0 {
		opts.MaxConversations = 5_000
	}
	if opts.MaxReplays == 0 {
		opts.MaxReplays = 16
	}
	if opts.maxNamed == 0 {
		opts.maxNamed = maxNamed
	}
	if opts.roomPatience == 0 {
		opts.roomPatience = roomPatience
	}
	s := &Service{
		db: db, opts: opts, hints: pubsub.New[hint](), lost: newLostHints(),
		people: pubsub.New[news](), lostNews: newLostHints(),
		typing: pubsub.New[typingSign](), typists: newTypists(opts.TypingEvery),
		signs: pubsub.New[sign](), attendance: newAttendance(opts.PresenceTimeout, opts.NodeTimeout), watches: newPresenceWatches(),
		readers: map[model.ConversationID]*readers{},
		feeds:   map[model.ConversationID]*feed{}, replays: make(chan struct{}, opts.MaxReplays),
		ended: make(chan struct{}, 1),
	}
	s.sending = batch.New[model.ConversationID](s.storeMessages, opts.Sending)
	s.settled.Store(&settled{})
	s.publish, s.publishNews = s.hints.Publish, s.people.Publish
	s.publishTyping, s.publishSign = s.typing.Publish, s.signs.Publish
	s.signs.Handle(presenceTopic, s.watches.hear)
	s.signs.Handle(settingsTopic, s.watches.hear)
	if opts.Nodes != nil {
		s.joinNodes()
	}
	return s
}

// Run asks the database, again and again until ctx ends, which of the conversations that are
// followed here have moved, and hints at it: for the hint that never came, because the node that
// owed it is dead or cut off. Where it is known that hints may have been lost, it asks at once.
// Meanwhile hints go to the other nodes, and come from them, and it is kept who is online. What
// conversations had that have ended is deleted.
func (s *Service) Run(ctx context.Context) {
	var beside sync.WaitGroup
	defer beside.Wait()
	if s.nodes != nil {
		beside.Go(func() { s.nodes.Run(ctx) })
		beside.Go(func() { s.nodesNews.Run(ctx) })
		beside.Go(func() { s.nodesTyping.Run(ctx) })
		beside.Go(func() { s.nodesSigns.Run(ctx) })
	}
	beside.Go(func() { s.attend(ctx) })
	beside.Go(func() { s.watchPresences(ctx) })
	beside.Go(func() { s.sweep(ctx) })
	_ = s.noteReached(ctx) // else the first round does
	s.beginRounds(ctx)
	tick := time.NewTicker(s.opts.CompareEvery)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			err = s.compareAll(ctx)
		case <-s.lost.bell:
			err = s.compare(ctx, 0, s.lostFeeds())
		case <-s.lostNews.bell:
			s.lostNews.take()
			err = s.compareAll(ctx)
		}
		if err != nil && ctx.Err() == nil { // the next tick repairs what this should have
			s.opts.Log.Warn("cannot compare the followed conversations with the database", "error", err)
		}
	}
}

func (s *Service) openFeeds() []*feed {
	s.feedsMu.Lock()
	defer s.feedsMu.Unlock()
	return slices.Collect(maps.Values(s.feeds))
}

// lostFeeds are those for which hints may have been lost.
func (s *Service) lostFeeds() []*feed {
	topics, all := s.lost.take()
	if all {
		return s.openFeeds()
	}
	s.feedsMu.Lock()
	defer s.feedsMu.Unlock()
	var feeds []*feed
	for _, topic := range topics {
		if id, err := conversationOf(topic); err == nil && s.feeds[id] != nil {
			feeds = append(feeds, s.feeds[id])
		}
	}
	return feeds
}

// settled is what one round of comparing all followed conversations with the database has found
// out.
type settled struct {
	round   int64
	horizon int64 // read before the conversations were
}

// compareAll looks at everything that is followed here, conversations and people.
func (s *Service) compareAll(ctx context.Context) error {
	before := s.settled.Load()
	noted := s.noteReached(ctx) // where it cannot be, the horizon stays where it is
	horizon, err := s.horizon(ctx)
	if err != nil {
		return err
	}
	now := &settled{round: s.rounds.Add(1), horizon: horizon}
	if err := s.compare(ctx, now.round, s.openFeeds()); err != nil {
		return err
	}
	if err := s.retell(ctx, before.horizon); err != nil {
		return err
	}
	s.settled.Store(now)
	return noted
}

// beginRounds has the first round tell of what changes from now on. Streams that began before are
// told of everything.
func (s *Service) beginRounds(ctx context.Context) {
	horizon, err := s.horizon(ctx)
	if err == nil {
		err = s.retell(ctx, 0)
	}
	if err == nil { // else the first round tells everybody of everything
		s.settled.CompareAndSwap(s.settled.Load(), &settled{horizon: horizon})
	}
}

// retell tells those who listen here what has changed of memberships at or beyond a position.
func (s *Service) retell(ctx context.Context, since int64) error {
	if err := s.retellNews(ctx, since); err != nil {
		return err
	}
	return s.compareReaders(ctx, since)
}

// retellNews is retell for the streams of people.
func (s *Service) retellNews(ctx context.Context, since int64) error {
	var people []model.UserID
	for _, topic := range s.people.Topics() {
		if id, err := personOf(topic); err == nil {
			people = append(people, id)
		}
	}
	for some := range slices.Chunk(people, compareAtOnce) {
		for _, table := range []string{"conversation_members", "departures"} {
			var found []model.Departure
			err := s.db.NewSelect().Table(table).Column("user_id", "conversation_id").
				Where("position >= ?", since).Where("user_id IN (?)", bun.List(some)).Scan(ctx, &found)
			if err != nil {
				return store.Error(err)
			}
			for _, c := range found {
				s.people.Publish(personTopic(c.UserID), news{c.ConversationID})
			}
		}
	}
	return nil
}

// compareAtOnce bounds one statement.
const compareAtOnce = 1000

// compare tells feeds how far their conversations have come.
func (s *Service) compare(ctx context.Context, round int64, feeds []*feed) error {
	for some := range slices.Chunk(feeds, compareAtOnce) {
		ids := make([]model.ConversationID, len(some))
		for i, f := range some {
			ids[i] = f.id
		}
		var found []model.Conversation
		err := s.db.NewSelect().Model(&found).Column("id", "last_seq").Where("c.id IN (?)", bun.List(ids)).Scan(ctx)
		if err != nil {
			return err
		}
		last := make(map[model.ConversationID]int64, len(found))
		for _, c := range found {
			last[c.ID] = c.LastSeq
		}
		for _, f := range some {
			if seq, there := last[f.id]; there {
				f.compare(round, seq)
			} else {
				f.doubt()
			}
		}
	}
	return nil
}
