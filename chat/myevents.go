package chat

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub"
	"parley/store"
)

// MyEvent is one item of a person's stream of everything: exactly one of its fields beside Cursor says what.
type MyEvent struct {
	Cursor   string // where the stream stands after this item
	Event    *model.Event
	Joined   *model.ConversationID // the actor is a member now
	Left     *model.ConversationID // the actor is a member no longer, or the conversation is gone
	CaughtUp bool                  // what comes now is live
	Reset    bool                  // the cursor was too old: the stream begins anew, from now
}

// MyEvents yields everything that the actor may see, in all their conversations: after a cursor, what was missed, then
// CaughtUp, then what comes live. Without a cursor it begins now. Within a conversation the order is that of seq, and nothing
// comes twice, nor is anything left out, however often one comes back with the cursor of the last item. BAD_USER_INPUT where
// that is not a cursor of the actor's.
func (s *Service) MyEvents(ctx context.Context, actor model.Actor, after *string) (iter.Seq2[MyEvent, error], error) {
	var from *myCursor
	if after != nil {
		read, err := readMyCursor(actor.UserID, *after)
		if err != nil {
			return nil, err
		}
		from = &read
	}
	return func(yield func(MyEvent, error) bool) {
		m := &myEvents{myConversations: s.listenFor(actor), yield: yield}
		defer m.close()
		if err := m.run(ctx, from); !errors.Is(err, errStopped) {
			yield(MyEvent{}, err)
		}
	}, nil
}

// myConversations is what every stream over all of a person's conversations has: a follower for each of them, and news of those
// that come and go.
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
	for _, fo := range m.followers {
		fo.detach()
	}
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
		q = q.Where("cm.conversation_id = ?", only[0])
	}
	return found, store.Error(q.Scan(ctx, &found))
}

// follow joins a feed that was open before the membership was read.
func (m *myConversations) follow(f *feed, own mine, seen int64) *follower {
	fo := &follower{
		service: m.service, stream: m.stream, feed: f, actor: m.actor, id: own.ConversationID, seen: seen, hidden: own.HiddenSeq,
		checked: own.LastSeq,
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

// look finds out about a conversation that there is news of: the membership, where the actor has one that is not followed yet,
// with a feed that was open before. Where there is none, a follower of it is made to end.
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

// openFeeds has the conversations that the actor is in listened to, before it is read how far they have come.
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
	yield func(MyEvent, error) bool

	epoch   int64
	horizon int64
	told    map[model.ConversationID]int64 // conversations about which the horizon does not say how far they have been told
	newest  map[model.ConversationID]int64 // the highest position that may have been told of each
	left    map[model.ConversationID]model.Departure
	leaving model.ConversationID   // whose removal is being told, and the end not yet
	heard   []model.ConversationID // of which there is news that has not been looked at
	live    bool                   // all that was missed has been told
	round   int64                  // of the comparison that the horizon is from
}

func (m *myEvents) run(ctx context.Context, from *myCursor) error {
	joined, left, reset, err := m.begin(ctx, from)
	if err != nil {
		return err
	}
	if reset {
		if err := m.item(MyEvent{Reset: true}); err != nil {
			return err
		}
	}
	for _, d := range left {
		if err := m.tellLeft(d); err != nil {
			return err
		}
	}
	for _, own := range joined {
		if err := m.tellJoined(m.followers[own.ConversationID], own); err != nil {
			return err
		}
	}
	if from != nil { // else nothing was missed, and what has come since the beginning is live
		for _, id := range slices.SortedFunc(maps.Keys(m.followers), compareBytes) {
			if err := m.drain(ctx, m.followers[id]); err != nil {
				return err
			}
		}
	}
	m.live = true
	if err := m.item(MyEvent{CaughtUp: true}); err != nil {
		return err
	}
	for {
		fo, heard, err := m.stream.next(ctx)
		if err != nil {
			return err
		}
		for m.heard = heard; len(m.heard) > 0; m.heard = m.heard[1:] {
			if err := m.lookAt(ctx, m.heard[0]); err != nil {
				return err
			}
		}
		if fo != nil && m.followers[fo.id] == fo {
			if err := m.drain(ctx, fo); err != nil {
				return err
			}
		}
	}
}

// begin follows all of the actor's conversations from where the cursor says.
func (m *myEvents) begin(ctx context.Context, from *myCursor) (
	joined []mine, left []model.Departure, reset bool, err error,
) {
	err = onceThere(ctx, func() (err error) {
		joined, left, reset, err = m.tryBegin(ctx, from)
		return err
	})
	return joined, left, reset, err
}

func (m *myEvents) tryBegin(ctx context.Context, from *myCursor) (
	joined []mine, left []model.Departure, reset bool, err error,
) {
	feeds, err := m.openFeeds(ctx)
	if err != nil {
		return nil, nil, false, err
	}
	defer releaseAll(feeds) // those that nobody has joined
	// From here on nothing happens unheard. The horizon comes first: what is below it is in all that is read next.
	if m.horizon, err = m.service.horizon(ctx); err != nil {
		return nil, nil, false, err
	}
	if m.epoch, err = m.service.epoch(ctx); err != nil {
		return nil, nil, false, err
	}
	now, err := m.memberships(ctx)
	if err != nil {
		return nil, nil, false, err
	}
	now = slices.DeleteFunc(now, func(own mine) bool { return feeds[own.ConversationID] == nil }) // there will be news of it
	var start map[model.ConversationID]int64
	if from != nil && from.epoch == m.epoch && from.horizon <= m.horizon {
		if start, err = m.startAt(ctx, *from, now); err != nil {
			return nil, nil, false, err
		}
		if left, err = m.departures(ctx, *from, now); err != nil {
			return nil, nil, false, err
		}
	}
	if start == nil || m.tooMuch(now, start) {
		reset, left = from != nil, nil
		if start, err = m.startNow(ctx, now); err != nil {
			return nil, nil, false, err
		}
	} else {
		m.horizon = from.horizon
	}
	for _, own := range now {
		id, seen := own.ConversationID, max(start[own.ConversationID], own.HiddenSeq)
		if start[id] < own.JoinedSeq {
			joined = append(joined, own)
			seen = max(own.JoinedSeq, own.HiddenSeq)
		}
		m.follow(feeds[id], own, seen)
		delete(feeds, id)
	}
	return joined, left, reset, nil
}

// startNow begins after everything that there is.
func (m *myEvents) startNow(ctx context.Context, now []mine) (map[model.ConversationID]int64, error) {
	m.forget()
	start := make(map[model.ConversationID]int64, len(now))
	for _, own := range now {
		start[own.ConversationID] = own.LastSeq
	}
	recent, err := m.service.movedSince(ctx, bun.List(slices.Collect(maps.Keys(start))), m.horizon)
	for id, beyond := range recent {
		m.told[id], m.newest[id] = start[id], beyond.position
	}
	return start, err
}

// startAt finds out how far each conversation has been told. What has been told are the events below the cursor's horizon, and
// those are the first ones of the conversation: so it ends before the first one that is not below.
func (m *myEvents) startAt(ctx context.Context, from myCursor, now []mine) (map[model.ConversationID]int64, error) {
	m.forget()
	start := make(map[model.ConversationID]int64, len(now))
	for _, own := range now {
		start[own.ConversationID] = own.LastSeq
	}
	recent, err := m.service.movedSince(ctx, bun.List(slices.Collect(maps.Keys(start))), from.horizon)
	if err != nil {
		return nil, err
	}
	for id := range start {
		told, explicit := from.told[id]
		beyond, there := recent[id]
		switch {
		case explicit:
			start[id] = max(told, -told)
		case there:
			start[id] = beyond.first - 1
		}
		if explicit || there {
			m.told[id], m.newest[id] = start[id], beyond.position
		}
	}
	return start, nil
}

func (m *myEvents) forget() {
	m.told = map[model.ConversationID]int64{}
	m.newest = map[model.ConversationID]int64{}
	m.left = map[model.ConversationID]model.Departure{}
}

// departures are the conversations that the actor has left since the cursor, and is not in again.
func (m *myEvents) departures(ctx context.Context, from myCursor, now []mine) (left []model.Departure, err error) {
	named := bun.List(slices.Collect(maps.Keys(from.told)))
	err = m.service.db.NewSelect().Model(&left).Where("d.user_id = ?", m.actor.UserID).
		Where("d.position >= ? OR d.conversation_id IN (?)", from.horizon, named).OrderExpr("d.position").Scan(ctx)
	if err != nil {
		return nil, store.Error(err)
	}
	return slices.DeleteFunc(left, func(d model.Departure) bool {
		again := slices.ContainsFunc(now, func(own mine) bool { return own.ConversationID == d.ConversationID })
		told, explicit := from.told[d.ConversationID]
		if explicit && -told >= d.Seq {
			m.left[d.ConversationID] = d
			return true
		}
		if explicit && !again {
			m.told[d.ConversationID] = told // until its end is told
		}
		return again
	}), nil
}

func (m *myEvents) tooMuch(now []mine, start map[model.ConversationID]int64) bool {
	missed := int64(0)
	for _, own := range now {
		missed += own.LastSeq - max(start[own.ConversationID], own.JoinedSeq)
	}
	return missed > int64(m.service.opts.MaxReplayed)
}

// item yields one with the cursor that stands behind it.
func (m *myEvents) item(e MyEvent) error {
	m.advance()
	told := maps.Clone(m.told)
	for id, d := range m.left {
		told[id] = -d.Seq
	}
	e.Cursor = myCursor{m.epoch, m.horizon, told}.encode(m.actor.UserID)
	if !m.yield(e, nil) {
		return errStopped
	}
	return nil
}

// advance takes over the horizon of the node's last comparison, which found out how far each conversation had come after the
// horizon was read: where all of that has been told, and nothing that is beyond it, the horizon says so, and the conversation
// need not be named.
func (m *myEvents) advance() {
	settled := m.service.settled.Load()
	if !m.live || settled.round == m.round || settled.horizon < m.horizon {
		return
	}
	if len(m.heard) > 0 || m.stream.hasNews() { // which may be of a conversation that is not followed yet; told of before settled was
		return
	}
	told := map[model.ConversationID]int64{}
	for id, fo := range m.followers {
		last, compared := fo.feed.comparedIn(settled.round)
		if !compared || fo.seen < last || m.newest[id] >= settled.horizon || id == m.leaving {
			told[id] = fo.seen
		}
	}
	for id, d := range m.left {
		if d.Position < settled.horizon {
			delete(m.left, id)
		}
	}
	m.told, m.horizon, m.round = told, settled.horizon, settled.round
}

func (m *myEvents) tellJoined(fo *follower, own mine) error {
	m.told[fo.id] = fo.seen
	m.newest[fo.id] = max(m.newest[fo.id], own.Position)
	delete(m.left, fo.id)
	return m.item(MyEvent{Joined: &fo.id})
}

func (m *myEvents) tellLeft(d model.Departure) error {
	m.left[d.ConversationID], m.leaving = d, model.ConversationID{}
	delete(m.told, d.ConversationID)
	delete(m.newest, d.ConversationID)
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
	if err := m.tellJoined(fo, *own); err != nil {
		return err
	}
	return m.drain(ctx, fo)
}

// lookForEnd tells the end of a membership that began and ended before anything could be told of it, as it would be told to
// somebody who was away.
func (m *myEvents) lookForEnd(ctx context.Context, id model.ConversationID) error {
	d, err := m.departure(ctx, id)
	if err != nil || d.Seq == math.MaxInt64 || d.Position < m.horizon || m.left[id].Seq >= d.Seq {
		return err
	}
	if _, known := m.left[id]; known { // the end before was told already
		m.left[id] = d
		return nil
	}
	return m.tellLeft(d)
}
