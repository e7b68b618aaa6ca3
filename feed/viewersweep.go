package feed

import (
	"context"
	"maps"
	"slices"

	"parley/model"
	"parley/store"
)

// sweepPlace is how far sweep has read.
type sweepPlace struct {
	watermark
	seq int64
}

// sweep delivers what was missed below the low watermark in order of position, across all
// conversations, and the stream's low watermark rises along. So the cursor has to name only the
// conversation that sweep is in the middle of, and the few of which something was delivered early,
// because seq and position do not always rise together. It returns the departures that remain.
func (m *viewerEvents) sweep(
	ctx context.Context, left []model.Departure, low int64,
) ([]model.Departure, error) {
	place := sweepPlace{m.low, everySeq}
	for more := true; more; {
		events, err := m.readSweepPage(ctx, place, low)
		if err != nil {
			return nil, err
		}
		more = len(events) == readPage
		for i, e := range events {
			place = sweepPlace{watermark{e.Position, e.ConversationID}, e.Seq}
			if left, err = m.deliverLeftBelow(left, place.watermark); err != nil {
				return nil, err
			}
			last := e // the last one of its position and conversation
			if i+1 == len(events) && more || i+1 < len(events) &&
				events[i+1].Position == e.Position &&
				events[i+1].ConversationID == e.ConversationID {
				last = nil
			}
			if err := m.sweepEvent(ctx, e, last); err != nil {
				return nil, err
			}
		}
	}
	end := watermark{position: low}
	left, err := m.deliverLeftBelow(left, end)
	m.low = end
	m.prune()
	return left, err
}

// deliverLeftBelow delivers the departures below a low watermark, and returns the rest.
func (m *viewerEvents) deliverLeftBelow(
	left []model.Departure, low watermark,
) ([]model.Departure, error) {
	for len(left) > 0 && low.isBelow(left[0].Position, left[0].ConversationID) {
		d := left[0]
		left = left[1:]
		m.low = watermark{d.Position, d.ConversationID}
		m.prune()
		if err := m.deliverLeft(d); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// sweepEvent delivers one event, and what has to come before it. last is the event if it is the
// last one of its position and conversation; else nil.
func (m *viewerEvents) sweepEvent(ctx context.Context, e, last *model.Event) error {
	fo := m.followers[e.ConversationID]
	if fo == nil { // the actor joined while this stream started
		if err := m.makeRoom(e.ConversationID); err != nil {
			return err
		}
		if err := m.reconcile(ctx, e.ConversationID); err != nil {
			return err
		}
	} else if !fo.isRemoved() {
		if own, joining := m.joining[fo.id]; joining {
			position, passed := own.Position, last
			if e.Seq == own.JoinedSeq {
				position = e.Position
			} else {
				passed = nil
			}
			if err := m.deliverJoined(fo, position, passed); err != nil {
				return err
			}
		}
		if e.Seq > fo.seen+1 {
			if err := m.catchUpTo(ctx, fo, e.Seq-1); err != nil {
				return err
			}
		}
		if e.Seq > fo.seen && !fo.isRemoved() {
			return fo.deliver(e, func(e *model.Event) error { return m.deliverSwept(fo, e, last) })
		}
	}
	m.raiseLow(last)
	return nil
}

// deliverSwept delivers an event, with which the low watermark rises to last, if there is one.
func (m *viewerEvents) deliverSwept(fo *follower, e, last *model.Event) error {
	m.delivered[fo.id] = progress{seq: e.Seq}
	m.newest[fo.id] = max(m.newest[fo.id], e.Position)
	m.raiseLow(last)
	return m.item(ViewerEvent{Event: e})
}

// readSweepPage reads the next events for sweep, and retries while the database is unavailable.
func (m *viewerEvents) readSweepPage(
	ctx context.Context, after sweepPlace, low int64,
) (events []*model.Event, err error) {
	db := m.service.db
	read := func() error {
		events = nil
		q := inViewerConversations(db.NewSelect().Model(&events), m.actor).
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
		return m.checkMemberships(ctx, events)
	}
	err = store.RetryWhileUnavailable(ctx,
		func() error { return m.service.WithReplaySlot(ctx, read) })
	return events, err
}

// checkMemberships comes after the read of events: none is delivered that was read after the commit
// of a removal.
func (m *viewerEvents) checkMemberships(ctx context.Context, events []*model.Event) error {
	ids := map[model.ConversationID]bool{}
	for _, e := range events {
		ids[e.ConversationID] = true
	}
	found, err := m.queryMemberships(ctx, slices.Collect(maps.Keys(ids))...)
	if err != nil {
		return err
	}
	for _, own := range found {
		if fo := m.followers[own.ConversationID]; fo == nil || own.JoinedSeq <= fo.checked {
			delete(ids, own.ConversationID)
		}
	}
	for id := range ids { // removed, and perhaps added again
		if fo := m.followers[id]; fo != nil {
			fo.remove(nil)
		}
	}
	return nil
}
