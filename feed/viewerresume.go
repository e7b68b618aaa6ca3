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

// backlog is what a stream has to deliver before it is live.
type backlog struct {
	reset bool
	// the newest checkpoint; everything below its low watermark is in what was read after it
	checkpoint
	named      []ownMembership // of the conversations that the cursor names
	departures []departure
}

// tryStart starts to follow all conversations of the actor, after what the cursor says is
// delivered.
func (v *viewerEvents) tryStart(ctx context.Context, p startPoint) (r backlog, err error) {
	feeds, err := v.openFeeds(ctx)
	if err != nil {
		return r, err
	}
	defer releaseFeeds(feeds) // those that get no follower below
	v.unfollow()
	// The feeds are open, so every later change is noticed. The low watermark is read first:
	// everything below it is in what is read next.
	v.stream.resume()
	v.history = v.service.histories.found.Load()
	if r.checkpoint, err = v.service.newestCheckpoint(ctx); err != nil {
		return r, err
	}
	var now []recentMembership
	var start map[model.ConversationID]Place
	if from := p.from; from != nil && !p.reset {
		if now, err = v.recentMemberships(ctx, from.low, feeds); err != nil {
			return r, err
		}
		proved, err := v.proves(ctx, *from, now)
		if err != nil {
			return r, err
		}
		if proved {
			start = v.startAt(*from, now)
		}
	}
	if start != nil {
		if r.departures, err = v.readDepartures(ctx, *p.from, now); err != nil {
			return r, err
		}
	}
	tooMuch := start == nil
	if !tooMuch {
		tooMuch, err = v.missedMore(ctx, now, start, r.departures, p.limit)
		if err != nil {
			return r, err
		}
	}
	if tooMuch {
		r.reset, r.departures = p.from != nil, nil
		if now, err = v.recentMemberships(ctx, watermark{position: r.low}, feeds); err != nil {
			return r, err
		}
		start = v.startNow(now, r.low)
	}
	v.checkpoint = r.id
	for _, own := range now {
		id, seen := own.ConversationID, start[own.ConversationID]
		if _, named := v.delivered[id]; named {
			r.named = append(r.named, own.ownMembership)
		}
		if seen.Seq < own.JoinedSeq {
			v.joining[id] = own.ownMembership
			seen = Place{Seq: own.JoinedSeq}
		}
		if seen.Seq < own.HiddenSeq {
			seen = Place{Seq: own.HiddenSeq}
		}
		v.follow(feeds[id], own.ownMembership, seen)
		delete(feeds, id)
	}
	return r, nil
}

// recentMembership is a membership with the events that its conversation has above a low watermark;
// First and Newest are nil if there are none.
type recentMembership struct {
	ownMembership `bun:",extend"`
	First, Newest *int64 // the seq of the first of them; their highest position
	Count         int64  // how many they are
}

// recentMemberships reads the memberships in the conversations whose feed is open. The others have
// begun since, so their membership hints follow. It is one statement: between two, a membership
// could end and another one begin, and both would look like one.
func (v *viewerEvents) recentMemberships(
	ctx context.Context, low watermark, feeds map[model.ConversationID]*feed,
) (now []recentMembership, err error) {
	err = v.service.db.NewSelect().Model((*model.ConversationMember)(nil)).
		ColumnExpr("?TableColumns, r.first, r.newest, coalesce(r.count, 0) AS count").
		Apply(withLast).
		Join("LEFT JOIN (?) AS r ON r.conversation_id = cm.conversation_id",
			v.service.movedSince(v.actor, low)).
		Where("cm.user_id = ?", v.actor.UserID).OrderExpr("cm.conversation_id").Scan(ctx, &now)
	return slices.DeleteFunc(now, func(own recentMembership) bool {
		return feeds[own.ConversationID] == nil
	}), store.Error(err)
}

// startNow sets the state to that of a stream that has delivered everything that is stored. It
// returns how far each conversation is delivered. The cursor names the conversations with events
// above the low watermark, unless they are too many. Then a client that resumes gets some of these
// events although they are from before its start.
func (v *viewerEvents) startNow(now []recentMembership, low int64) map[model.ConversationID]Place {
	v.resetState()
	v.low = watermark{position: low}
	start := make(map[model.ConversationID]Place, len(now))
	for _, own := range now {
		start[own.ConversationID] = own.last()
		if own.First != nil {
			v.delivered[own.ConversationID] = progress{Place: own.last()}
			v.newest[own.ConversationID] = *own.Newest
		}
	}
	if len(v.delivered) > v.service.opts.maxNamed {
		clear(v.delivered)
	}
	return start
}

// proves reports whether the database still has everything that a cursor says is delivered. The
// checkpoint was written after everything below its low watermark was committed, and the cursor's
// low watermark is not above that. Each event that the cursor names has its mark; it stands for all
// events before it. In a conversation that is gone there is nothing to compare.
func (v *viewerEvents) proves(
	ctx context.Context, from viewerCursor, now []recentMembership,
) (bool, error) {
	exists, err := v.service.proves(ctx, from.checkpoint, from.low.position)
	if err != nil || !exists {
		return false, err
	}
	var keys []EventKey
	for id, p := range from.delivered {
		keys = append(keys, EventKey{id, p.Seq})
	}
	places, err := v.service.Places(ctx, keys)
	if err != nil {
		return false, err
	}
	member := map[model.ConversationID]bool{}
	for _, own := range now {
		member[own.ConversationID] = true
	}
	for _, key := range keys {
		there, exists := places[key]
		if !exists && member[key.Conversation] && key.Seq > 0 ||
			!there.Mark.Matches(from.delivered[key.Conversation].Mark) {
			return false, nil
		}
	}
	return true, nil
}

// startAt sets the state to what the cursor says, which is proved. It returns how far each
// conversation is delivered. In a conversation that the cursor does not name, exactly the events
// below the low watermark are delivered. What is delivered is always the first events by seq, so it
// ends before the first event that is not below.
func (v *viewerEvents) startAt(
	from viewerCursor, now []recentMembership,
) map[model.ConversationID]Place {
	v.resetState()
	v.low = from.low
	start := make(map[model.ConversationID]Place, len(now))
	for _, own := range now {
		id := own.ConversationID
		delivered, named := from.delivered[id]
		start[id] = own.last()
		switch {
		case named:
			start[id] = delivered.Place
			v.delivered[id] = progress{Place: start[id]}
			if own.Newest != nil {
				v.newest[id] = *own.Newest
			}
		case own.First != nil:
			start[id] = Place{Seq: *own.First - 1}
		}
	}
	return start
}

func (v *viewerEvents) resetState() {
	v.delivered = map[model.ConversationID]progress{}
	v.newest = map[model.ConversationID]int64{}
	v.ended = map[model.ConversationID]departure{}
	v.joining = map[model.ConversationID]ownMembership{}
	v.leaving = model.ConversationID{}
}

// readDepartures returns the departures since the cursor, in the order of their positions, without
// those from conversations that the actor has joined again.
func (v *viewerEvents) readDepartures(
	ctx context.Context, from viewerCursor, now []recentMembership,
) (departures []departure, err error) {
	named := bun.List(slices.Collect(maps.Keys(from.delivered)))
	err = v.selectDepartures(&departures).
		Where("d.position >= ? OR d.conversation_id IN (?)", from.low.position, named).
		OrderExpr("d.position, d.conversation_id").Scan(ctx)
	if err != nil {
		return nil, store.Error(err)
	}
	member := make(map[model.ConversationID]bool, len(now))
	for _, own := range now {
		member[own.ConversationID] = true
	}
	return slices.DeleteFunc(departures, func(d departure) bool {
		delivered, named := from.delivered[d.ConversationID]
		switch {
		case named && delivered.ended && delivered.Seq >= d.Seq:
			v.ended[d.ConversationID] = d
			return true
		case named && !member[d.ConversationID]:
			// The cursor names it until its Left is delivered.
			v.delivered[d.ConversationID], v.newest[d.ConversationID] = delivered, d.Position
		case !named && from.low.isBelow(d.Position, d.ConversationID):
			return true
		}
		return member[d.ConversationID]
	}), nil
}

// missedMore reports whether a stream has to deliver more than limit items before it is live.
func (v *viewerEvents) missedMore(
	ctx context.Context, now []recentMembership, start map[model.ConversationID]Place,
	departures []departure, limit int64,
) (bool, error) {
	count := int64(len(departures))
	named := map[model.ConversationID]int64{} // the seq after which events were missed in those
	last := map[model.ConversationID]int64{}
	for _, own := range now {
		delivered := start[own.ConversationID].Seq
		if delivered < own.JoinedSeq {
			count++
		}
		after := max(delivered, own.JoinedSeq)
		seqs := own.LastSeq - after
		if _, isNamed := v.delivered[own.ConversationID]; isNamed {
			named[own.ConversationID], last[own.ConversationID] = after, own.LastSeq
		} else {
			seqs = min(seqs, own.Count) // without those that RaiseSeqs has left out
		}
		count += seqs
	}
	for id, after := range named {
		if count <= limit || limit == noLimit {
			break
		}
		events, err := v.countAfter(ctx, id, after, limit+1)
		if err != nil {
			return false, err
		}
		count += events - (last[id] - after)
	}
	return count > limit, nil
}

// countAfter counts the events of a conversation after a seq, up to a limit.
func (v *viewerEvents) countAfter(
	ctx context.Context, id model.ConversationID, seq, limit int64,
) (count int64, err error) {
	db := v.service.db
	events := db.NewSelect().Table("events").ColumnExpr("1").Where("conversation_id = ?", id).
		Where("seq > ?", seq).Limit(limit)
	err = db.NewSelect().TableExpr("(?) AS counted", events).ColumnExpr("count(*)").
		Scan(ctx, &count)
	return count, store.Error(err)
}

// catchUp delivers what was missed: first in the conversations that the cursor names, then
// everything below the low watermark in order of position. The rest is from the last moments; it
// follows one conversation after the other.
func (v *viewerEvents) catchUp(ctx context.Context, r backlog) error {
	departures, err := v.deliverNamed(ctx, r)
	if err != nil {
		return err
	}
	if departures, err = v.sweep(ctx, departures, r.low); err != nil {
		return err
	}
	for _, d := range departures {
		if err := v.makeRoom(d.ConversationID); err != nil {
			return err
		}
		if err := v.deliverLeft(d); err != nil {
			return err
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(v.joining), model.CompareIDs) {
		if err := v.makeRoom(id); err != nil {
			return err
		}
		if err := v.deliverJoined(v.followers[id], v.joining[id].Position, nil); err != nil {
			return err
		}
	}
	ready := v.stream.drainReady()
	slices.SortFunc(ready, func(a, b *follower) int { return model.CompareIDs(a.id, b.id) })
	for _, fo := range ready {
		if err := v.drainFollower(ctx, fo); err != nil {
			return err
		}
	}
	return nil
}

// deliverNamed delivers what was missed in the conversations that the cursor names. Their events
// may be below the cursor's low watermark, where sweep does not look. It returns the departures
// from other conversations.
func (v *viewerEvents) deliverNamed(
	ctx context.Context, r backlog,
) (departures []departure, err error) {
	for _, d := range r.departures {
		if _, named := v.delivered[d.ConversationID]; !named {
			departures = append(departures, d)
		} else if err := v.deliverLeft(d); err != nil {
			return nil, err
		}
	}
	for _, own := range r.named {
		fo := v.followers[own.ConversationID]
		if _, joining := v.joining[fo.id]; joining {
			if err := v.deliverJoined(fo, own.Position, nil); err != nil {
				return nil, err
			}
		}
		if err := v.catchUpTo(ctx, fo, own.LastSeq); err != nil {
			return nil, err
		}
	}
	return departures, nil
}

// catchUpTo delivers the events of a conversation up to a seq. If the actor is no longer a member,
// it stops, and drain delivers the end of the membership later.
func (v *viewerEvents) catchUpTo(ctx context.Context, fo *follower, seq int64) error {
	err := fo.catchUpTo(ctx, seq, func(e *model.Event) error { return v.deliverSwept(fo, e, nil) })
	if errors.Is(err, errRemoved) {
		fo.remove(nil)
		return nil
	}
	return err
}
