package feed

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"parley/membership"
	"parley/model"
	"parley/store"
)

// What tests of this package see of its inside.

type (
	OpenFeed     = feed
	ViewerCursor = viewerCursor
	Watermark    = watermark
	CursorKey    = cursorKey
	WireHint     = wireHint
)

const (
	ReadPage         = readPage
	MaxEarly         = maxEarly
	MaxNamed         = maxNamed
	SweepNamed       = sweepNamed
	MaxHint          = maxHint
	HintVersion      = hintVersion
	CursorVersion    = cursorVersion
	ViewerEventsList = viewerEventsList
	ReconcileBatch   = reconcileBatch
	RaiseAtOnce      = raiseAtOnce
)

var (
	EncodeHint       = encodeHint
	DecodeHint       = decodeHint
	ReadViewerCursor = readViewerCursor
	ErrStopped       = errStopped
)

// WithBounds changes how many conversations a cursor names at most, and how long a stream whose
// cursor is full waits; 0 is the default.
func WithBounds(maxNamed int, roomWait time.Duration) func(*Options) {
	return func(o *Options) { o.maxNamed, o.roomWait = maxNamed, roomWait }
}

func (s *Service) AcquireFeed(id model.ConversationID) *OpenFeed { return s.openFeed(id) }
func (f *feed) Release()                                         { f.release() }

// FeedOf returns the feed of a conversation that is followed.
func (s *Service) FeedOf(id model.ConversationID) *OpenFeed {
	f, _ := s.feeds.Get(id)
	return f
}

// ReadNow makes the feed of a conversation read up to a seq, as if a gap had expired.
func (s *Service) ReadNow(id model.ConversationID, seq int64) {
	f := s.FeedOf(id)
	f.startWorker(func() {
		f.inbox = append(f.inbox, Hint{Seq: seq})
		f.gapExpired = true
	})
}

// TakeSeq gives an event the next seq, without storing it.
func TakeSeq(ctx context.Context, tx *store.Tx, e *model.Event) error {
	_, err := nextSeq(ctx, tx, e)
	return err
}

func (f *feed) MarkGone() { f.markGone() }

func (f *feed) Edge() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.edge.Seq
}

// Early is how many events wait for those before them.
func (f *feed) Early() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.early)
}

// IsIdle reports whether a feed has nothing to do, and waits for nothing.
func (f *feed) IsIdle() bool {
	f.inboxMu.Lock()
	busy := f.working || len(f.inbox) > 0
	f.inboxMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	return !busy && f.gap == nil
}

// FollowerState is what a test sees of a follower.
type FollowerState struct {
	Actor           model.Actor
	Queued          int
	Checked         int64
	Behind, Removed bool
	Working         bool

	follower *follower
}

// Now returns the state as it is now.
func (s FollowerState) Now() FollowerState {
	fo := s.follower
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	return FollowerState{
		Actor: *fo.actor, Queued: len(fo.queue), Checked: fo.checked.Load(), Behind: fo.behind,
		Removed: fo.removed, Working: fo.working, follower: fo,
	}
}

// Followers returns the state of each follower.
func (f *feed) Followers() (states []FollowerState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for fo := range f.followers {
		states = append(states, FollowerState{follower: fo}.Now())
	}
	return states
}

// Run follows with bounds that were read before.
func (f *feed) Run(
	ctx context.Context, actor model.Actor, bounds membership.SeqBounds,
	yield func(Followed, error) bool,
) error {
	fo := &follower{
		stream: newStream(), feed: f, actor: &actor, id: f.id,
		seen: Place{bounds.Last, bounds.LastMark}, hidden: bounds.Hidden,
	}
	fo.checked.Store(bounds.Last)
	defer fo.detach()
	f.join(fo, fo.seen)
	return fo.run(ctx, yield)
}

// ReconcileAll runs one round of reconciling, as if the node knew of a new event.
func (s *Service) ReconcileAll(ctx context.Context) error {
	s.moved.Store(true)
	return s.reconcileAll(ctx)
}

func (s *Service) ReadCursorKey(ctx context.Context) (CursorKey, error) { return s.cursorKey(ctx) }

// Checkpoint writes a checkpoint if there is something new, and returns the newest.
func (s *Service) Checkpoint(ctx context.Context) (id int64, err error) {
	if err := s.writeCheckpoint(ctx); err != nil {
		return 0, err
	}
	c, err := s.newestCheckpoint(ctx)
	return c.id, err
}

// SuspectHistory is called when another server answers.
func (s *Service) SuspectHistory() { s.histories.suspect() }

// HistoriesFound counts how many times the node has found another history.
func (s *Service) HistoriesFound() int64 { return s.histories.found.Load() }

// ReconcileAround reconciles the feed of a conversation, and calls meanwhile when it knows what to
// compare.
func (s *Service) ReconcileAround(
	ctx context.Context, id model.ConversationID, meanwhile func(),
) error {
	f := s.FeedOf(id)
	edge, changes := f.edgeToReconcile()
	meanwhile()
	key := EventKey{id, edge.Seq}
	at, err := s.Places(ctx, []EventKey{key})
	f.reconcile(noRound, edge, changes, at[key], edge.Seq)
	return err
}

func (s *Service) HasCheckpoint(ctx context.Context, id int64) (bool, error) {
	return s.proves(ctx, id, 0)
}

// ReconciledLowWatermark is that of the newest round of reconciling.
func (s *Service) ReconciledLowWatermark() int64 { return s.reconciled.Load().low }

func EventsAfter(
	ctx context.Context, db bun.IDB, id model.ConversationID, after int64, limit int,
) ([]*model.Event, error) {
	events, _, err := eventsAfter(ctx, db, id, Place{Seq: after}, limit)
	return events, err
}

func (k cursorKey) MAC(owner model.UserID, content []byte) []byte { return k.mac(owner, content) }

func (c viewerCursor) Encode(k CursorKey, owner model.UserID) string { return c.encode(k, owner) }
func (c viewerCursor) Low() Watermark                                { return c.low }

// SetCheckpoint and SetPosition change a cursor.
func (c *viewerCursor) SetCheckpoint(id int64)     { c.checkpoint = id }
func (c *viewerCursor) SetPosition(position int64) { c.low.position = position }

// NewViewerCursor makes a cursor. A negative seq is that of a membership's end.
func NewViewerCursor(
	checkpoint, position int64, at model.ConversationID,
	delivered map[model.ConversationID]int64,
) ViewerCursor {
	c := viewerCursor{checkpoint, watermark{position, at}, map[model.ConversationID]progress{}}
	for id, seq := range delivered {
		c.delivered[id] = progressOf(seq, 0)
	}
	return c
}

// Seqs is what a cursor says of each conversation; negative for a membership's end.
func (c viewerCursor) Seqs() map[model.ConversationID]int64 {
	seqs := map[model.ConversationID]int64{}
	for id, p := range c.delivered {
		seqs[id] = p.signed()
	}
	return seqs
}

// ReadMemberships reads the memberships of a viewer's stream.
func ReadMemberships(
	ctx context.Context, s *Service, actor model.Actor,
) ([]ownMembership, error) {
	m := s.openViewerStream(actor)
	defer m.close()
	return m.queryMemberships(ctx)
}
