package feed

import (
	"context"
	"maps"
	"slices"

	"parley/model"
	"parley/store"
)

// sweepPlace is how far sweep has read: seq is that of the last event.
type sweepPlace struct {
	watermark
	seq int64
}

// sweep delivers what was missed below the low watermark low, in order of position across all
// conversations. The stream's own low watermark rises with each event. So the cursor has to name
// only the conversation that sweep is in the middle of, and a few in which events are delivered
// before their position: seq and position do not always rise together. sweep returns the departures
// that are not below low.
func (v *viewerEvents) sweep(
	ctx context.Context, departures []departure, low int64,
) ([]departure, error) {
	place := sweepPlace{v.low, everySeq} // after all events that v.low is above
	for more := true; more; {
		events, err := v.readSweepPage(ctx, place, low)
		if err != nil {
			return nil, err
		}
		more = len(events) == readPage
		for i, e := range events {
			place = sweepPlace{watermark{e.Position, e.ConversationID}, e.Seq}
			if departures, err = v.deliverDeparturesBelow(departures, place.watermark); err != nil {
				return nil, err
			}
			last := e // the last one of its position and conversation
			if i+1 == len(events) && more || i+1 < len(events) &&
				events[i+1].Position == e.Position &&
				events[i+1].ConversationID == e.ConversationID {
				last = nil
			}
			if err := v.sweepEvent(ctx, e, last); err != nil {
				return nil, err
			}
		}
	}
	end := watermark{position: low}
	departures, err := v.deliverDeparturesBelow(departures, end)
	v.low = end
	v.prune()
	return departures, err
}

// deliverDeparturesBelow delivers the departures below a low watermark, and returns the rest.
func (v *viewerEvents) deliverDeparturesBelow(
	departures []departure, low watermark,
) ([]departure, error) {
	for len(departures) > 0 && low.isBelow(departures[0].Position, departures[0].ConversationID) {
		d := departures[0]
		departures = departures[1:]
		v.low = watermark{d.Position, d.ConversationID}
		v.prune()
		if err := v.deliverLeft(d); err != nil {
			return nil, err
		}
	}
	return departures, nil
}

// sweepEvent delivers one event, after everything before it in its conversation. last is the event
// itself if it is the last one of its position and conversation; else nil.
func (v *viewerEvents) sweepEvent(ctx context.Context, e, last *model.Event) error {
	fo := v.followers[e.ConversationID]
	if fo == nil { // the actor joined while this stream started
		if err := v.makeRoom(e.ConversationID); err != nil {
			return err
		}
		if err := v.reconcile(ctx, e.ConversationID); err != nil {
			return err
		}
	} else if !fo.isRemoved() {
		if own, joining := v.joining[fo.id]; joining {
			position, passed := own.Position, last
			if e.Seq == own.JoinedSeq {
				position = e.Position
			} else {
				passed = nil
			}
			if err := v.deliverJoined(fo, position, passed); err != nil {
				return err
			}
		}
		if e.Seq > fo.seen.Seq+1 {
			if err := v.catchUpTo(ctx, fo, e.Seq-1); err != nil {
				return err
			}
		}
		if e.Seq > fo.seen.Seq && !fo.isRemoved() {
			return fo.deliver(e, func(e *model.Event) error { return v.deliverSwept(fo, e, last) })
		}
	}
	v.raiseLow(last)
	return nil
}

// deliverSwept delivers an event. The low watermark rises to last with it, unless that is nil.
func (v *viewerEvents) deliverSwept(fo *follower, e, last *model.Event) error {
	v.delivered[fo.id] = progress{Place: placeOf(e)}
	v.newest[fo.id] = max(v.newest[fo.id], e.Position)
	v.raiseLow(last)
	return v.deliverItem(ViewerEvent{Event: e})
}

// readSweepPage reads the next events for sweep, and retries while the database is unavailable.
func (v *viewerEvents) readSweepPage(
	ctx context.Context, after sweepPlace, low int64,
) (events []*model.Event, err error) {
	db := v.service.db
	read := func() error {
		events = nil
		q := inViewerConversations(db.NewSelect().Model(&events), v.actor).
			Where("e.position >= ?", after.position).Where("e.position < ?", low).
			Where("(e.position, e.conversation_id, e.seq) > (?, ?, ?)", after.position,
				after.conversation, after.seq).
			OrderExpr("e.position, e.conversation_id, e.seq").Limit(readPage)
		if err := q.Scan(ctx); err != nil || len(events) == 0 {
			return store.Error(err)
		}
		if err := readMessages(ctx, db, events); err != nil {
			return store.Error(err)
		}
		return v.checkMemberships(ctx, events)
	}
	err = store.RetryWhileUnavailable(ctx,
		func() error { return v.service.WithReplaySlot(ctx, read) })
	return events, err
}

// checkMemberships ends the followers of conversations that the actor has been removed from. It is
// called after the events are read, so that no event is delivered that was read after the commit of
// a removal.
func (v *viewerEvents) checkMemberships(ctx context.Context, events []*model.Event) error {
	ids := map[model.ConversationID]bool{}
	for _, e := range events {
		ids[e.ConversationID] = true
	}
	found, err := v.queryMemberships(ctx, slices.Collect(maps.Keys(ids))...)
	if err != nil {
		return err
	}
	for _, own := range found {
		if fo := v.followers[own.ConversationID]; fo == nil || own.JoinedSeq <= fo.checked.Load() {
			delete(ids, own.ConversationID)
		}
	}
	for id := range ids { // removed, and perhaps added again
		if fo := v.followers[id]; fo != nil {
			fo.remove(nil)
		}
	}
	return nil
}
