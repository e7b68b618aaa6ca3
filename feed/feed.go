package feed

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"parley/model"
	"parley/pubsub"
	"parley/store"
)

const (
	// readPage is how many events one read returns at most.
	readPage = 200
	// maxEarly is how far above the edge an event may be to be kept until the events before it have
	// come. A wider gap is read at once.
	maxEarly = 64
	// gapWait is how long a feed waits for a gap to close by itself before it reads the database.
	// Hints of senders that commit at almost the same time overtake each other, so the missing one
	// usually follows at once.
	gapWait = 50 * time.Millisecond
)

// feed is one conversation that is followed on this node. It puts hints in order, reads the missing
// events from the database, and delivers every event to all its followers, in order of seq and
// without a gap but those of RaiseSeqs: this is the fan-out on one node. Its worker goroutine
// exists only while there is something to do. Publishers never wait for it.
type feed struct {
	service *Service
	id      model.ConversationID
	ctx     context.Context //nolint:containedctx // ends with the feed, and bounds what it reads
	cancel  context.CancelFunc
	sub     *pubsub.Subscription[Hint]

	inboxMu    sync.Mutex // guards what follows
	inbox      []Hint
	gapExpired bool // the gap has not closed within gapWait or backoff
	joined     bool // a follower has joined: events that came early may be next in order now
	changed    bool // the history has changed: the edge has to be read again
	working    bool // the worker runs

	mu         sync.Mutex // guards what follows
	followers  map[*follower]struct{}
	started    bool                   // edge is known, since the first follower has joined
	edge       Place                  // the newest event that was delivered
	changes    int64                  // how many times the history has changed
	early      map[int64]*model.Event // events above the edge that wait for those before them
	hinted     int64                  // the highest seq of any hint
	gap        *time.Timer            // starts the worker later; nil while no event is missing
	backoff    time.Duration          // of reads that fail; 0 after one that succeeds
	reconciled feedReconciled
}

// feedReconciled is the newest seq that a round of reconciling has read.
type feedReconciled struct{ round, last int64 }

// openFeed returns the feed of a conversation. The feed is subscribed to hints before this returns,
// so no event falls between them and what the caller reads next. Each call needs one of release.
func (s *Service) openFeed(id model.ConversationID) *feed {
	return s.feeds.Acquire(id, func() *feed {
		f := &feed{
			service: s, id: id,
			followers: map[*follower]struct{}{}, early: map[int64]*model.Event{},
		}
		f.ctx, f.cancel = context.WithCancel(context.Background())
		f.sub = s.hints.Handle(Topic(id), f.enqueue)
		return f
	})
}

func (f *feed) release() {
	f.service.feeds.Release(f.id, func(f *feed) {
		f.sub.Close()
		f.cancel()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.gap != nil {
			f.gap.Stop()
		}
	})
}

// join adds a follower, which gets every event that is delivered from now on. last is the place of
// the newest event at a time when the feed was open already.
func (f *feed) join(fo *follower, last Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		f.started, f.edge = true, last
	}
	f.followers[fo] = struct{}{}
	if newest := max(f.edge.Seq, last.Seq); fo.seen.Seq < newest {
		fo.fallBehind(newest)
	}
	f.startWorker(func() { f.joined = true })
}

// leave removes a follower, and releases the feed.
func (f *feed) leave(fo *follower) {
	f.mu.Lock()
	delete(f.followers, fo)
	f.mu.Unlock()
	f.release()
}

// enqueue hands a hint to the worker, and returns at once.
func (f *feed) enqueue(h Hint) {
	f.service.moved.Store(true)
	f.startWorker(func() { f.inbox = append(f.inbox, h) })
}

// startWorker calls add, which adds work, with inboxMu held, and starts the worker unless it runs.
func (f *feed) startWorker(add func()) {
	f.inboxMu.Lock()
	defer f.inboxMu.Unlock()
	add()
	if !f.working {
		f.working = true
		go f.work()
	}
}

// work is the worker: it does what there is to do, and ends.
func (f *feed) work() {
	for {
		f.inboxMu.Lock()
		hints, gapExpired, joined, changed := f.inbox, f.gapExpired, f.joined, f.changed
		f.inbox, f.gapExpired, f.joined, f.changed = nil, false, false, false
		if len(hints) == 0 && !gapExpired && !joined && !changed || f.ctx.Err() != nil {
			f.working = false
			f.inboxMu.Unlock()
			return
		}
		f.inboxMu.Unlock()
		if changed {
			f.restart()
		}
		if f.merge(hints, gapExpired) {
			f.read()
		}
	}
}

// merge merges hints and delivers the events that are next in order. It reports whether the missing
// events have to be read now.
func (f *feed) merge(hints []Hint, gapExpired bool) (read bool) {
	f.mu.Lock()
	ready, followers, read := f.mergeLocked(hints, gapExpired)
	f.mu.Unlock()
	deliver(ready, followers)
	return read
}

// mergeLocked must be called with f.mu held.
func (f *feed) mergeLocked(
	hints []Hint, gapExpired bool,
) (ready []*model.Event, followers []*follower, read bool) {
	if f.started {
		ready = f.nextInOrder() // events that came before the edge was known
	}
	for _, h := range hints {
		f.hinted = max(f.hinted, h.Seq)
		for _, e := range h.Events {
			if !f.started || e.Seq > f.edge.Seq && e.Seq <= f.edge.Seq+maxEarly {
				f.early[e.Seq] = e
			}
			if e.Seq > f.edge.Seq {
				f.endRemoved(e)
			}
			if f.started && e.Seq == f.edge.Seq && !e.Mark().Matches(f.edge.Mark) {
				f.historyChanged()
			}
		}
		if f.started {
			ready = append(ready, f.nextInOrder()...)
		}
	}
	if !f.started {
		if len(f.early) > maxEarly { // the first follower reads them, or the feed after it
			clear(f.early)
		}
		return nil, nil, false
	}
	followers = f.recipients(ready)
	switch {
	case f.hinted <= f.edge.Seq:
		f.closeGap()
		return ready, followers, false
	case gapExpired || f.hinted > f.edge.Seq+maxEarly:
		return ready, followers, true
	case f.gap == nil:
		f.startGapTimer(gapWait)
	}
	return ready, followers, false
}

// nextInOrder removes the events that are next in order from those that came early. An event is
// next if it follows the event at the edge: seq and mark of the event before it are those of the
// edge. If its hint does not say which mark that was, the event has to be read. It must be called
// with f.mu held.
func (f *feed) nextInOrder() (ready []*model.Event) {
	for e := f.early[f.edge.Seq+1]; e != nil; e = f.early[f.edge.Seq+1] {
		delete(f.early, e.Seq)
		if e.Before == 0 && e.Seq > 1 {
			break
		}
		if !e.Before.Matches(f.edge.Mark) {
			f.historyChanged()
			return ready
		}
		ready = append(ready, e)
		f.edge = placeOf(e)
	}
	for seq := range f.early { // left over from a hint that came twice
		if seq <= f.edge.Seq {
			delete(f.early, seq)
		}
	}
	return ready
}

// historyChanged is called if the database no longer has the event at the edge. Nothing is
// delivered until the worker has called restart. It must be called with f.mu held.
func (f *feed) historyChanged() {
	if !f.started {
		return
	}
	f.started = false
	f.changes++
	clear(f.early)
	f.closeGap()
	f.service.opts.Log.Warn("the database has another history of a conversation than before",
		"conversation", f.id, "seq", f.edge.Seq)
	f.service.histories.foundAnother()
	f.startWorker(func() { f.changed = true })
}

// restart reads where the conversation stands now, and makes every follower read: those that have
// an event that is no longer there find that out by its mark, and the others miss nothing.
func (f *feed) restart() {
	newest, exists, err := newestPlace(f.ctx, f.service.db, f.id)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.ctx.Err() != nil:
		return
	case err != nil:
		f.retryLater(err, func() { f.changed = true })
		return
	case exists:
		f.started, f.edge, f.hinted = true, newest, newest.Seq
	}
	f.closeGap()
	for fo := range f.followers {
		// The actor may be removed at a seq that was below checked in the other history.
		fo.checked.Store(min(fo.checked.Load(), newest.Seq))
		fo.fallBehind(everySeq)
	}
}

// recipients returns the followers to deliver events to. A follower that joins later finds the edge
// above these events, and reads them. It must be called with f.mu held.
func (f *feed) recipients(events []*model.Event) []*follower {
	if len(events) == 0 {
		return nil
	}
	for _, e := range events {
		f.endRemoved(e) // again, for followers that have joined since the event came
	}
	return slices.Collect(maps.Keys(f.followers))
}

// deliver pushes events to followers. Only the worker may call it, so that events stay in order,
// and without f.mu, because it may call sinks.
func deliver(events []*model.Event, followers []*follower) {
	for _, fo := range followers {
		fo.push(events)
	}
}

// endRemoved ends the followers whose membership an event ends. It is called as soon as the event
// is known, even if events before it are missing. It must be called with f.mu held.
func (f *feed) endRemoved(e *model.Event) {
	if e.Kind != model.MemberRemoved {
		return
	}
	for fo := range f.followers {
		if fo.endsWith(e) {
			fo.remove(e)
		}
	}
}

// closeGap stops waiting for missing events. It must be called with f.mu held.
func (f *feed) closeGap() {
	if f.gap != nil {
		f.gap.Stop()
		f.gap = nil
	}
	f.backoff = 0
}

// startGapTimer makes the worker read the missing events after a wait. It must be called with f.mu
// held.
func (f *feed) startGapTimer(wait time.Duration) {
	f.startTimer(wait, func() { f.gapExpired = true })
}

// startTimer starts the worker with more work after a wait. It must be called with f.mu held.
func (f *feed) startTimer(wait time.Duration, add func()) {
	if f.gap != nil {
		f.gap.Stop()
	}
	f.gap = time.AfterFunc(wait, func() { f.startWorker(add) })
}

// read reads and delivers the events that are stored above the edge. If it cannot, it is called
// again after the backoff: the streams have lost nothing, so they do not end.
func (f *feed) read() {
	for {
		f.mu.Lock()
		edge, started := f.edge, f.started
		f.mu.Unlock()
		if !started { // the history has changed
			return
		}
		events, edge, removals, err := f.readPage(edge)
		f.mu.Lock()
		switch {
		case errors.Is(err, errHistoryChanged):
			f.historyChanged()
			f.mu.Unlock()
			return
		case err != nil:
			f.retryLater(err, func() { f.gapExpired = true })
			f.mu.Unlock()
			return
		}
		f.edge = edge
		if len(events) > 0 {
			f.edge = placeOf(events[len(events)-1])
		}
		for _, e := range removals {
			f.endRemoved(e)
		}
		last := len(events) < readPage
		events = append(events, f.nextInOrder()...)
		followers := f.recipients(events)
		if last {
			f.hinted = f.edge.Seq // a hint of a higher seq was wrong, or its event is hinted again
			f.closeGap()
		}
		f.mu.Unlock()
		deliver(events, followers)
		if last {
			return
		}
	}
}

// readPage reads the next events, and the removals above them. An event from before a removal may
// come with a message that was edited after it. So the removals are read last, and a member whose
// removal is above the page does not get the page.
func (f *feed) readPage(
	edge Place,
) (events []*model.Event, at Place, removals []*model.Event, err error) {
	events, at, err = eventsAfter(f.ctx, f.service.db, f.id, edge, readPage)
	if err != nil || len(events) == 0 {
		return nil, at, nil, err
	}
	removals, err = removalsAfter(f.ctx, f.service.db, f.id, events[len(events)-1].Seq)
	return events, at, removals, err
}

// retryLater starts the worker with the same work after the next backoff. It must be called with
// f.mu held.
func (f *feed) retryLater(err error, again func()) {
	if f.ctx.Err() != nil {
		return
	}
	f.backoff = min(max(2*f.backoff, store.FirstBackoff), store.LastBackoff)
	f.service.opts.Log.Warn("cannot read the events of a conversation; retrying",
		"conversation", f.id, "in", f.backoff, "error", err)
	f.startTimer(f.backoff, again)
}

// edgeToReconcile returns the place of the newest event that was delivered, Seq 0 if there is none;
// and how many times the history has changed.
func (f *feed) edgeToReconcile() (edge Place, changes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		return Place{}, f.changes
	}
	return f.edge, f.changes
}

// reconcile compares the feed with the database. edge and changes are the results of
// edgeToReconcile from before the read, at is what stands there now, and last the newest seq. If
// last is above the edge, the worker reads. If the feed has found since that the history has
// changed, it reads anyway, and edge is of the history before.
func (f *feed) reconcile(round int64, edge Place, changes int64, at Place, last int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changes != changes {
		return
	}
	if at.Seq != edge.Seq || !at.Mark.Matches(edge.Mark) {
		f.reconciled = feedReconciled{}
		f.historyChanged()
		return
	}
	if f.edge.Seq == edge.Seq { // its mark may not have been known
		f.edge.Mark = at.Mark
	}
	if round != noRound {
		f.reconciled = feedReconciled{round, last}
	}
	if f.started && last > f.edge.Seq {
		f.enqueue(Hint{Seq: last})
	}
}

// everySeq is above the seq of every event. A follower that misses it reads whatever is stored.
const everySeq = math.MaxInt64

// markGone is called if the conversation is not in the database any more. It makes every follower
// read, by which it finds out that its membership has ended.
func (f *feed) markGone() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reconciled = feedReconciled{}
	for fo := range f.followers {
		fo.fallBehind(everySeq)
	}
}

// reconciledIn returns the conversation's newest seq that a round of reconciling has read; false if
// the feed was not open then, or if a newer round has begun.
func (f *feed) reconciledIn(round int64) (last int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reconciled.last, f.reconciled.round == round
}
