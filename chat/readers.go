package chat

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub"
	"parley/store"
)

// readers is how far the members of a conversation have read, as this node knows it, for all
// watches on it together. Signs say most of it. The rest is read by a goroutine, one at a time and
// only while there is something to read.
type readers struct {
	service *Service
	id      model.ConversationID
	ctx     context.Context //nolint:containedctx // ends with the last watch, and bounds what is read
	cancel  context.CancelFunc
	subs    []*pubsub.Subscription[sign]
	users   int // of the readers; guarded by the service's readersMu

	mu       sync.Mutex // guards what follows, and in each watch what says so
	members  map[model.UserID]reader
	watches  map[*receiptWatch]struct{}
	doubtful map[model.UserID]bool // to be read
	all      bool                  // all of them are
	noticed  int64                 // the newest event about members
	reading  bool                  // a goroutine takes what is to be read
}

// reader is a member. Nobody has read less than before.
type reader struct {
	seq  int64
	lets bool // others know
}

// watchReaders begins to watch a conversation, whose readers are shared with the other watches on
// it.
func (s *Service) watchReaders(id model.ConversationID, viewer model.UserID, ring func()) *receiptWatch {
	r := s.readersOf(id)
	w := &receiptWatch{
		readers: r, viewer: viewer, ring: ring, told: map[model.UserID]int64{}, news: map[model.UserID]bool{},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches[w] = struct{}{}
	r.doubtAll() // a sign may be lost, and not missed yet
	return w
}

func (s *Service) readersOf(id model.ConversationID) *readers {
	s.readersMu.Lock()
	defer s.readersMu.Unlock()
	r := s.readers[id]
	if r == nil {
		r = &readers{
			service: s, id: id, members: map[model.UserID]reader{}, watches: map[*receiptWatch]struct{}{},
			doubtful: map[model.UserID]bool{},
		}
		r.ctx, r.cancel = context.WithCancel(context.Background())
		r.subs = []*pubsub.Subscription[sign]{s.signs.Handle(readTopic(id), r.hear), s.signs.Handle(settingsTopic, r.hearSettings)}
		s.readers[id] = r
	}
	r.users++
	return r
}

func (w *receiptWatch) end() {
	r := w.readers
	r.mu.Lock()
	delete(r.watches, w)
	r.mu.Unlock()
	s := r.service
	s.readersMu.Lock()
	defer s.readersMu.Unlock()
	if r.users--; r.users > 0 {
		return
	}
	delete(s.readers, r.id)
	for _, sub := range r.subs {
		sub.Close()
	}
	r.cancel()
}

func (s *Service) openReaders() []*readers {
	s.readersMu.Lock()
	defer s.readersMu.Unlock()
	return slices.Collect(maps.Values(s.readers))
}

// hear takes the sign that people have read on, and returns at once.
func (r *readers) hear(told sign) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, user := range told.Users {
		r.advance(user, told.Seq)
	}
}

// advance needs the lock.
func (r *readers) advance(user model.UserID, seq int64) {
	m, known := r.members[user]
	switch {
	case !known: // who has just joined, perhaps
		r.doubt(user)
	case seq > m.seq:
		m.seq = seq
		r.members[user] = m
		r.note([]model.UserID{user})
	}
}

// hearSettings takes the sign that people let others know more than before, or less.
func (r *readers) hearSettings(told sign) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, user := range told.Users {
		// what is being read is not in members yet
		if _, known := r.members[user]; known || r.reading {
			r.doubt(user)
		}
	}
}

// follow takes from the conversation who has come and gone, which every stream of it tells.
func (r *readers) follow(events []*model.Event, missed bool) {
	if !missed && !slices.ContainsFunc(events, changesMembers) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		if changesMembers(e) && e.Seq > r.noticed {
			r.noticed = e.Seq
			r.doubtAll()
		}
	}
	if missed {
		r.doubtAll()
	}
}

func changesMembers(e *model.Event) bool {
	return e.Kind == model.MemberAdded || e.Kind == model.MemberRemoved
}

// doubt has somebody read. It needs the lock.
func (r *readers) doubt(user model.UserID) {
	if len(r.doubtful) >= MaxMembers { // more there are only for a stranger
		r.all = true
	} else {
		r.doubtful[user] = true
	}
	r.begin()
}

// doubtAll needs the lock.
func (r *readers) doubtAll() {
	r.all = true
	r.begin()
}

// begin needs the lock.
func (r *readers) begin() {
	if !r.reading {
		r.reading = true
		go r.read()
	}
}

func (r *readers) read() {
	for {
		only, began, ok := r.take()
		if !ok {
			return
		}
		var found []readerRow
		err := onceThere(r.ctx, func() error {
			return r.service.inTurn(r.ctx, func() (err error) {
				found, err = r.service.readReaders(r.ctx, r.id, only)
				return err
			})
		})
		if err != nil {
			r.fail(err)
			return
		}
		r.merge(only, found, began)
	}
}

// take takes what is to be read, nil for all, and who waits for it since they began.
func (r *readers) take() (only []model.UserID, began []*receiptWatch, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil || !r.all && len(r.doubtful) == 0 {
		r.reading = false
		return nil, nil, false
	}
	if r.all {
		for w := range r.watches {
			if !w.begun {
				began = append(began, w)
			}
		}
	} else {
		only = slices.Collect(maps.Keys(r.doubtful))
	}
	r.all = false
	clear(r.doubtful)
	return only, began, true
}

// fail leaves everything to the next comparison, which begins anew.
func (r *readers) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading, r.all = false, true
	if r.ctx.Err() == nil {
		r.service.opts.Log.Error("cannot read how far members have read; trying again", "conversation", r.id, "error", err)
	}
}

// merge takes in what was read.
func (r *readers) merge(only []model.UserID, found []readerRow, began []*receiptWatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if only == nil {
		only = slices.Collect(maps.Keys(r.members))
	}
	gone := setOf(only)
	var changed []model.UserID
	for _, row := range found {
		delete(gone, row.UserID)
		before, known := r.members[row.UserID]
		now := reader{max(row.Seq, before.seq), row.Lets} // a sign may be ahead of what was read
		if !known || now != before {
			r.members[row.UserID] = now
			changed = append(changed, row.UserID)
		}
	}
	for user := range gone {
		if _, known := r.members[user]; known {
			delete(r.members, user)
			changed = append(changed, user)
		}
	}
	r.note(changed)
	for _, w := range began {
		w.begun = true
		w.noteAll()
	}
}

// note tells the watches of changes. It needs the lock.
func (r *readers) note(changed []model.UserID) {
	if len(changed) == 0 {
		return
	}
	for w := range r.watches {
		if w.begun {
			w.note(changed)
		}
	}
}

type readerRow struct {
	UserID model.UserID
	Seq    int64
	Lets   bool
}

// readReaders reads the members of a conversation, some or all.
func (s *Service) readReaders(
	ctx context.Context, id model.ConversationID, only []model.UserID,
) (found []readerRow, err error) {
	q := s.db.NewSelect().Model((*model.ConversationMember)(nil)).
		ColumnExpr("cm.user_id, cm.last_read_seq AS seq, u.send_read_receipts AS lets").
		Join("JOIN users AS u ON u.id = cm.user_id AND u.removed_at IS NULL").Where("cm.conversation_id = ?", id)
	if only != nil {
		q = q.Where("cm.user_id IN (?)", bun.List(only))
	}
	return found, store.Error(q.Scan(ctx, &found))
}

// compareReaders tells the readers of what has changed in the database since a position: who has
// read, and who lets others know.
func (s *Service) compareReaders(ctx context.Context, since int64) error {
	for some := range slices.Chunk(s.openReaders(), compareAtOnce) {
		ids := make([]model.ConversationID, len(some))
		for i, r := range some {
			ids[i] = r.id
		}
		members := func() *bun.SelectQuery {
			return s.db.NewSelect().Model((*model.ConversationMember)(nil)).
				Column("conversation_id", "user_id", "last_read_seq").Where("cm.conversation_id IN (?)", bun.List(ids))
		}
		moved, err := readersIn(ctx, members().Where("cm.position >= ?", since))
		if err != nil {
			return err
		}
		hiding, err := readersIn(ctx, members().Join("JOIN users AS u ON u.id = cm.user_id AND u.removed_at IS NULL").
			Where("NOT u.send_read_receipts"))
		if err != nil {
			return err
		}
		for _, r := range some {
			r.compare(moved[r.id], hiding[r.id])
		}
	}
	return nil
}

// readersIn is how far people have read, by conversation.
func readersIn(ctx context.Context, q *bun.SelectQuery) (map[model.ConversationID]map[model.UserID]int64, error) {
	var found []model.ConversationMember
	if err := q.Scan(ctx, &found); err != nil {
		return nil, store.Error(err)
	}
	byConversation := map[model.ConversationID]map[model.UserID]int64{}
	for _, m := range found {
		if byConversation[m.ConversationID] == nil {
			byConversation[m.ConversationID] = map[model.UserID]int64{}
		}
		byConversation[m.ConversationID][m.UserID] = m.LastReadSeq
	}
	return byConversation, nil
}

// compare is told how far those have read whose membership has changed, and who of all members
// hides it.
func (r *readers) compare(moved, hiding map[model.UserID]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for user, seq := range moved {
		r.advance(user, seq)
	}
	for user, m := range r.members {
		if _, hides := hiding[user]; hides == m.lets {
			r.doubt(user)
		}
	}
	if r.all { // what could not be read before
		r.begin()
	}
}

// lostReads has readers read anew, of whom signs may have been lost; nil are all topics.
func (s *Service) lostReads(topics []string) {
	all := topics == nil || slices.Contains(topics, settingsTopic)
	for _, r := range s.openReaders() {
		if all || slices.Contains(topics, readTopic(r.id)) {
			r.mu.Lock()
			r.doubtAll()
			r.mu.Unlock()
		}
	}
}
