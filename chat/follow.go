package chat

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// followQueue is how many events wait for one follower before it goes back to reading the database.
const followQueue = 64

// Follow yields every event of a conversation after a seq, each exactly once, in order: first what
// is stored, then what comes live. after nil means from now on. The actor has to be a member
// (NOT_FOUND), and after must not be beyond the newest event (BAD_USER_INPUT).
//
// The sequence ends with one error: ctx's, or FORBIDDEN once the actor is no longer a member, after
// the event that says so. Of what happened before that and has not been yielded when the removal is
// noticed, nothing more is. A consumer may take its time: nobody waits for it, and it misses
// nothing.
func (s *Service) Follow(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *int64,
) (iter.Seq2[*model.Event, error], error) {
	followed, err := s.FollowAll(ctx, actor, id, after)
	if err != nil {
		return nil, err
	}
	return func(yield func(*model.Event, error) bool) {
		for item, err := range followed {
			if item.Event == nil && err == nil {
				continue // CaughtUp, which not everybody wants to know
			}
			if !yield(item.Event, err) {
				return
			}
		}
	}, nil
}

// Followed is an event or, where Event is nil, the news that everything up to CaughtUp has been
// told: what comes now is live.
type Followed struct {
	Event    *model.Event
	CaughtUp int64
}

// FollowAll is Follow that also says, once, where replay ends.
func (s *Service) FollowAll(
	ctx context.Context, actor model.Actor, id model.ConversationID, after *int64,
) (iter.Seq2[Followed, error], error) {
	// Whoever may not follow, or asks for what is not there, is told before anything begins.
	seen, err := s.startOf(ctx, actor, id, after)
	if err != nil {
		return nil, err
	}
	return func(yield func(Followed, error) bool) {
		st := newStream()
		fo, err := s.attach(ctx, st, actor, id, seen)
		if err == nil {
			defer fo.detach()
			err = fo.run(ctx, yield)
		}
		if !errors.Is(err, errStopped) {
			yield(Followed{}, err)
		}
	}, nil
}

var (
	errStopped = errors.New("the consumer has had enough")
	errRemoved = errs.New(errs.Forbidden, "You are no longer a member of this conversation.")
)

// stream is what one consumer follows, one conversation or many. Feeds put into it without waiting;
// the consumer takes.
type stream struct {
	bell chan struct{} // rings when there is something to take

	mu    sync.Mutex // guards what follows, and in each follower what says so; taken last
	ready []*follower
	news  []model.ConversationID // each once
}

func newStream() *stream { return &stream{bell: make(chan struct{}, 1)} }

// next waits for a follower that has something to do, or for news of conversations.
func (st *stream) next(ctx context.Context) (*follower, []model.ConversationID, error) {
	for {
		st.mu.Lock()
		var fo *follower
		if len(st.ready) > 0 {
			fo = st.ready[0]
			st.ready = st.ready[1:]
			fo.isReady = false
		}
		heard := st.news
		st.news = nil
		st.mu.Unlock()
		if fo != nil || heard != nil {
			return fo, heard, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-st.bell:
		}
	}
}

func (st *stream) tell(id model.ConversationID) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !slices.Contains(st.news, id) {
		st.news = append(st.news, id)
	}
	st.ring()
}

// takeReady takes all followers that have something to do.
func (st *stream) takeReady() []*follower {
	st.mu.Lock()
	defer st.mu.Unlock()
	ready := st.ready
	st.ready = nil
	for _, fo := range ready {
		fo.isReady = false
	}
	return ready
}

func (st *stream) hasNews() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.news) > 0
}

func (st *stream) ring() {
	select {
	case st.bell <- struct{}{}:
	default: // it rings already
	}
}

// follower is one conversation in a stream. What handing on an event needs stands together at the
// beginning: there are thousands of followers, and each piece of one that is looked at has to come
// from memory.
type follower struct {
	stream *stream
	sink   *sinking // nil for a consumer that takes
	seen   int64    // the event that the consumer had last; its own
	hidden int64    // messages up to this event are not for the actor to see

	// Guarded by the stream's lock.
	working bool // a goroutine delivers to the sink; else the feed does, and seen is guarded too
	// what comes after seen, up to missing, has to be read, because the queue does not have it
	behind  bool
	removed bool // the actor is a member no longer
	isReady bool
	missing int64
	queue   []*model.Event
	removal *model.Event // which says that the actor is a member no longer

	feed     *feed
	actor    *model.Actor // shared by the followers of a stream
	id       model.ConversationID
	checked  int64 // the newest event when the actor was found to be a member
	position int64 // of the membership; it changes with it
}

// attach begins to follow a conversation in a stream, after a seq.
func (s *Service) attach(
	ctx context.Context, st *stream, actor model.Actor, id model.ConversationID, seen int64,
) (*follower, error) {
	fo := &follower{stream: st, actor: &actor, id: id, seen: seen, feed: s.feedOf(id)}
	// After the feed listens, so that nothing falls between the two.
	err := onceThere(ctx, func() (err error) {
		fo.checked, fo.hidden, err = s.position(ctx, actor, id)
		return err
	})
	switch {
	case err == nil:
		// they may have been removed and added again since seen was read
		fo.seen = max(fo.seen, fo.hidden)
		fo.feed.join(fo, fo.checked)
	case errs.Is(err, errs.NotFound): // since it was begun
		fo.removed = true
		fo.ring()
	default:
		fo.feed.release()
		return nil, err
	}
	return fo, nil
}

// onceThere runs what needs the database, again for as long as that is away.
func onceThere(ctx context.Context, fn func() error) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := fn()
		if err == nil {
			return nil
		}
		if err := awaitDatabase(ctx, err, wait); err != nil {
			return err
		}
	}
}

// inTurn runs what reads much, one of a few at once: many who come back together do not take every
// connection to the database.
func (s *Service) inTurn(ctx context.Context, fn func() error) error {
	select {
	case s.replays <- struct{}{}:
		defer func() { <-s.replays }()
		return fn()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitDatabase waits where the database is away, and returns any other error.
func awaitDatabase(ctx context.Context, err error, wait time.Duration) error {
	if errors.Is(err, errStopped) || errors.Is(err, errRemoved) {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // whatever the database made of it
	}
	if !errs.Is(err, errs.Unavailable) {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(wait):
		return nil
	}
}

func (fo *follower) detach() { fo.feed.leave(fo) }

// push adds events that follow each other, and what was pushed before.
func (fo *follower) push(events []*model.Event) {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	switch {
	case fo.removed:
		return
	case fo.behind:
		fo.missing = max(fo.missing, events[len(events)-1].Seq)
		return
	case fo.sink != nil && !fo.working:
		fo.deliverLive(events)
		return
	case len(fo.queue)+len(events) > followQueue: // too slow: it reads at its own speed
		fo.queue, fo.behind, fo.missing = nil, true, events[len(events)-1].Seq
	default:
		fo.queue = append(fo.queue, events...)
	}
	fo.ring()
}

// fallBehind drops what is queued: everything up to a seq has to be read, and what comes until
// then.
func (fo *follower) fallBehind(missing int64) {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	fo.queue, fo.behind, fo.missing = nil, true, max(fo.missing, missing)
	fo.ring()
}

func (fo *follower) remove(e *model.Event) {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	if !fo.removed {
		fo.queue, fo.removed, fo.removal = nil, true, e
		fo.ring()
	}
}

func (fo *follower) ring() {
	if fo.sink != nil {
		fo.begin()
		return
	}
	if !fo.isReady {
		fo.isReady = true
		fo.stream.ready = append(fo.stream.ready, fo)
	}
	fo.stream.ring()
}

// take empties what has been put in. behind is false where what was missing has been read
// meanwhile.
func (fo *follower) take() (events []*model.Event, behind, removed bool) {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	events, behind = fo.queue, fo.behind && fo.missing > fo.seen
	fo.queue, fo.behind, fo.missing = nil, false, 0
	return events, behind, fo.removed
}

// notice is take for who reads none of what has to be read: then it is missed. errRemoved once the
// actor is a member no longer.
func (fo *follower) notice(ctx context.Context) (events []*model.Event, missed bool, err error) {
	events, missed, removed := fo.take()
	if missed && !removed { // also where the conversation seems to be gone
		err = onceThere(ctx, func() error {
			_, err := memberOf(ctx, fo.feed.service.db, *fo.actor, fo.id)
			return err
		})
		removed = errs.Is(err, errs.NotFound)
	}
	if removed {
		return nil, false, errRemoved
	}
	return events, missed, err
}

// hasMore reports whether there is something to drain. Without, it forgets what has been read
// meanwhile.
func (fo *follower) hasMore() bool {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	if fo.removed || fo.behind && fo.missing > fo.seen || len(fo.queue) > 0 && fo.queue[len(fo.queue)-1].Seq > fo.seen {
		return true
	}
	fo.queue, fo.behind, fo.missing = nil, false, 0
	return false
}

func (fo *follower) isRemoved() bool {
	fo.stream.mu.Lock()
	defer fo.stream.mu.Unlock()
	return fo.removed
}

func (fo *follower) run(ctx context.Context, yield func(Followed, error) bool) error {
	deliver := func(e *model.Event) error {
		if !yield(Followed{Event: e}, nil) {
			return errStopped
		}
		return nil
	}
	// What there is already comes first, if only to find that there is nothing.
	if err := fo.drain(ctx, deliver); err != nil {
		return err
	}
	if !yield(Followed{CaughtUp: fo.seen}, nil) {
		return errStopped
	}
	for {
		if _, _, err := fo.stream.next(ctx); err != nil {
			return err
		}
		if err := fo.drain(ctx, deliver); err != nil {
			return err
		}
	}
}

// drain delivers what there is. It returns errRemoved after the event that says so.
func (fo *follower) drain(ctx context.Context, deliver func(*model.Event) error) error {
	events, behind, removed := fo.take()
	if removed {
		return fo.deliverRemoval(ctx, deliver)
	}
	if behind {
		if err := fo.catchUp(ctx, deliver); err != nil {
			return err
		}
	}
	for _, e := range events {
		if e.Seq <= fo.seen { // it was read already
			continue
		}
		if fo.isRemoved() {
			return fo.deliverRemoval(ctx, deliver)
		}
		if err := fo.deliver(e, deliver); err != nil {
			return err
		}
	}
	return nil
}

// deliver hands an event on. One about a message that the actor may not see goes without it.
func (fo *follower) deliver(e *model.Event, deliver func(*model.Event) error) error {
	fo.seen = e.Seq
	if e.Message != nil && e.Message.Seq <= fo.hidden {
		bare := *e
		bare.Message = nil
		e = &bare
	}
	return deliver(e)
}

// endsWith reports whether an event ends the membership that is followed; those of earlier ones do
// not.
func (fo *follower) endsWith(e *model.Event) bool {
	if e.Kind != model.MemberRemoved || e.Seq <= fo.checked {
		return false
	}
	var removed model.MemberRemovedData
	if err := json.Unmarshal(e.Data, &removed); err != nil {
		fo.feed.service.opts.Log.Error("the event of a removal cannot be read", "conversation", fo.id, "seq", e.Seq, "error", err)
		return false
	}
	return removed.UserID == fo.actor.UserID
}

// catchUp reads and delivers everything that is stored beyond what was seen. While the database is
// away it waits for it.
func (fo *follower) catchUp(ctx context.Context, deliver func(*model.Event) error) error {
	return onceThere(ctx, func() error { return fo.tryCatchUp(ctx, deliver) })
}

func (fo *follower) tryCatchUp(ctx context.Context, deliver func(*model.Event) error) error {
	for {
		events, err := fo.readPage(ctx, feedPage)
		switch {
		case errors.Is(err, errRemoved):
			return fo.deliverRemoval(ctx, deliver)
		case err != nil:
			return err
		}
		for _, e := range events {
			if fo.isRemoved() {
				return fo.deliverRemoval(ctx, deliver)
			}
			if err := fo.deliver(e, deliver); err != nil {
				return err
			}
			if fo.endsWith(e) { // and they are back: which is another membership
				return errRemoved
			}
		}
		if len(events) < feedPage {
			return nil
		}
	}
}

// catchUpTo reads and delivers everything up to a seq. It returns errRemoved, and delivers no
// removal, where the actor is found to be a member no longer. While the database is away it waits
// for it.
func (fo *follower) catchUpTo(ctx context.Context, seq int64, deliver func(*model.Event) error) error {
	return onceThere(ctx, func() error {
		for fo.seen < seq {
			events, err := fo.readPage(ctx, int(min(seq-fo.seen, feedPage)))
			if err != nil {
				return err
			}
			if len(events) == 0 {
				return errRemoved // with the conversation
			}
			for _, e := range events {
				if fo.isRemoved() || fo.endsWith(e) {
					return errRemoved
				}
				if err := fo.deliver(e, deliver); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// readPage reads what comes next; errRemoved where the actor is found to be a member no longer.
func (fo *follower) readPage(ctx context.Context, limit int) ([]*model.Event, error) {
	var events []*model.Event
	err := fo.feed.service.inTurn(ctx, func() (err error) {
		if events, err = eventsAfter(ctx, fo.feed.service.db, fo.id, fo.seen, limit); err != nil {
			return store.Error(err)
		}
		// After the reading: nothing is yielded that was read after a removal had been committed.
		m, err := memberOf(ctx, fo.feed.service.db, *fo.actor, fo.id)
		// or removed, and already back
		if errs.Is(err, errs.NotFound) || err == nil && m.HiddenSeq > fo.seen {
			return errRemoved
		}
		return err
	})
	return events, err
}

// deliverRemoval ends what somebody follows who is no longer a member: with the event that says so,
// and nothing of what else happened meanwhile.
func (fo *follower) deliverRemoval(ctx context.Context, deliver func(*model.Event) error) error {
	fo.stream.mu.Lock()
	removal := fo.removal
	fo.stream.mu.Unlock()
	if removal == nil {
		var err error
		if removal, err = fo.readRemoval(ctx); err != nil {
			return err
		}
	}
	if removal == nil || removal.Seq <= fo.seen {
		return errRemoved // with the conversation itself
	}
	fo.seen = removal.Seq
	return cmp.Or[error](deliver(removal), errRemoved)
}

func (fo *follower) readRemoval(ctx context.Context) (*model.Event, error) {
	removals, err := removalsAfter(ctx, fo.feed.service.db, fo.id, fo.seen)
	if err != nil {
		return nil, store.Error(err)
	}
	for _, e := range removals {
		if fo.endsWith(e) {
			return e, nil
		}
	}
	return nil, nil //nolint:nilnil // there is none
}

// removalsAfter reads who has stopped to be a member after a seq, oldest first: of somebody who was
// removed twice, the first removal is the end of what was followed.
func removalsAfter(
	ctx context.Context, db bun.IDB, id model.ConversationID, after int64,
) (removals []*model.Event, err error) {
	err = db.NewSelect().Model(&removals).Where("e.conversation_id = ?", id).Where("e.seq > ?", after).
		Where("e.kind = ?", model.MemberRemoved).OrderExpr("e.seq").Scan(ctx)
	return removals, err
}

// RemovedSince reports whether anybody has stopped to be a member of a conversation after an event.
func (s *Service) RemovedSince(ctx context.Context, id model.ConversationID, seq int64) (bool, error) {
	removed, err := s.db.NewSelect().Model((*model.Event)(nil)).Where("e.conversation_id = ?", id).Where("e.seq > ?", seq).
		Where("e.kind = ?", model.MemberRemoved).Exists(ctx)
	return removed, store.Error(err)
}
