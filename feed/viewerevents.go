package feed

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
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
	Reset    bool                  // items were skipped: the stream starts again, from now
}

// ViewerEvents yields every event that the actor may see, in all their conversations: after a
// cursor first what was missed, then CaughtUp, then live events. Without a cursor it starts now.
// Within a conversation events are in order of seq. A client may resume any number of times with
// the cursor of the last item that it got: it misses no event and gets none twice, unless an item
// is Reset. ViewerEvents returns BAD_USER_INPUT for a cursor that is not the actor's, before it
// reads anything. The sequence ends with ctx's error.
//
// No cursor names more than maxNamed+sweepNamed conversations: see sweep for how that holds while a
// stream catches up with thousands, and makeRoom for when thousands are busy at once.
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
		v := &viewerEvents{
			viewerStream: s.openViewerStream(actor), key: key, yield: yield, ctx: ctx,
		}
		defer v.close()
		defer s.histories.add(v.stream)()
		if err := v.run(ctx, from); !errors.Is(err, errStopped) {
			yield(ViewerEvent{}, err)
		}
	}, nil
}

// viewerEvents is one stream of a viewer's events. Only its own goroutine uses it.
type viewerEvents struct {
	*viewerStream
	key   cursorKey
	yield func(ViewerEvent, error) bool
	ctx   context.Context //nolint:containedctx // of the sequence

	history    int64     // the value of histories.found when the stream started or was reset
	checkpoint int64     // the id of a checkpoint whose low watermark is not below low
	low        watermark // everything below it has been delivered
	// delivered is how far the conversations are delivered of which events above low are delivered.
	delivered map[model.ConversationID]progress
	// newest is the highest position in each of them that may be delivered.
	newest map[model.ConversationID]int64
	// ended are the departures above low whose Left is delivered.
	ended map[model.ConversationID]departure
	// joined is startPoint.joined, less the conversations whose Left is delivered.
	joined map[model.ConversationID]bool
	// joining are the memberships whose Joined is yet to be delivered.
	joining map[model.ConversationID]ownMembership
	// leaving is the conversation whose removal event is delivered and whose Left is not.
	leaving model.ConversationID
	// changed are the conversations whose membership hints are yet to be reconciled.
	changed  []model.ConversationID
	live     bool  // everything that was missed is delivered
	round    int64 // the round of reconciling that low comes from
	caughtUp bool  // CaughtUp is delivered since the last Reset
}

var (
	errFull = errors.New("the cursor names as many conversations as a live stream's cursor may")
	// errOtherHistory is returned if the service has found that the database went back.
	errOtherHistory = errors.New("the database has another history than before")
	errTooMany      = errors.New("the cursor would name more conversations than any cursor may")
)

// run delivers until ctx ends. Whenever the cursor is full, it makes room in it, and resumes from
// there as a client would. If nothing else keeps the cursor within its bound, the stream is reset.
func (v *viewerEvents) run(ctx context.Context, from *viewerCursor) error {
	start := startPoint{from: from, limit: int64(v.service.opts.MaxReplayed)}
	for {
		err := v.runFrom(ctx, start)
		room := false
		switch {
		case errors.Is(err, errFull):
			if room, err = v.awaitRoom(ctx); err != nil {
				return err
			}
		case errors.Is(err, errOtherHistory), errs.Is(err, errs.HistoryChanged):
			start = startPoint{from: &viewerCursor{}, reset: true}
			continue
		case !errors.Is(err, errTooMany):
			return err
		}
		reached := v.cursor()
		start = startPoint{from: &reached, limit: noLimit, reset: !room}
		if start.reset {
			v.service.opts.Log.Warn(
				"a stream of events is reset: a long transaction holds the low watermark back",
				"user", v.actor.UserID)
			continue
		}
		start.joined = v.stillJoined()
	}
}

// stillJoined returns the conversations that the consumer knows to be in. A membership whose Joined
// is yet to be delivered does not count, but an earlier one does until its Left is delivered.
func (v *viewerEvents) stillJoined() map[model.ConversationID]bool {
	joined := map[model.ConversationID]bool{}
	maps.Copy(joined, v.joined)
	for id := range v.followers {
		if _, joining := v.joining[id]; !joining {
			joined[id] = true
		}
	}
	return joined
}

// startPoint is where a stream starts.
type startPoint struct {
	from  *viewerCursor // nil means now
	limit int64         // how many items may have been missed; above it the stream is reset
	reset bool          // ignore from: start now, and deliver Reset
	// joined are the conversations that the consumer knows to be in: their Joined is delivered, or
	// was not necessary, and no Left has followed. Only a stream that goes on from its own cursor
	// knows them.
	joined map[model.ConversationID]bool
}

// noLimit is the limit of a stream that goes on from its own cursor.
const noLimit = math.MaxInt64

// runFrom catches up from a point and then delivers live events, until an error ends it.
func (v *viewerEvents) runFrom(ctx context.Context, start startPoint) error {
	v.live, v.joined = false, start.joined
	var r backlog
	err := store.RetryWhileUnavailable(ctx, func() (err error) {
		r, err = v.tryStart(ctx, start)
		return err
	})
	if err != nil {
		return err
	}
	if r.reset {
		v.caughtUp, v.joined = false, nil
		if err := v.deliverItem(ViewerEvent{Reset: true}); err != nil {
			return err
		}
	}
	// Without a cursor, or after a reset, nothing was missed, and every event is live.
	if start.from != nil && !r.reset {
		if err := v.catchUp(ctx, r); err != nil {
			return err
		}
	}
	v.live = true
	if !v.caughtUp {
		v.caughtUp = true
		if err := v.deliverItem(ViewerEvent{CaughtUp: true}); err != nil {
			return err
		}
	}
	return v.deliverLive(ctx)
}

// deliverLive delivers live events, and the beginnings and ends of memberships, until ctx ends.
func (v *viewerEvents) deliverLive(ctx context.Context) error {
	for {
		fo, changed, err := v.stream.next(ctx)
		if err != nil {
			return err
		}
		for v.changed = changed; len(v.changed) > 0; v.changed = v.changed[1:] {
			if err := v.makeRoom(v.changed[0]); err != nil {
				return err
			}
			if err := v.reconcile(ctx, v.changed[0]); err != nil {
				return err
			}
		}
		if fo != nil {
			if err := v.drainFollower(ctx, fo); err != nil {
				return err
			}
		}
	}
}

// drainFollower drains a ready follower, unless it was detached or its events were read meanwhile.
func (v *viewerEvents) drainFollower(ctx context.Context, fo *follower) error {
	if v.followers[fo.id] != fo || !fo.hasMore() {
		return nil
	}
	if err := v.makeRoom(fo.id); err != nil {
		return err
	}
	return v.drain(ctx, fo)
}

// makeRoom makes sure that the cursor may name a conversation. If it names as many as it may, it
// first adopts what the node's newest round of reconciling has found. If that is not enough,
// errFull ends this run, and the stream resumes from its own cursor. Then sweep delivers everything
// below the low watermark of that moment, and the cursor need no longer name those conversations.
func (v *viewerEvents) makeRoom(id model.ConversationID) error {
	if v.hasRoom(id) {
		return nil
	}
	v.adoptReconciled()
	if v.hasRoom(id) {
		return nil
	}
	return errFull
}

func (v *viewerEvents) hasRoom(id model.ConversationID) bool {
	_, delivered := v.delivered[id]
	_, ended := v.ended[id]
	return delivered || ended || len(v.delivered)+len(v.ended) < v.service.opts.maxNamed
}

const (
	// roomWait is how long, about, a stream whose cursor is full waits for transactions that hold
	// the low watermark back.
	roomWait = 10 * time.Second
	// firstRoomWait is the first wait between two looks; each is twice the one before.
	firstRoomWait = 10 * time.Millisecond
)

// awaitRoom waits until the database's low watermark is above most of what the cursor names. It
// returns false if a long transaction holds the low watermark back for too long.
func (v *viewerEvents) awaitRoom(ctx context.Context) (ok bool, err error) {
	for waited, wait := time.Duration(0), firstRoomWait; ; waited, wait = waited+wait, 2*wait {
		var low int64
		err := store.RetryWhileUnavailable(ctx, func() (err error) {
			if err = v.service.writeCheckpoint(ctx); err == nil {
				low, err = v.service.LowWatermark(ctx)
			}
			return err
		})
		if err != nil {
			return false, err
		}
		held := 0
		for id := range v.delivered {
			if v.newest[id] >= low {
				held++
			}
		}
		for _, d := range v.ended {
			if d.Position >= low {
				held++
			}
		}
		if held <= v.service.opts.maxNamed/2 {
			return true, nil
		}
		if waited >= v.service.opts.roomWait {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// raiseLow raises the low watermark to an event below which everything is delivered; nil does
// nothing.
func (v *viewerEvents) raiseLow(e *model.Event) {
	if e != nil {
		v.low = watermark{e.Position, e.ConversationID}
		v.prune()
	}
}

// prune removes from the cursor what the low watermark says already.
func (v *viewerEvents) prune() {
	for id := range v.delivered {
		if v.low.isBelow(v.newest[id], id) {
			delete(v.delivered, id)
			delete(v.newest, id)
		}
	}
	for id, d := range v.ended {
		if v.low.isBelow(d.Position, id) {
			delete(v.ended, id)
		}
	}
}

// cursor returns where the stream stands.
func (v *viewerEvents) cursor() viewerCursor {
	delivered := maps.Clone(v.delivered)
	for id, d := range v.ended {
		delivered[id] = progress{Place{d.Seq, d.Mark}, true}
	}
	return viewerCursor{v.checkpoint, v.low, delivered}
}

// deliverItem yields one item, with the cursor that stands behind it.
func (v *viewerEvents) deliverItem(e ViewerEvent) error {
	if err := v.service.histories.await(v.ctx); err != nil {
		return err
	}
	if v.service.histories.found.Load() != v.history {
		return errOtherHistory
	}
	v.adoptReconciled()
	if len(v.delivered)+len(v.ended) > v.service.opts.maxNamed+sweepNamed {
		return errTooMany
	}
	e.Cursor = v.cursor().encode(v.key, v.actor.UserID)
	if !v.yield(e, nil) {
		return errStopped
	}
	return nil
}

// adoptReconciled adopts the low watermark of the node's newest round of reconciling. That round
// read the low watermark first, and then the newest seq of each conversation. If a conversation is
// delivered up to that seq, and nothing above the low watermark is, the cursor need not name it. If
// the cursor would have to name more conversations than it may, nothing changes.
func (v *viewerEvents) adoptReconciled() {
	reconciled := v.service.reconciled.Load()
	if !v.live || reconciled.round == v.round || reconciled.low < v.low.position {
		return
	}
	// A membership hint may be about a conversation that is not followed yet. The hints of what the
	// round has read were published before the round was stored.
	if len(v.changed) > 0 || v.stream.hasChanged() {
		return
	}
	low := watermark{position: reconciled.low}
	delivered := map[model.ConversationID]progress{}
	for id, fo := range v.followers {
		last, known := fo.feed.reconciledIn(reconciled.round)
		if !known || fo.seen.Seq < last || v.newest[id] >= low.position || id == v.leaving {
			delivered[id] = progress{Place: fo.seen}
		}
		if len(delivered) > v.service.opts.maxNamed {
			return
		}
	}
	ended := maps.Clone(v.ended)
	maps.DeleteFunc(ended, func(id model.ConversationID, d departure) bool {
		return low.isBelow(d.Position, id)
	})
	if len(delivered)+len(ended) > v.service.opts.maxNamed {
		return
	}
	v.delivered, v.ended, v.low, v.round = delivered, ended, low, reconciled.round
	v.checkpoint = reconciled.id
}

// deliverJoined delivers the beginning of a membership, which is not above a position. The low
// watermark rises to last with it, unless that is nil.
func (v *viewerEvents) deliverJoined(fo *follower, position int64, last *model.Event) error {
	own := v.joining[fo.id]
	if v.joined[fo.id] { // the membership before has ended since, and a live stream says so
		d := departure{Departure: model.Departure{
			UserID: v.actor.UserID, ConversationID: fo.id, Seq: own.JoinedSeq - 1,
			Position: position,
		}}
		if err := v.deliverLeft(d); err != nil {
			return err
		}
	}
	delete(v.ended, fo.id)
	delete(v.joining, fo.id)
	v.delivered[fo.id] = progress{Place: fo.seen}
	v.newest[fo.id] = max(v.newest[fo.id], position)
	v.raiseLow(last)
	return v.deliverItem(ViewerEvent{Joined: &fo.id})
}

// deliverLeft delivers the end of a membership.
func (v *viewerEvents) deliverLeft(d departure) error {
	v.leaving = model.ConversationID{}
	delete(v.joined, d.ConversationID)
	delete(v.delivered, d.ConversationID)
	delete(v.newest, d.ConversationID)
	if !v.low.isBelow(d.Position, d.ConversationID) {
		v.ended[d.ConversationID] = d
	}
	return v.deliverItem(ViewerEvent{Left: &d.ConversationID})
}

// drain delivers what one follower has, and the end of its membership if it has ended.
func (v *viewerEvents) drain(ctx context.Context, fo *follower) error {
	err := fo.drain(ctx, func(e *model.Event) error {
		if fo.endsWith(e) {
			v.leaving = fo.id
		}
		v.delivered[fo.id] = progress{Place: placeOf(e)}
		v.newest[fo.id] = max(v.newest[fo.id], e.Position)
		return v.deliverItem(ViewerEvent{Event: e})
	})
	if !errors.Is(err, errRemoved) {
		return err
	}
	v.drop(fo)
	d, _, err := v.readDeparture(ctx, fo.id)
	if err != nil {
		return err
	}
	if err := v.deliverLeft(d); err != nil {
		return err
	}
	return v.reconcile(ctx, fo.id) // the actor may have been added again
}

// readDeparture reads the newest end of the actor's memberships of a conversation. stored is false
// if there is none, as when the conversation is gone: no cursor has to name it then.
func (v *viewerEvents) readDeparture(
	ctx context.Context, id model.ConversationID,
) (d departure, stored bool, err error) {
	var found []departure
	err = store.RetryWhileUnavailable(ctx, func() error {
		found = nil
		return store.Error(v.selectDepartures(&found).Where("d.conversation_id = ?", id).
			Scan(ctx))
	})
	if len(found) == 0 {
		d.UserID, d.ConversationID = v.actor.UserID, id
		return d, false, err
	}
	return found[0], true, err
}

// departure is the newest end of a membership, with the mark of the event that says so; 0 if the
// event is gone with its conversation.
type departure struct {
	model.Departure `bun:",extend"`
	Mark            model.Mark
}

// selectDepartures selects those of the actor.
func (v *viewerEvents) selectDepartures(into *[]departure) *bun.SelectQuery {
	return v.service.db.NewSelect().Model(into).
		ColumnExpr("d.user_id, d.conversation_id, d.seq, d.position").
		ColumnExpr("coalesce(e.mark, 0) AS mark").
		Join("LEFT JOIN events AS e ON e.conversation_id = d.conversation_id AND e.seq = d.seq").
		Where("d.user_id = ?", v.actor.UserID)
}

// reconcile reads the actor's membership of a conversation, and delivers its beginning or end if
// that is not delivered yet.
func (v *viewerEvents) reconcile(ctx context.Context, id model.ConversationID) error {
	f, own, err := v.checkMembership(ctx, id)
	if err != nil {
		return err
	}
	if own == nil && v.followers[id] == nil {
		return v.deliverMissedEnd(ctx, id)
	}
	if own == nil {
		return nil
	}
	fo := v.follow(f, *own, Place{Seq: max(own.JoinedSeq, own.HiddenSeq)})
	if err := v.deliverJoined(fo, own.Position, nil); err != nil {
		return err
	}
	return v.drain(ctx, fo)
}

// deliverMissedEnd reports a membership that began and ended before the stream saw it, in the way
// that a client that was offline gets it: Left alone.
func (v *viewerEvents) deliverMissedEnd(ctx context.Context, id model.ConversationID) error {
	d, stored, err := v.readDeparture(ctx, id)
	if err != nil || !stored || v.low.isBelow(d.Position, id) || v.ended[id].Seq >= d.Seq {
		return err
	}
	if _, known := v.ended[id]; known { // the Left of an earlier end is delivered
		v.ended[id] = d
		return nil
	}
	return v.deliverLeft(d)
}
