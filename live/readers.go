package live

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"parley/membership"
	"parley/model"
	"parley/pubsub"
	"parley/store"
	"parley/wake"
)

// readers knows how far the members of one conversation have read, for all its watches on this
// node. Most changes come with signals. A goroutine reads the others; it exists only while a member
// is dirty.
type readers struct {
	service *Service
	id      model.ConversationID
	ctx     context.Context //nolint:containedctx // of reads; ends with the last watch
	cancel  context.CancelFunc
	subs    []*pubsub.Subscription[Signal]

	mu       sync.Mutex // guards what follows, and the fields of each watch that say so
	members  map[model.UserID]reader
	watches  map[*receiptWatch]struct{}
	dirty    map[model.UserID]bool // users to read
	allDirty bool                  // all members have to be read
	observed int64                 // the newest event about members that a watch has observed
	reading  bool                  // the goroutine runs
}

// reader is the read state of a member.
type reader struct {
	seq             int64 // up to which the member has read; it never goes back
	receiptsEnabled bool  // the member sends read receipts
}

// watchReaders registers a watch of a conversation's receipts.
func (s *Service) watchReaders(
	id model.ConversationID, viewer model.UserID, notifier wake.Notifier,
) *receiptWatch {
	r := s.readers.Acquire(id, func() *readers { return s.newReaders(id) })
	w := &receiptWatch{
		readers: r, viewer: viewer, notifier: notifier,
		delivered: map[model.UserID]int64{}, changed: map[model.UserID]bool{},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches[w] = struct{}{}
	r.markAllDirty() // signals may be lost, and not reconciled yet
	return w
}

func (s *Service) newReaders(id model.ConversationID) *readers {
	r := &readers{
		service: s, id: id, members: map[model.UserID]reader{},
		watches: map[*receiptWatch]struct{}{}, dirty: map[model.UserID]bool{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.subs = []*pubsub.Subscription[Signal]{
		s.signals.Handle(ReadTopic(id), r.handleRead),
		s.signals.Handle(settingsTopic, r.handleSettings),
	}
	return r
}

// unwatchReaders unregisters a watch.
func (s *Service) unwatchReaders(w *receiptWatch) {
	r := w.readers
	r.mu.Lock()
	delete(r.watches, w)
	r.mu.Unlock()
	s.readers.Release(r.id, func(r *readers) {
		for _, sub := range r.subs {
			sub.Close()
		}
		r.cancel()
	})
}

// handleRead handles the signal that members have read further.
func (r *readers) handleRead(sig Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, user := range sig.Users {
		r.advance(user, sig.Seq)
	}
}

// advance records that a user has read up to a seq. It must be called with r.mu held.
func (r *readers) advance(user model.UserID, seq int64) {
	m, known := r.members[user]
	switch {
	case !known: // the user may have just joined
		r.markDirty(user)
	case seq > m.seq:
		m.seq = seq
		r.members[user] = m
		r.markChanged([]model.UserID{user})
	}
}

// handleSettings handles the signal that users have changed what others may know.
func (r *readers) handleSettings(sig Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, user := range sig.Users {
		// Members who are being read may not be in members yet.
		if _, known := r.members[user]; known || r.reading {
			r.markDirty(user)
		}
	}
}

// markDirty must be called with r.mu held.
func (r *readers) markDirty(user model.UserID) {
	if len(r.dirty) >= membership.Max { // there are signals about non-members
		r.allDirty = true
	} else {
		r.dirty[user] = true
	}
	r.startReading()
}

// markAllDirty must be called with r.mu held.
func (r *readers) markAllDirty() {
	r.allDirty = true
	r.startReading()
}

// startReading must be called with r.mu held.
func (r *readers) startReading() {
	if !r.reading {
		r.reading = true
		go r.read()
	}
}

// dirtyMembers are the members that one read reads.
type dirtyMembers struct {
	all     bool
	users   []model.UserID  // if not all
	started []*receiptWatch // watches that start with this read; only if all
}

// read reads dirty members until there are none.
func (r *readers) read() {
	for {
		dirty, ok := r.drain()
		if !ok {
			return
		}
		var found []readerRow
		err := store.RetryWhileUnavailable(r.ctx, func() error {
			return r.service.feed.WithReplaySlot(r.ctx, func() (err error) {
				found, err = r.service.readReaders(r.ctx, r.id, dirty)
				return err
			})
		})
		if err != nil {
			r.fail(err)
			return
		}
		r.merge(dirty, found)
	}
}

// drain returns the dirty members, and marks them clean. It returns false, and the goroutine must
// end, if there are none.
func (r *readers) drain() (dirty dirtyMembers, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil || !r.allDirty && len(r.dirty) == 0 {
		r.reading = false
		return dirtyMembers{}, false
	}
	dirty.all = r.allDirty
	if r.allDirty {
		for w := range r.watches {
			if !w.started {
				dirty.started = append(dirty.started, w)
			}
		}
	} else {
		dirty.users = slices.Collect(maps.Keys(r.dirty))
	}
	r.allDirty = false
	clear(r.dirty)
	return dirty, true
}

// fail marks all members dirty, for the next round of reconciling to start the goroutine again.
func (r *readers) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading, r.allDirty = false, true
	if r.ctx.Err() == nil {
		r.service.opts.Log.Error("cannot read how far members have read; retrying",
			"conversation", r.id, "error", err)
	}
}

// merge merges what was read into members, and marks what has changed in the watches.
func (r *readers) merge(dirty dirtyMembers, found []readerRow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	missing := setOf(dirty.users)
	if dirty.all {
		for user := range r.members {
			missing[user] = true
		}
	}
	var changed []model.UserID
	for _, row := range found {
		delete(missing, row.UserID)
		before, known := r.members[row.UserID]
		// A signal may have come since the read.
		now := reader{max(row.Seq, before.seq), row.ReceiptsEnabled}
		if !known || now != before {
			r.members[row.UserID] = now
			changed = append(changed, row.UserID)
		}
	}
	for user := range missing {
		if _, known := r.members[user]; known {
			delete(r.members, user)
			changed = append(changed, user)
		}
	}
	r.markChanged(changed)
	for _, w := range dirty.started {
		w.started = true
		w.markAllChanged()
	}
}

// markChanged marks changed members in the watches that have started. It must be called with r.mu
// held.
func (r *readers) markChanged(users []model.UserID) {
	if len(users) == 0 {
		return
	}
	for w := range r.watches {
		if w.started {
			w.markChanged(users)
		}
	}
}

type readerRow struct {
	UserID          model.UserID
	Seq             int64
	ReceiptsEnabled bool
}

// readReaders reads the dirty members of a conversation.
func (s *Service) readReaders(
	ctx context.Context, id model.ConversationID, dirty dirtyMembers,
) (found []readerRow, err error) {
	q := s.db.NewSelect().Model((*model.ConversationMember)(nil)).
		ColumnExpr("cm.user_id, cm.last_read_seq AS seq").
		ColumnExpr("u.send_read_receipts AS receipts_enabled").
		Join("JOIN users AS u ON u.id = cm.user_id AND u.removed_at IS NULL").
		Where("cm.conversation_id = ?", id)
	if !dirty.all {
		q = q.Where("cm.user_id IN (?)", bun.List(dirty.users))
	}
	return found, store.Error(q.Scan(ctx, &found))
}

// readersBatch is how many conversations one statement has at most.
const readersBatch = 1000

// runReaders reconciles receipts with the database until ctx ends.
func (s *Service) runReaders(ctx context.Context) {
	tick := time.NewTicker(s.opts.ReconcileEvery)
	defer tick.Stop()
	var since int64 // the low watermark before the last round; 0 makes the first one read all
	for {
		low, err := s.feed.LowWatermark(ctx)
		if err == nil {
			err = s.reconcileReaders(ctx, since)
		}
		switch {
		case err == nil:
			since = low
		case ctx.Err() == nil: // the next tick tries again
			s.opts.Log.Warn("cannot reconcile read receipts with the database; retrying",
				"error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// reconcileReaders compares the watched conversations with the memberships that have changed at or
// above a position, and with the members who do not send read receipts.
func (s *Service) reconcileReaders(ctx context.Context, since int64) error {
	for some := range slices.Chunk(s.readers.Values(), readersBatch) {
		ids := make([]model.ConversationID, len(some))
		for i, r := range some {
			ids[i] = r.id
		}
		members := func() *bun.SelectQuery {
			return s.db.NewSelect().Model((*model.ConversationMember)(nil)).
				Column("conversation_id", "user_id", "last_read_seq").
				Where("cm.conversation_id IN (?)", bun.List(ids))
		}
		moved, err := readersIn(ctx, members().Where("cm.position >= ?", since))
		if err != nil {
			return err
		}
		disabled, err := readersIn(ctx, members().
			Join("JOIN users AS u ON u.id = cm.user_id AND u.removed_at IS NULL").
			Where("NOT u.send_read_receipts"))
		if err != nil {
			return err
		}
		for _, r := range some {
			r.reconcile(moved[r.id], disabled[r.id])
		}
	}
	return nil
}

// readersIn returns how far members have read, by conversation.
func readersIn(
	ctx context.Context, q *bun.SelectQuery,
) (map[model.ConversationID]map[model.UserID]int64, error) {
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

// reconcile compares the members with the database. moved is how far those have read whose
// membership has changed; disabled has all members who do not send read receipts.
func (r *readers) reconcile(moved, disabled map[model.UserID]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for user, seq := range moved {
		r.advance(user, seq)
	}
	for user, m := range r.members {
		if _, off := disabled[user]; off == m.receiptsEnabled {
			r.markDirty(user)
		}
	}
	if r.allDirty { // the last read failed
		r.startReading()
	}
}

// markReadersDirty marks all members of the conversations whose signals may have been lost; nil
// means all topics.
func (s *Service) markReadersDirty(topics []string) {
	all := topics == nil || slices.Contains(topics, settingsTopic)
	for _, r := range s.readers.Values() {
		if all || slices.Contains(topics, ReadTopic(r.id)) {
			r.mu.Lock()
			r.markAllDirty()
			r.mu.Unlock()
		}
	}
}
