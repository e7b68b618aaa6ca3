package chat

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub"
	"parley/store"
)

// MyEvent is one item of a person's stream of everything: exactly one of its fields beside Cursor
// says what.
type MyEvent struct {
	Cursor   string // where the stream stands after this item
	Event    *model.Event
	Joined   *model.ConversationID // the actor is a member now
	Left     *model.ConversationID // the actor is a member no longer, or the conversation is gone
	CaughtUp bool                  // what comes now is live
	// something cannot be delivered any more: the stream begins anew, from now
	Reset bool
}

// MyEvents yields everything that the actor may see, in all their conversations: after a cursor,
// what was missed, then CaughtUp, then what comes live. Without a cursor it begins now. Within a
// conversation the order is that of seq, and nothing comes twice, nor is anything left out, however
// often one comes back with the cursor of the last item. BAD_USER_INPUT for what is not a cursor of
// the actor's: nothing is read then.
//
// No cursor names more than maxNamed conversations. See sweep for how that holds while thousands
// are caught up with, and makeRoom for what happens when thousands are busy at once.
func (s *Service) MyEvents(ctx context.Context, actor model.Actor, after *string) (iter.Seq2[MyEvent, error], error) {
	key, err := s.cursorKey(ctx)
	if err != nil {
		return nil, err
	}
	var from *myCursor
	if after != nil {
		read, err := readMyCursor(key, actor.UserID, *after)
		if err != nil {
			return nil, err
		}
		from = &read
	}
	return func(yield func(MyEvent, error) bool) {
		m := &myEvents{myConversations: s.listenFor(actor), key: key, yield: yield}
		defer m.close()
		if err := m.run(ctx, from); !errors.Is(err, errStopped) {
			yield(MyEvent{}, err)
		}
	}, nil
}

// myConversations is what every stream over all of a person's conversations has: a follower for
// each of them, and news of those that come and go.
type myConversations struct {
	service   *Service
	actor     model.Actor
	stream    *stream
	news      *pubsub.Subscription[news]
	followers map[model.ConversationID]*follower
}

// listenFor begins to hear the news before anything is read.
func (s *Service) listenFor(actor model.Actor) *myConversations {
	st := newStream()
	m := &myConversations{service: s, actor: actor, stream: st, followers: map[model.ConversationID]*follower{}}
	m.news = s.people.Handle(personTopic(actor.UserID), func(n news) { st.tell(n.ConversationID) })
	return m
}

func (m *myConversations) close() {
	m.news.Close()
	m.unfollow()
}

// unfollow ends all conversations in the stream, and goes on to hear the news.
func (m *myConversations) unfollow() {
	for _, fo := range m.followers {
		fo.detach()
	}
	clear(m.followers)
	m.stream.takeReady()
}

// mine is a membership with how far its conversation has come.
type mine struct {
	model.ConversationMember `bun:",extend"`
	LastSeq                  int64
}

func (m *myConversations) memberships(ctx context.Context, only ...model.ConversationID) (found []mine, err error) {
	q := m.service.db.NewSelect().Model((*model.ConversationMember)(nil)).ColumnExpr("?TableColumns, c.last_seq").
		Join("JOIN conversations AS c ON c.id = cm.conversation_id").Where("cm.user_id = ?", m.actor.UserID).
		OrderExpr("cm.conversation_id")
	if len(only) > 0 {
		q = q.Where("cm.conversation_id IN (?)", bun.List(only))
	}
	return found, store.Error(q.Scan(ctx, &found))
}

// follow joins a feed that was open before the membership was read.
func (m *myConversations) follow(f *feed, own mine, seen int64) *follower {
	fo := &follower{
		stream: m.stream, feed: f, actor: &m.actor, id: own.ConversationID, seen: seen, hidden: own.HiddenSeq,
		checked: own.LastSeq, position: own.Position,
	}
	m.followers[fo.id] = fo
	f.join(fo, own.LastSeq)
	return fo
}

// drop ends a conversation in the stream.
func (m *myConversations) drop(fo *follower) {
	fo.detach()
	delete(m.followers, fo.id)
}

// look finds out about a conversation that there is news of: the membership, where the actor has
// one that is not followed yet, with a feed that was open before. Where there is none, a follower
// of it is made to end.
func (m *myConversations) look(ctx context.Context, id model.ConversationID) (*feed, *mine, error) {
	f := m.service.feedOf(id)
	found, err := m.membershipsSoon(ctx, id)
	fo := m.followers[id]
	if err == nil && len(found) == 1 && fo == nil {
		return f, &found[0], nil
	}
	if err == nil && len(found) == 0 && fo != nil {
		fo.remove(nil)
	}
	f.release()
	return nil, nil, err
}

// membershipsSoon is memberships that waits for the database where it is away.
func (m *myConversations) membershipsSoon(ctx context.Context, only ...model.ConversationID) (found []mine, err error) {
	err = onceThere(ctx, func() error {
		found, err = m.memberships(ctx, only...)
		return err
	})
	return found, err
}

// openFeeds has the conversations that the actor is in listened to, before it is read how far they
// have come.
func (m *myConversations) openFeeds(ctx context.Context) (map[model.ConversationID]*feed, error) {
	own, err := m.membershipsSoon(ctx)
	if err != nil {
		return nil, err // of those that were read before it, none is opened
	}
	feeds := make(map[model.ConversationID]*feed, len(own))
	for _, o := range own {
		feeds[o.ConversationID] = m.service.feedOf(o.ConversationID)
	}
	return feeds, nil
}

func releaseAll(feeds map[model.ConversationID]*feed) {
	for _, f := range feeds {
		f.release()
	}
}

// myEvents is one stream of everything.
type myEvents struct {
	*myConversations
	key   cursorKey
	yield func(MyEvent, error) bool

	epoch int64
	low   lowWatermark
	// conversations about which the low watermark does not say how far they have been told
	told    map[model.ConversationID]int64
	newest  map[model.ConversationID]int64 // the highest position that may have been told of each
	left    map[model.ConversationID]model.Departure
	in      map[model.ConversationID]bool // before this run, see streamStart
	joining map[model.ConversationID]mine // memberships whose beginning has yet to be told
	leaving model.ConversationID          // whose removal is being told, and the end not yet
	heard   []model.ConversationID        // of which there is news that has not been looked at
	live    bool                          // all that was missed has been told
	round   int64                         // of the comparison that the low watermark is from

	toldCaughtUp bool
}

var (
	errFull = errors.New("the cursor names as many conversations as a live stream's may")
	errOver = errors.New("the cursor would name more conversations than any may")
)

// run follows until the cursor is full, makes room in it, and goes on from there as a client would
// that comes back. Where there is no other way to keep the cursor within its bound, the stream
// begins anew.
func (m *myEvents) run(ctx context.Context, from *myCursor) error {
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
		start = streamStart{from: &stand, limit: math.MaxInt64, reset: !room}
		if start.reset {
			m.service.opts.Log.Warn("a stream of events begins anew: a long transaction holds the low watermark back", "user", m.actor.UserID)
			continue
		}
		start.in = map[model.ConversationID]bool{}
		for id := range m.followers {
			_, joining := m.joining[id]
			start.in[id] = !joining
		}
	}
}

// streamStart says from where a stream follows.
type streamStart struct {
	from  *myCursor // nil is now
	limit int64     // how many items may have been missed
	reset bool      // it begins now, and that is told
	// of which it has told that the actor is in them, and no end
	in map[model.ConversationID]bool
}

func (m *myEvents) runFrom(ctx context.Context, b streamStart) error {
	m.live, m.in = false, b.in
	var r resumption
	err := onceThere(ctx, func() (err error) {
		r, err = m.tryBegin(ctx, b)
		return err
	})
	if err != nil {
		return err
	}
	if r.reset {
		m.toldCaughtUp = false
		if err := m.item(MyEvent{Reset: true}); err != nil {
			return err
		}
	}
	// else nothing was missed, and what has come since the start is live
	if b.from != nil && !r.reset {
		if err := m.catchUp(ctx, r); err != nil {
			return err
		}
	}
	m.live = true
	if !m.toldCaughtUp {
		m.toldCaughtUp = true
		if err := m.item(MyEvent{CaughtUp: true}); err != nil {
			return err
		}
	}
	return m.tellLive(ctx)
}

// tellLive tells what comes from now on.
func (m *myEvents) tellLive(ctx context.Context) error {
	for {
		fo, heard, err := m.stream.next(ctx)
		if err != nil {
			return err
		}
		for m.heard = heard; len(m.heard) > 0; m.heard = m.heard[1:] {
			if err := m.makeRoom(m.heard[0]); err != nil {
				return err
			}
			if err := m.lookAt(ctx, m.heard[0]); err != nil {
				return err
			}
		}
		if fo != nil {
			if err := m.drainReady(ctx, fo); err != nil {
				return err
			}
		}
	}
}

func (m *myEvents) drainReady(ctx context.Context, fo *follower) error {
	if m.followers[fo.id] != fo || !fo.hasMore() {
		return nil
	}
	if err := m.makeRoom(fo.id); err != nil {
		return err
	}
	return m.drain(ctx, fo)
}

// makeRoom makes sure that the cursor may name a conversation. Where it names as many as it may, it
// takes over what the node's comparison has found out. Where that is not enough, errFull ends this
// run, and the stream goes on from its own cursor: then sweep tells what is below the low watermark
// of now, after which nothing of that has to be named.
func (m *myEvents) makeRoom(id model.ConversationID) error {
	if m.hasRoom(id) {
		return nil
	}
	m.advance()
	if m.hasRoom(id) {
		return nil
	}
	return errFull
}

func (m *myEvents) hasRoom(id model.ConversationID) bool {
	_, told := m.told[id]
	_, left := m.left[id]
	return told || left || len(m.told)+len(m.left) < m.service.opts.maxNamed
}

// roomPatience is for how long, about, a stream whose cursor is full waits for transactions that
// hold the low watermark back.
const roomPatience = 10 * time.Second

// awaitRoom waits until the low watermark of the database is beyond most of what has been told.
// False means that it is held back for too long, by a transaction that runs on.
func (m *myEvents) awaitRoom(ctx context.Context) (ok bool, err error) {
	for waited, wait := time.Duration(0), firstRoomWait; ; waited, wait = waited+wait, 2*wait {
		var horizon int64
		err := onceThere(ctx, func() (err error) {
			if err = m.service.noteReached(ctx); err == nil {
				horizon, err = m.service.horizon(ctx)
			}
			return err
		})
		if err != nil {
			return false, err
		}
		held := 0
		for id := range m.told {
			if m.newest[id] >= horizon {
				held++
			}
		}
		for _, d := range m.left {
			if d.Position >= horizon {
				held++
			}
		}
		if held <= m.service.opts.maxNamed/2 {
			return true, nil
		}
		if waited >= m.service.opts.roomPatience {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

const firstRoomWait = 10 * time.Millisecond

// resumption is what a stream has to tell before it is live.
type resumption struct {
	reset   bool
	horizon int64 // all that is below it is in what was read for this
	named   []mine
	left    []model.Departure
}

// tryBegin follows all of the actor's conversations from where the cursor says.
func (m *myEvents) tryBegin(ctx context.Context, b streamStart) (r resumption, err error) {
	feeds, err := m.openFeeds(ctx)
	if err != nil {
		return r, err
	}
	defer releaseAll(feeds) // those that nobody has joined
	m.unfollow()
	// From here on nothing happens unheard. The horizon comes first: what is below it is in all
	// that is read next.
	if r.horizon, err = m.service.horizon(ctx); err != nil {
		return r, err
	}
	if m.epoch, err = m.service.epoch(ctx); err != nil {
		return r, err
	}
	var now []recentMine
	var start map[model.ConversationID]int64
	if from := b.from; from != nil && !b.reset && from.epoch == m.epoch && from.low.position <= r.horizon {
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
		if now, err = m.recentMemberships(ctx, lowWatermark{position: r.horizon}, feeds); err != nil {
			return r, err
		}
		start = m.startNow(now, r.horizon)
	}
	for _, own := range now {
		id, seen := own.ConversationID, max(start[own.ConversationID], own.HiddenSeq)
		if _, named := m.told[id]; named {
			r.named = append(r.named, own.mine)
		}
		if start[id] < own.JoinedSeq {
			m.joining[id] = own.mine
			seen = max(own.JoinedSeq, own.HiddenSeq)
		}
		m.follow(feeds[id], own.mine, seen)
		delete(feeds, id)
	}
	return r, nil
}

// recentMine is a membership with what its conversation has beyond a low watermark, if anything.
type recentMine struct {
	mine          `bun:",extend"`
	First, Newest *int64 // seq of the first event; the highest position
}

// recentMemberships reads the memberships in conversations that are listened to; of the others
// there will be news. It is one statement, because an end and a new beginning between two would be
// taken for one membership.
func (m *myEvents) recentMemberships(
	ctx context.Context, low lowWatermark, feeds map[model.ConversationID]*feed,
) (now []recentMine, err error) {
	err = m.service.db.NewSelect().Model((*model.ConversationMember)(nil)).ColumnExpr("?TableColumns, c.last_seq, r.first, r.newest").
		Join("JOIN conversations AS c ON c.id = cm.conversation_id").
		Join("LEFT JOIN (?) AS r ON r.conversation_id = cm.conversation_id", m.service.movedSince(m.actor, low)).
		Where("cm.user_id = ?", m.actor.UserID).OrderExpr("cm.conversation_id").Scan(ctx, &now)
	return slices.DeleteFunc(now, func(own recentMine) bool { return feeds[own.ConversationID] == nil }), store.Error(err)
}

// startNow begins after everything that there is. Conversations with events beyond the low
// watermark are named, unless they are too many: then some of these events come again to a client
// that comes back, as they may after a reset.
func (m *myEvents) startNow(now []recentMine, horizon int64) map[model.ConversationID]int64 {
	m.forget()
	m.low = lowWatermark{position: horizon}
	start := make(map[model.ConversationID]int64, len(now))
	for _, own := range now {
		start[own.ConversationID] = own.LastSeq
		if own.First != nil {
			m.told[own.ConversationID], m.newest[own.ConversationID] = own.LastSeq, *own.Newest
		}
	}
	if len(m.told) > m.service.opts.maxNamed {
		clear(m.told)
	}
	return start
}

// startAt finds out how far each conversation has been told; nil where the cursor says more than
// there is. Of a conversation that it does not name, the events below the low watermark have been
// told, and those are the first ones of the membership: so what was told ends before the first one
// that is not below.
func (m *myEvents) startAt(from myCursor, now []recentMine) map[model.ConversationID]int64 {
	m.forget()
	m.low = from.low
	start := make(map[model.ConversationID]int64, len(now))
	for _, own := range now {
		id := own.ConversationID
		told, named := from.told[id]
		start[id] = own.LastSeq
		switch {
		case named:
			start[id] = max(told, -told)
			m.told[id] = start[id]
			if own.Newest != nil {
				m.newest[id] = *own.Newest
			}
			if start[id] > own.LastSeq {
				return nil // of a time that the database does not know
			}
		case own.First != nil:
			start[id] = *own.First - 1
		}
	}
	return start
}

func (m *myEvents) forget() {
	m.told = map[model.ConversationID]int64{}
	m.newest = map[model.ConversationID]int64{}
	m.left = map[model.ConversationID]model.Departure{}
	m.joining = map[model.ConversationID]mine{}
	m.leaving = model.ConversationID{}
}

// departures are the conversations that the actor has left since the cursor, and is not in again;
// in the order in which that happened.
func (m *myEvents) departures(ctx context.Context, from myCursor, now []recentMine) (left []model.Departure, err error) {
	named := bun.List(slices.Collect(maps.Keys(from.told)))
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
		told, named := from.told[d.ConversationID]
		switch {
		case named && -told >= d.Seq:
			m.left[d.ConversationID] = d
			return true
		case named && !member[d.ConversationID]:
			// until its end is told
			m.told[d.ConversationID], m.newest[d.ConversationID] = told, d.Position
		case !named && from.low.isBelow(d.Position, d.ConversationID):
			return true
		}
		return member[d.ConversationID]
	}), nil
}

// missed counts what a stream has to tell before it is live.
func missed(now []recentMine, start map[model.ConversationID]int64, left []model.Departure) int64 {
	count := int64(len(left))
	for _, own := range now {
		if start[own.ConversationID] < own.JoinedSeq {
			count++
		}
		count += own.LastSeq - max(start[own.ConversationID], own.JoinedSeq)
	}
	return count
}

// catchUp tells what was missed: first what the cursor names, then all that is below the horizon in
// the order in which it happened, and the rest, which is from the last moments, one conversation
// after the other.
func (m *myEvents) catchUp(ctx context.Context, r resumption) error {
	left, err := m.tellNamed(ctx, r)
	if err != nil {
		return err
	}
	if left, err = m.sweep(ctx, left, r.horizon); err != nil {
		return err
	}
	for _, d := range left {
		if err := m.makeRoom(d.ConversationID); err != nil {
			return err
		}
		if err := m.tellLeft(d); err != nil {
			return err
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(m.joining), compareBytes) {
		if err := m.makeRoom(id); err != nil {
			return err
		}
		if err := m.tellJoined(m.followers[id], m.joining[id].Position, nil); err != nil {
			return err
		}
	}
	ready := m.stream.takeReady()
	slices.SortFunc(ready, func(a, b *follower) int { return compareBytes(a.id, b.id) })
	for _, fo := range ready {
		if err := m.drainReady(ctx, fo); err != nil {
			return err
		}
	}
	return nil
}

// tellNamed brings the conversations that the cursor names to where they are now. Their events may
// be below the low watermark, where sweep does not look. It returns the departures that are left to
// tell.
func (m *myEvents) tellNamed(ctx context.Context, r resumption) (left []model.Departure, err error) {
	for _, d := range r.left {
		if _, named := m.told[d.ConversationID]; !named {
			left = append(left, d)
		} else if err := m.tellLeft(d); err != nil {
			return nil, err
		}
	}
	for _, own := range r.named {
		fo := m.followers[own.ConversationID]
		if _, joining := m.joining[fo.id]; joining {
			if err := m.tellJoined(fo, own.Position, nil); err != nil {
				return nil, err
			}
		}
		if err := m.catchUpTo(ctx, fo, own.LastSeq); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// catchUpTo tells the events of a conversation up to a seq. Whoever is a member no longer is told
// so later, by drain.
func (m *myEvents) catchUpTo(ctx context.Context, fo *follower, seq int64) error {
	err := fo.catchUpTo(ctx, seq, func(e *model.Event) error { return m.tellSwept(fo, e, nil) })
	if errors.Is(err, errRemoved) {
		fo.remove(nil)
		return nil
	}
	return err
}

// tellSwept tells an event, with which the low watermark moves beyond last, if any.
func (m *myEvents) tellSwept(fo *follower, e, last *model.Event) error {
	m.told[fo.id] = e.Seq
	m.newest[fo.id] = max(m.newest[fo.id], e.Position)
	m.pass(last)
	return m.item(MyEvent{Event: e})
}

// sweepPlace is how far sweep has read.
type sweepPlace struct {
	lowWatermark
	seq int64
}

// sweep tells what was missed below the horizon in order of position, through all conversations,
// and the low watermark moves along: so the cursor has to name only a conversation that it is in
// the midst of, and those few of which something was told before its turn, because seq and position
// do not always rise together. It returns the departures that are left to tell.
func (m *myEvents) sweep(ctx context.Context, left []model.Departure, horizon int64) ([]model.Departure, error) {
	place := sweepPlace{m.low, math.MaxInt64}
	for more := true; more; {
		events, err := m.missedPage(ctx, place, horizon)
		if err != nil {
			return nil, err
		}
		more = len(events) == feedPage
		for i, e := range events {
			place = sweepPlace{lowWatermark{e.Position, e.ConversationID}, e.Seq}
			if left, err = m.tellLeftBelow(left, place.lowWatermark); err != nil {
				return nil, err
			}
			last := e // of its position and conversation
			if i+1 == len(events) && more || i+1 < len(events) &&
				events[i+1].Position == e.Position && events[i+1].ConversationID == e.ConversationID {
				last = nil
			}
			if err := m.sweepEvent(ctx, e, last); err != nil {
				return nil, err
			}
		}
	}
	end := lowWatermark{position: horizon}
	left, err := m.tellLeftBelow(left, end)
	m.low = end
	m.prune()
	return left, err
}

// tellLeftBelow tells the departures that come before the rest.
func (m *myEvents) tellLeftBelow(left []model.Departure, low lowWatermark) ([]model.Departure, error) {
	for len(left) > 0 && low.isBelow(left[0].Position, left[0].ConversationID) {
		d := left[0]
		left = left[1:]
		m.low = lowWatermark{d.Position, d.ConversationID}
		m.prune()
		if err := m.tellLeft(d); err != nil {
			return nil, err
		}
	}
	return left, nil
}

func (m *myEvents) sweepEvent(ctx context.Context, e, last *model.Event) error {
	fo := m.followers[e.ConversationID]
	if fo == nil { // joined while this stream began
		if err := m.makeRoom(e.ConversationID); err != nil {
			return err
		}
		if err := m.lookAt(ctx, e.ConversationID); err != nil {
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
			if err := m.tellJoined(fo, position, passed); err != nil {
				return err
			}
		}
		if e.Seq > fo.seen+1 {
			if err := m.catchUpTo(ctx, fo, e.Seq-1); err != nil {
				return err
			}
		}
		if e.Seq > fo.seen && !fo.isRemoved() {
			return fo.deliver(e, func(e *model.Event) error { return m.tellSwept(fo, e, last) })
		}
	}
	m.pass(last)
	return nil
}

// missedPage reads what comes next in sweep.
func (m *myEvents) missedPage(ctx context.Context, after sweepPlace, horizon int64) (events []*model.Event, err error) {
	db := m.service.db
	read := func() error {
		events = nil
		q := inMyConversations(db.NewSelect().Model(&events), m.actor).
			Where("e.position >= ?", after.position).Where("e.position < ?", horizon).
			Where("(e.position, e.conversation_id, e.seq) > (?, ?, ?)", after.position, after.conversation, after.seq).
			OrderExpr("e.position, e.conversation_id, e.seq").Limit(feedPage)
		if err := q.Scan(ctx); err != nil || len(events) == 0 {
			return store.Error(err)
		}
		if err := readMessages(ctx, db, events); err != nil {
			return store.Error(err)
		}
		return m.checkMemberships(ctx, events)
	}
	err = onceThere(ctx, func() error { return m.service.inTurn(ctx, read) })
	return events, err
}

// checkMemberships comes after the reading: nothing is told that was read after a removal had been
// committed.
func (m *myEvents) checkMemberships(ctx context.Context, events []*model.Event) error {
	ids := map[model.ConversationID]bool{}
	for _, e := range events {
		ids[e.ConversationID] = true
	}
	found, err := m.memberships(ctx, slices.Collect(maps.Keys(ids))...)
	if err != nil {
		return err
	}
	for _, own := range found {
		if fo := m.followers[own.ConversationID]; fo == nil || own.JoinedSeq <= fo.checked {
			delete(ids, own.ConversationID)
		}
	}
	for id := range ids { // removed, and perhaps already back
		if fo := m.followers[id]; fo != nil {
			fo.remove(nil)
		}
	}
	return nil
}

// pass moves the low watermark beyond an event, if any, of which everything that goes before it has
// been told.
func (m *myEvents) pass(e *model.Event) {
	if e != nil {
		m.low = lowWatermark{e.Position, e.ConversationID}
		m.prune()
	}
}

// prune names no more what the low watermark says.
func (m *myEvents) prune() {
	for id := range m.told {
		if m.low.isBelow(m.newest[id], id) {
			delete(m.told, id)
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
func (m *myEvents) cursor() myCursor {
	told := maps.Clone(m.told)
	for id, d := range m.left {
		told[id] = -d.Seq
	}
	return myCursor{m.epoch, m.low, told}
}

// item yields one with the cursor that stands behind it.
func (m *myEvents) item(e MyEvent) error {
	m.advance()
	if len(m.told)+len(m.left) > m.service.opts.maxNamed+sweepNamed {
		return errOver
	}
	e.Cursor = m.cursor().encode(m.key, m.actor.UserID)
	if !m.yield(e, nil) {
		return errStopped
	}
	return nil
}

// advance takes over the horizon of the node's last comparison, which found out how far each
// conversation had come after the horizon was read: where all of that has been told, and nothing
// that is beyond it, the low watermark says so, and the conversation need not be named. Where more
// would have to be named than may, it stays where it is.
func (m *myEvents) advance() {
	settled := m.service.settled.Load()
	if !m.live || settled.round == m.round || settled.horizon < m.low.position {
		return
	}
	// which may be of a conversation that is not followed yet; told of before settled was
	if len(m.heard) > 0 || m.stream.hasNews() {
		return
	}
	low := lowWatermark{position: settled.horizon}
	told := map[model.ConversationID]int64{}
	for id, fo := range m.followers {
		last, compared := fo.feed.comparedIn(settled.round)
		if !compared || fo.seen < last || m.newest[id] >= low.position || id == m.leaving {
			told[id] = fo.seen
		}
		if len(told) > m.service.opts.maxNamed {
			return
		}
	}
	left := maps.Clone(m.left)
	maps.DeleteFunc(left, func(id model.ConversationID, d model.Departure) bool { return low.isBelow(d.Position, id) })
	if len(told)+len(left) > m.service.opts.maxNamed {
		return
	}
	m.told, m.left, m.low, m.round = told, left, low, settled.round
}

// tellJoined tells the beginning of a membership, which is at a position or before it; with that
// the low watermark moves beyond last, if any.
func (m *myEvents) tellJoined(fo *follower, position int64, last *model.Event) error {
	own := m.joining[fo.id]
	if m.in[fo.id] { // who is live is told of the end before, too
		d := model.Departure{UserID: m.actor.UserID, ConversationID: fo.id, Seq: own.JoinedSeq - 1, Position: position}
		if err := m.tellLeft(d); err != nil {
			return err
		}
	}
	delete(m.left, fo.id)
	delete(m.joining, fo.id)
	m.told[fo.id] = fo.seen
	m.newest[fo.id] = max(m.newest[fo.id], position)
	m.pass(last)
	return m.item(MyEvent{Joined: &fo.id})
}

func (m *myEvents) tellLeft(d model.Departure) error {
	m.leaving = model.ConversationID{}
	delete(m.in, d.ConversationID)
	delete(m.told, d.ConversationID)
	delete(m.newest, d.ConversationID)
	if !m.low.isBelow(d.Position, d.ConversationID) {
		m.left[d.ConversationID] = d
	}
	return m.item(MyEvent{Left: &d.ConversationID})
}

// drain tells what there is of one conversation, and its end.
func (m *myEvents) drain(ctx context.Context, fo *follower) error {
	err := fo.drain(ctx, func(e *model.Event) error {
		if fo.endsWith(e) {
			m.leaving = fo.id
		}
		m.told[fo.id] = e.Seq
		m.newest[fo.id] = max(m.newest[fo.id], e.Position)
		return m.item(MyEvent{Event: e})
	})
	if !errors.Is(err, errRemoved) {
		return err
	}
	m.drop(fo)
	d, err := m.departure(ctx, fo.id)
	if err != nil {
		return err
	}
	if err := m.tellLeft(d); err != nil {
		return err
	}
	return m.lookAt(ctx, fo.id) // they may be back already
}

// departure reads what is stored of the end of a membership.
func (m *myEvents) departure(ctx context.Context, id model.ConversationID) (model.Departure, error) {
	var found []model.Departure
	err := onceThere(ctx, func() error {
		return store.Error(m.service.db.NewSelect().Model(&found).Where("d.user_id = ?", m.actor.UserID).
			Where("d.conversation_id = ?", id).Scan(ctx))
	})
	if len(found) == 0 { // it is nothing to come back to
		return model.Departure{UserID: m.actor.UserID, ConversationID: id, Seq: math.MaxInt64}, err
	}
	return found[0], err
}

func (m *myEvents) lookAt(ctx context.Context, id model.ConversationID) error {
	f, own, err := m.look(ctx, id)
	if err != nil {
		return err
	}
	if own == nil && m.followers[id] == nil {
		return m.lookForEnd(ctx, id)
	}
	if own == nil {
		return nil
	}
	fo := m.follow(f, *own, max(own.JoinedSeq, own.HiddenSeq))
	if err := m.tellJoined(fo, own.Position, nil); err != nil {
		return err
	}
	return m.drain(ctx, fo)
}

// lookForEnd tells the end of a membership that began and ended before anything could be told of
// it, as it would be told to somebody who was away.
func (m *myEvents) lookForEnd(ctx context.Context, id model.ConversationID) error {
	d, err := m.departure(ctx, id)
	if err != nil || d.Seq == math.MaxInt64 || m.low.isBelow(d.Position, id) || m.left[id].Seq >= d.Seq {
		return err
	}
	if _, known := m.left[id]; known { // the end before was told already
		m.left[id] = d
		return nil
	}
	return m.tellLeft(d)
}
