package feed

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math"
	"time"

	"parley/model"
	"parley/store"
)

// ViewerEvent is one item of the stream of a viewer's events. Exactly one field besides Cursor is
// set.
type ViewerEvent struct {
	Cursor   string // where the stream stands after this item
	Event    *model.Event
	Joined   *model.ConversationID // the actor has become a member
	Left     *model.ConversationID // the actor is no longer a member, or the conversation is gone
	CaughtUp bool                  // the following items are live
	Reset    bool                  // items were skipped: the stream begins again, from now
}

// ViewerEvents yields every event that the actor may see, in all their conversations: after a
// cursor first what was missed, then CaughtUp, then live events. Without a cursor it begins now.
// Within a conversation the order is that of seq. A client that resumes with the cursor of the last
// item, as often as it likes, misses no event and gets none twice. It returns BAD_USER_INPUT for a
// cursor that is not the actor's, before it reads anything.
//
// No cursor names more than maxNamed conversations: see sweep for how that holds while a stream
// catches up with thousands, and makeRoom for when thousands are busy at once.
func (s *Service) ViewerEvents(
	ctx context.Context, actor model.Actor, after *string,
) (iter.Seq2[ViewerEvent, error], error) {
	key, err := s.cursorKey(ctx)
	if err != nil {
		return nil, err
	}
	var from *viewerCursor
	if after != nil {
		read, err := readViewerCursor(key, actor.UserID, *after)
		if err != nil {
			return nil, err
		}
		from = &read
	}
	return func(yield func(ViewerEvent, error) bool) {
		m := &viewerEvents{viewerStream: s.openViewerStream(actor), key: key, yield: yield}
		defer m.close()
		if err := m.run(ctx, from); !errors.Is(err, errStopped) {
			yield(ViewerEvent{}, err)
		}
	}, nil
}

// viewerEvents is one stream of a viewer's events. Only its own goroutine uses it.
type viewerEvents struct {
	*viewerStream
	key   cursorKey
	yield func(ViewerEvent, error) bool

	epoch int64
	low   watermark
	// delivered has the conversations of which low does not say how far they have been delivered.
	delivered map[model.ConversationID]progress
	// the highest position that may have been delivered of each
	newest map[model.ConversationID]int64
	// departures that have been delivered, and are above low
	left   map[model.ConversationID]model.Departure
	joined map[model.ConversationID]bool // before this run, see streamStart
	// memberships whose beginning has yet to be delivered
	joining map[model.ConversationID]ownMembership
	// whose removal has been delivered, and its Left not yet
	leaving model.ConversationID
	// of which membership hints have yet to be handled
	changed []model.ConversationID
	// everything that was missed has been delivered
	live  bool
	round int64 // of reconciling, which low is from
	// CaughtUp has been yielded since the last Reset
	caughtUp bool
}

var (
	errFull = errors.New("the cursor names as many conversations as a live stream's cursor may")
	errOver = errors.New("the cursor would name more conversations than any cursor may")
)

// run delivers until the cursor is full, makes room in it, and resumes from there as a client
// would. If nothing else keeps the cursor within its bound, the stream is reset.
func (m *viewerEvents) run(ctx context.Context, from *viewerCursor) error {
	start := streamStart{from: from, limit: int64(m.service.opts.MaxReplayed)}
	for {
		err := m.runFrom(ctx, start)
		room := false
		switch {
		case errors.Is(err, errFull):
			if room, err = m.awaitRoom(ctx); err != nil {
				return err
			}
		case !errors.Is(err, errOver):
			return err
		}
		stand := m.cursor()
		start = streamStart{from: &stand, limit: noLimit, reset: !room}
		if start.reset {
			m.service.opts.Log.Warn(
				"a stream of events is reset: a long transaction holds the low watermark back",
				"user", m.actor.UserID)
			continue
		}
		start.joined = map[model.ConversationID]bool{}
		for id := range m.followers {
			_, joining := m.joining[id]
			start.joined[id] = !joining
		}
	}
}

// streamStart is where a stream starts.
type streamStart struct {
	from  *viewerCursor // nil means now
	limit int64         // how many items may have been missed
	reset bool          // start now, and yield Reset
	// joined has the conversations whose Joined has been yielded, or that the cursor's owner was
	// in, without a Left since.
	joined map[model.ConversationID]bool
}

// noLimit is the limit of a stream that goes on from its own cursor.
const noLimit = math.MaxInt64

func (m *viewerEvents) runFrom(ctx context.Context, b streamStart) error {
	m.live, m.joined = false, b.joined
	var r resumption
	err := retryWhileUnavailable(ctx, func() (err error) {
		r, err = m.tryBegin(ctx, b)
		return err
	})
	if err != nil {
		return err
	}
	if r.reset {
		m.caughtUp = false
		if err := m.item(ViewerEvent{Reset: true}); err != nil {
			return err
		}
	}
	// Otherwise nothing was missed, and events since the start are live.
	if b.from != nil && !r.reset {
		if err := m.catchUp(ctx, r); err != nil {
			return err
		}
	}
	m.live = true
	if !m.caughtUp {
		m.caughtUp = true
		if err := m.item(ViewerEvent{CaughtUp: true}); err != nil {
			return err
		}
	}
	return m.deliverLive(ctx)
}

// deliverLive delivers live events and memberships until ctx ends.
func (m *viewerEvents) deliverLive(ctx context.Context) error {
	for {
		fo, changed, err := m.stream.next(ctx)
		if err != nil {
			return err
		}
		for m.changed = changed; len(m.changed) > 0; m.changed = m.changed[1:] {
			if err := m.makeRoom(m.changed[0]); err != nil {
				return err
			}
			if err := m.reconcile(ctx, m.changed[0]); err != nil {
				return err
			}
		}
		if fo != nil {
			if err := m.drainFollower(ctx, fo); err != nil {
				return err
			}
		}
	}
}

// drainFollower drains one ready follower.
func (m *viewerEvents) drainFollower(ctx context.Context, fo *follower) error {
	if m.followers[fo.id] != fo || !fo.hasMore() {
		return nil
	}
	if err := m.makeRoom(fo.id); err != nil {
		return err
	}
	return m.drain(ctx, fo)
}

// makeRoom makes sure that the cursor may name a conversation. If it names as many as it may, it
// first adopts what the node's newest round of reconciling has found. If that is not enough,
// errFull ends this run, and the stream resumes from its own cursor: then sweep delivers what is
// below the low watermark of that moment, and the cursor no longer has to name those conversations.
func (m *viewerEvents) makeRoom(id model.ConversationID) error {
	if m.hasRoom(id) {
		return nil
	}
	m.adoptReconciled()
	if m.hasRoom(id) {
		return nil
	}
	return errFull
}

func (m *viewerEvents) hasRoom(id model.ConversationID) bool {
	_, delivered := m.delivered[id]
	_, left := m.left[id]
	return delivered || left || len(m.delivered)+len(m.left) < m.service.opts.maxNamed
}

// roomWait is how long, about, a stream whose cursor is full waits for transactions that hold the
// low watermark back; the first wait between two looks is firstRoomWait, and each is twice the one
// before.
const (
	roomWait      = 10 * time.Second
	firstRoomWait = 10 * time.Millisecond
)

// awaitRoom waits until the database's low watermark is above most of what has been delivered. It
// returns false if a long transaction holds the low watermark back.
func (m *viewerEvents) awaitRoom(ctx context.Context) (ok bool, err error) {
	for waited, wait := time.Duration(0), firstRoomWait; ; waited, wait = waited+wait, 2*wait {
		var low int64
		err := store.RetryWhileUnavailable(ctx, func() (err error) {
			if err = m.service.recordReached(ctx); err == nil {
				low, err = m.service.LowWatermark(ctx)
			}
			return err
		})
		if err != nil {
			return false, err
		}
		held := 0
		for id := range m.delivered {
			if m.newest[id] >= low {
				held++
			}
		}
		for _, d := range m.left {
			if d.Position >= low {
				held++
			}
		}
		if held <= m.service.opts.maxNamed/2 {
			return true, nil
		}
		if waited >= m.service.opts.roomWait {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// raiseLow raises the low watermark to an event, if there is one, before which everything has been
// delivered.
func (m *viewerEvents) raiseLow(e *model.Event) {
	if e != nil {
		m.low = watermark{e.Position, e.ConversationID}
		m.prune()
	}
}

// prune removes from the cursor what the low watermark says already.
func (m *viewerEvents) prune() {
	for id := range m.delivered {
		if m.low.isBelow(m.newest[id], id) {
			delete(m.delivered, id)
			delete(m.newest, id)
		}
	}
	for id, d := range m.left {
		if m.low.isBelow(d.Position, id) {
			delete(m.left, id)
		}
	}
}

// cursor is where the stream stands.
func (m *viewerEvents) cursor() viewerCursor {
	delivered := maps.Clone(m.delivered)
	for id, d := range m.left {
		delivered[id] = progress{d.Seq, true}
	}
	return viewerCursor{m.epoch, m.low, delivered}
}

// item yields one item, with the cursor that stands behind it.
func (m *viewerEvents) item(e ViewerEvent) error {
	m.adoptReconciled()
	if len(m.delivered)+len(m.left) > m.service.opts.maxNamed+sweepNamed {
		return errOver
	}
	e.Cursor = m.cursor().encode(m.key, m.actor.UserID)
	if !m.yield(e, nil) {
		return errStopped
	}
	return nil
}

// adoptReconciled adopts the low watermark of the node's newest round of reconciling. That round
// read the newest seq of each conversation after the low watermark. A conversation of which all
// that has been delivered, and nothing above the low watermark, need not be named any more. If more
// conversations would have to be named than may be, nothing changes.
func (m *viewerEvents) adoptReconciled() {
	reconciled := m.service.reconciled.Load()
	if !m.live || reconciled.round == m.round || reconciled.lowWatermark < m.low.position {
		return
	}
	// which may be of a conversation that is not followed yet; delivered of before reconciled was
	if len(m.changed) > 0 || m.stream.hasChanged() {
		return
	}
	low := watermark{position: reconciled.lowWatermark}
	delivered := map[model.ConversationID]progress{}
	for id, fo := range m.followers {
		last, known := fo.feed.reconciledIn(reconciled.round)
		if !known || fo.seen < last || m.newest[id] >= low.position || id == m.leaving {
			delivered[id] = progress{seq: fo.seen}
		}
		if len(delivered) > m.service.opts.maxNamed {
			return
		}
	}
	left := maps.Clone(m.left)
	maps.DeleteFunc(left, func(id model.ConversationID,
		d model.Departure,
	) bool {
		return low.isBelow(d.Position, id)
	})
	if len(delivered)+len(left) > m.service.opts.maxNamed {
		return
	}
	m.delivered, m.left, m.low, m.round = delivered, left, low, reconciled.round
}

// deliverJoined delivers the beginning of a membership, which is at a position or below it. With
// that the low watermark rises to last, if there is one.
func (m *viewerEvents) deliverJoined(fo *follower, position int64, last *model.Event) error {
	own := m.joining[fo.id]
	if m.joined[fo.id] { // who is live is delivered of the end before, too
		d := model.Departure{
			UserID: m.actor.UserID, ConversationID: fo.id, Seq: own.JoinedSeq - 1,
			Position: position,
		}
		if err := m.deliverLeft(d); err != nil {
			return err
		}
	}
	delete(m.left, fo.id)
	delete(m.joining, fo.id)
	m.delivered[fo.id] = progress{seq: fo.seen}
	m.newest[fo.id] = max(m.newest[fo.id], position)
	m.raiseLow(last)
	return m.item(ViewerEvent{Joined: &fo.id})
}

// deliverLeft delivers the end of a membership.
func (m *viewerEvents) deliverLeft(d model.Departure) error {
	m.leaving = model.ConversationID{}
	delete(m.joined, d.ConversationID)
	delete(m.delivered, d.ConversationID)
	delete(m.newest, d.ConversationID)
	if !m.low.isBelow(d.Position, d.ConversationID) {
		m.left[d.ConversationID] = d
	}
	return m.item(ViewerEvent{Left: &d.ConversationID})
}

// drain delivers what one follower has, and the end of its membership.
func (m *viewerEvents) drain(ctx context.Context, fo *follower) error {
	err := fo.drain(ctx, func(e *model.Event) error {
		if fo.endsWith(e) {
			m.leaving = fo.id
		}
		m.delivered[fo.id] = progress{seq: e.Seq}
		m.newest[fo.id] = max(m.newest[fo.id], e.Position)
		return m.item(ViewerEvent{Event: e})
	})
	if !errors.Is(err, errRemoved) {
		return err
	}
	m.drop(fo)
	d, _, err := m.departure(ctx, fo.id)
	if err != nil {
		return err
	}
	if err := m.deliverLeft(d); err != nil {
		return err
	}
	return m.reconcile(ctx, fo.id) // the actor may have been added again
}

// departure reads the newest end of the actor's membership. stored is false if the row is gone, as
// with the conversation: no cursor has to know of it then.
func (m *viewerEvents) departure(
	ctx context.Context, id model.ConversationID,
) (d model.Departure, stored bool, err error) {
	var found []model.Departure
	err = store.RetryWhileUnavailable(ctx, func() error {
		found = nil
		return store.Error(m.service.db.NewSelect().Model(&found).
			Where("d.user_id = ?", m.actor.UserID).Where("d.conversation_id = ?", id).Scan(ctx))
	})
	if len(found) == 0 {
		return model.Departure{UserID: m.actor.UserID, ConversationID: id}, false, err
	}
	return found[0], true, err
}

// reconcile delivers what a membership hint is about.
func (m *viewerEvents) reconcile(ctx context.Context, id model.ConversationID) error {
	f, own, err := m.checkMembership(ctx, id)
	if err != nil {
		return err
	}
	if own == nil && m.followers[id] == nil {
		return m.deliverMissedEnd(ctx, id)
	}
	if own == nil {
		return nil
	}
	fo := m.follow(f, *own, max(own.JoinedSeq, own.HiddenSeq))
	if err := m.deliverJoined(fo, own.Position, nil); err != nil {
		return err
	}
	return m.drain(ctx, fo)
}

// deliverMissedEnd reports a membership that began and ended before the stream saw it, as it would
// be reported to a client that was offline.
func (m *viewerEvents) deliverMissedEnd(ctx context.Context, id model.ConversationID) error {
	d, stored, err := m.departure(ctx, id)
	if err != nil || !stored || m.low.isBelow(d.Position, id) || m.left[id].Seq >= d.Seq {
		return err
	}
	if _, known := m.left[id]; known { // an earlier end has been delivered
		m.left[id] = d
		return nil
	}
	return m.deliverLeft(d)
}
