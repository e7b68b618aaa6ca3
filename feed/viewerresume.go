package feed

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
)

// resumption is what a stream has to deliver before it is live.
type resumption struct {
	reset bool
	low   int64 // everything below this low watermark is in what was read after it
	named []ownMembership
	left  []model.Departure
}

// tryBegin starts to follow all conversations of the actor from where the cursor stands.
func (m *viewerEvents) tryBegin(ctx context.Context, b streamStart) (r resumption, err error) {
	feeds, err := m.openFeeds(ctx)
	if err != nil {
		return r, err
	}
	defer releaseFeeds(feeds) // those without a follower
	m.unfollow()
	// From here on every change is noticed. The low watermark is read first: everything below it
	// is in what is read next.
	if r.low, err = m.service.LowWatermark(ctx); err != nil {
		return r, err
	}
	if m.epoch, err = m.service.epoch(ctx); err != nil {
		return r, err
	}
	var now []recentMembership
	var start map[model.ConversationID]int64
	if from := b.from; from != nil && !b.reset && from.epoch == m.epoch &&
		from.low.position <= r.low {
		if now, err = m.recentMemberships(ctx, from.low, feeds); err != nil {
			return r, err
		}
		start = m.startAt(*from, now)
		if r.left, err = m.departures(ctx, *from, now); err != nil {
			return r, err
		}
	}
	if start == nil || missed(now, start, r.left) > b.limit {
		r.reset, r.left = b.from != nil, nil
		if now, err = m.recentMemberships(ctx, watermark{position: r.low}, feeds); err != nil {
			return r, err
		}
		start = m.startNow(now, r.low)
	}
	for _, own := range now {
		id, seen := own.ConversationID, max(start[own.ConversationID], own.HiddenSeq)
		if _, named := m.delivered[id]; named {
			r.named = append(r.named, own.ownMembership)
		}
		if start[id] < own.JoinedSeq {
			m.joining[id] = own.ownMembership
			seen = max(own.JoinedSeq, own.HiddenSeq)
		}
		m.follow(feeds[id], own.ownMembership, seen)
		delete(feeds, id)
	}
	return r, nil
}

// recentMembership is a membership with what its conversation has above a low watermark, if
// anything.
type recentMembership struct {
	ownMembership `bun:",extend"`
	First, Newest *int64 // the seq of the first event; the highest position
}

// recentMemberships reads the memberships in conversations whose feed is open; of the others there
// will be membership hints. It is one statement, because an end and a new beginning between two
// statements would look like one membership.
func (m *viewerEvents) recentMemberships(
	ctx context.Context, low watermark, feeds map[model.ConversationID]*feed,
) (now []recentMembership, err error) {
	err = m.service.db.NewSelect().Model((*model.ConversationMember)(nil)).
		ColumnExpr("?TableColumns, c.last_seq, r.first, r.newest").
		Join("JOIN conversations AS c ON c.id = cm.conversation_id").
		Join("LEFT JOIN (?) AS r ON r.conversation_id = cm.conversation_id",
			m.service.movedSince(m.actor, low)).
		Where("cm.user_id = ?", m.actor.UserID).OrderExpr("cm.conversation_id").Scan(ctx, &now)
	return slices.DeleteFunc(now, func(own recentMembership) bool {
		return feeds[own.ConversationID] == nil
	}), store.Error(err)
}

// startNow starts after everything that is stored. The cursor names the conversations with events
// above the low watermark, unless they are too many: then a client that resumes gets some of these
// events again, as it may after a reset.
func (m *viewerEvents) startNow(now []recentMembership, low int64) map[model.ConversationID]int64 {
	m.resetState()
	m.low = watermark{position: low}
	start := make(map[model.ConversationID]int64, len(now))
	for _, own := range now {
		start[own.ConversationID] = own.LastSeq
		if own.First != nil {
			m.delivered[own.ConversationID] = progress{seq: own.LastSeq}
			m.newest[own.ConversationID] = *own.Newest
		}
	}
	if len(m.delivered) > m.service.opts.maxNamed {
		clear(m.delivered)
	}
	return start
}

// startAt returns how far each conversation has been delivered; nil if the cursor is ahead of the
// database. Of a conversation that the cursor does not name, exactly the events below the low
// watermark have been delivered. Those are the first events of the membership, so delivery ends
// before the first event that is not below.
func (m *viewerEvents) startAt(
	from viewerCursor, now []recentMembership,
) map[model.ConversationID]int64 {
	m.resetState()
	m.low = from.low
	start := make(map[model.ConversationID]int64, len(now))
	for _, own := range now {
		id := own.ConversationID
		delivered, named := from.delivered[id]
		start[id] = own.LastSeq
		switch {
		case named:
			start[id] = delivered.seq
			m.delivered[id] = progress{seq: start[id]}
			if own.Newest != nil {
				m.newest[id] = *own.Newest
			}
			if start[id] > own.LastSeq {
				return nil // the database has lost what the cursor knows
			}
		case own.First != nil:
			start[id] = *own.First - 1
		}
	}
	return start
}

func (m *viewerEvents) resetState() {
	m.delivered = map[model.ConversationID]progress{}
	m.newest = map[model.ConversationID]int64{}
	m.left = map[model.ConversationID]model.Departure{}
	m.joining = map[model.ConversationID]ownMembership{}
	m.leaving = model.ConversationID{}
}

// departures returns the memberships of the actor that have ended since the cursor and have not
// begun again, in the order of their end.
func (m *viewerEvents) departures(
	ctx context.Context, from viewerCursor, now []recentMembership,
) (left []model.Departure, err error) {
	named := bun.List(slices.Collect(maps.Keys(from.delivered)))
	err = m.service.db.NewSelect().Model(&left).Where("d.user_id = ?", m.actor.UserID).
		Where("d.position >= ? OR d.conversation_id IN (?)", from.low.position, named).
		OrderExpr("d.position, d.conversation_id").Scan(ctx)
	if err != nil {
		return nil, store.Error(err)
	}
	member := make(map[model.ConversationID]bool, len(now))
	for _, own := range now {
		member[own.ConversationID] = true
	}
	return slices.DeleteFunc(left, func(d model.Departure) bool {
		delivered, named := from.delivered[d.ConversationID]
		switch {
		case named && delivered.ended && delivered.seq >= d.Seq:
			m.left[d.ConversationID] = d
			return true
		case named && !member[d.ConversationID]:
			// until its end has been delivered
			m.delivered[d.ConversationID], m.newest[d.ConversationID] = delivered, d.Position
		case !named && from.low.isBelow(d.Position, d.ConversationID):
			return true
		}
		return member[d.ConversationID]
	}), nil
}

// missed counts what a stream has to deliver before it is live.
func missed(
	now []recentMembership, start map[model.ConversationID]int64, left []model.Departure,
) int64 {
	count := int64(len(left))
	for _, own := range now {
		if start[own.ConversationID] < own.JoinedSeq {
			count++
		}
		count += own.LastSeq - max(start[own.ConversationID], own.JoinedSeq)
	}
	return count
}

// catchUp delivers what was missed: first in the conversations that the cursor names, then
// everything below the low watermark in the order in which it happened, and then the rest, which is
// from the last moments, one conversation after the other.
func (m *viewerEvents) catchUp(ctx context.Context, r resumption) error {
	left, err := m.deliverNamed(ctx, r)
	if err != nil {
		return err
	}
	if left, err = m.sweep(ctx, left, r.low); err != nil {
		return err
	}
	for _, d := range left {
		if err := m.makeRoom(d.ConversationID); err != nil {
			return err
		}
		if err := m.deliverLeft(d); err != nil {
			return err
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(m.joining), model.CompareIDs) {
		if err := m.makeRoom(id); err != nil {
			return err
		}
		if err := m.deliverJoined(m.followers[id], m.joining[id].Position, nil); err != nil {
			return err
		}
	}
	ready := m.stream.drainReady()
	slices.SortFunc(ready, func(a, b *follower) int { return model.CompareIDs(a.id, b.id) })
	for _, fo := range ready {
		if err := m.drainFollower(ctx, fo); err != nil {
			return err
		}
	}
	return nil
}

// deliverNamed delivers the conversations that the cursor names up to where they are now. Their
// events may be below the low watermark, where sweep does not look. It returns the departures that
// remain.
func (m *viewerEvents) deliverNamed(
	ctx context.Context, r resumption,
) (left []model.Departure, err error) {
	for _, d := range r.left {
		if _, named := m.delivered[d.ConversationID]; !named {
			left = append(left, d)
		} else if err := m.deliverLeft(d); err != nil {
			return nil, err
		}
	}
	for _, own := range r.named {
		fo := m.followers[own.ConversationID]
		if _, joining := m.joining[fo.id]; joining {
			if err := m.deliverJoined(fo, own.Position, nil); err != nil {
				return nil, err
			}
		}
		if err := m.catchUpTo(ctx, fo, own.LastSeq); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// catchUpTo delivers the events of a conversation up to a seq. If the actor is no longer a member,
// drain reports that later.
func (m *viewerEvents) catchUpTo(ctx context.Context, fo *follower, seq int64) error {
	err := fo.catchUpTo(ctx, seq, func(e *model.Event) error { return m.deliverSwept(fo, e, nil) })
	if errors.Is(err, errRemoved) {
		fo.remove(nil)
		return nil
	}
	return err
}
