package chat

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"parley/model"
	"parley/pubsub"
)

const (
	// feedPage is how many events one read brings.
	feedPage = 200
	// maxEarly is how far beyond the edge an event may be to wait for those before it; else the gap
	// is too wide to be waited out.
	maxEarly = 64
	// gapPatience is how long a gap may close by itself before the database is read: hints of
	// senders that commit at almost the same time overtake each other, and the missing one is
	// usually right behind.
	gapPatience = 50 * time.Millisecond
	// How long to wait before reading again when the database cannot be reached, doubling from
	// first to last.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// feed is one conversation as this node follows it. It puts hints in order, reads from the database
// what they leave out, and hands every event on to its followers, in order of seq and without a
// gap: once for all of them. It works on goroutines of its own, one at a time and only while there
// is something to do, so that whoever sends waits for no follower.
type feed struct {
	service *Service
	id      model.ConversationID
	ctx     context.Context //nolint:containedctx // ends with the feed, and bounds what it reads
	cancel  context.CancelFunc
	sub     *pubsub.Subscription[hint]
	users   int // of this feed; guarded by the service's feedsMu

	inboxMu sync.Mutex // guards what follows
	inbox   []hint
	working bool // a goroutine takes from the inbox

	mu        sync.Mutex // guards what follows; taken before a stream's
	followers map[*follower]struct{}
	begun     bool                   // edge is known
	edge      int64                  // the newest event that was handed on
	early     map[int64]*model.Event // events that came before one that goes before them
	promised  int64                  // the highest seq that a hint has told of
	gap       *time.Timer            // nil while nothing is missing
	retry     time.Duration
	compared  comparison
}

// comparison is what a feed was told of the database last.
type comparison struct{ round, last int64 }

// feedOf finds the feed of a conversation, or opens it. It listens before this returns, so that
// nothing falls between that and what is read next. Each call needs one of release.
func (s *Service) feedOf(id model.ConversationID) *feed {
	s.feedsMu.Lock()
	defer s.feedsMu.Unlock()
	f := s.feeds[id]
	if f == nil {
		f = &feed{service: s, id: id, followers: map[*follower]struct{}{}, early: map[int64]*model.Event{}}
		f.ctx, f.cancel = context.WithCancel(context.Background())
		f.sub = s.hints.Handle(topicOf(id), f.offer)
		s.feeds[id] = f
	}
	f.users++
	return f
}

func (f *feed) release() {
	f.service.feedsMu.Lock()
	defer f.service.feedsMu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	delete(f.service.feeds, f.id)
	f.sub.Close()
	f.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gap != nil {
		f.gap.Stop()
	}
}

// join adds a follower, to whom everything goes that is handed on from now on. last is the newest
// event at a time when the feed was open already.
func (f *feed) join(fo *follower, last int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		f.begun, f.edge = true, last
	}
	f.followers[fo] = struct{}{}
	if fo.seen < max(f.edge, last) {
		fo.fallBehind(max(f.edge, last))
	}
	f.offer(hint{}) // what has come before the edge was known
}

func (f *feed) leave(fo *follower) {
	f.mu.Lock()
	delete(f.followers, fo)
	f.mu.Unlock()
	f.release()
}

// offer takes a hint, and returns at once.
func (f *feed) offer(h hint) {
	f.inboxMu.Lock()
	defer f.inboxMu.Unlock()
	f.inbox = append(f.inbox, h)
	if !f.working {
		f.working = true
		go f.work()
	}
}

func (f *feed) work() {
	for {
		f.inboxMu.Lock()
		hints := f.inbox
		f.inbox = nil
		if len(hints) == 0 || f.ctx.Err() != nil {
			f.working = false
			f.inboxMu.Unlock()
			return
		}
		f.inboxMu.Unlock()
		if f.take(hints) {
			f.read()
		}
	}
}

// take sorts hints in, and hands on what has its turn. It reports whether the rest has to be read.
func (f *feed) take(hints []hint) (read bool) {
	f.mu.Lock()
	ready, followers, read := f.sort(hints)
	f.mu.Unlock()
	handOn(ready, followers)
	return read
}

// sort needs the lock.
func (f *feed) sort(hints []hint) (ready []*model.Event, followers []*follower, read bool) {
	for _, h := range hints {
		read = read || h.read
		f.promised = max(f.promised, h.seq)
		for _, e := range h.events {
			if !f.begun || e.Seq > f.edge && e.Seq <= f.edge+maxEarly {
				f.early[e.Seq] = e
			}
			if e.Seq > f.edge {
				f.noticeRemoval(e)
			}
		}
		if f.begun {
			ready = append(ready, f.nextInOrder()...)
		}
	}
	if !f.begun {
		if len(f.early) > maxEarly { // it is read then
			clear(f.early)
		}
		return nil, nil, false
	}
	followers = f.toTell(ready)
	switch {
	case f.promised <= f.edge:
		f.closeGap()
		return ready, followers, false
	case read || f.promised > f.edge+maxEarly:
		return ready, followers, true
	case f.gap == nil:
		f.awaitGap(gapPatience)
	}
	return ready, followers, false
}

// nextInOrder takes what has its turn. It needs the lock.
func (f *feed) nextInOrder() (ready []*model.Event) {
	for e := f.early[f.edge+1]; e != nil; e = f.early[f.edge+1] {
		delete(f.early, e.Seq)
		ready = append(ready, e)
		f.edge = e.Seq
	}
	for seq := range f.early { // the rest of a hint that came twice
		if seq <= f.edge {
			delete(f.early, seq)
		}
	}
	return ready
}

// toTell lists the followers whom events are to be handed on to. Who joins from now on finds the
// edge beyond these events, and reads them. It needs the lock.
func (f *feed) toTell(events []*model.Event) []*follower {
	if len(events) == 0 {
		return nil
	}
	for _, e := range events {
		f.noticeRemoval(e) // once more, for who has joined since it came
	}
	return slices.Collect(maps.Keys(f.followers))
}

// handOn is done without the lock, by the one goroutine that works on the feed: a sink may take its
// time with an event.
func handOn(events []*model.Event, followers []*follower) {
	for _, fo := range followers {
		fo.push(events)
	}
}

// noticeRemoval ends the stream of whoever is a member no longer as soon as that is known, whatever
// goes before it.
func (f *feed) noticeRemoval(e *model.Event) {
	if e.Kind != model.MemberRemoved {
		return
	}
	for fo := range f.followers {
		if fo.endsWith(e) {
			fo.remove(e)
		}
	}
}

func (f *feed) closeGap() {
	if f.gap != nil {
		f.gap.Stop()
		f.gap = nil
	}
	f.retry = 0
}

func (f *feed) awaitGap(patience time.Duration) {
	f.gap = time.AfterFunc(patience, func() { f.offer(hint{read: true}) })
}

// read hands on what is stored beyond the edge. While the database is away it tries again: that is
// no reason to end a stream that has lost nothing.
func (f *feed) read() {
	for {
		f.mu.Lock()
		edge := f.edge
		f.mu.Unlock()
		events, removals, err := f.readPage(edge)
		f.mu.Lock()
		if err != nil {
			f.readLater(err)
			f.mu.Unlock()
			return
		}
		if len(events) > 0 {
			f.edge = events[len(events)-1].Seq
		}
		for _, e := range removals {
			f.noticeRemoval(e)
		}
		last := len(events) < feedPage
		events = append(events, f.nextInOrder()...)
		followers := f.toTell(events)
		if last {
			f.promised = f.edge // what is promised beyond that is not so, or comes again
			f.closeGap()
		}
		f.mu.Unlock()
		handOn(events, followers)
		if last {
			return
		}
	}
}

// readPage reads what comes next, and the removals beyond it. These are read last: a message may
// have been edited after a removal, and reads as it is now, also in an event from before. So a
// member whose removal stands beyond the page is not handed the page.
func (f *feed) readPage(edge int64) (events, removals []*model.Event, err error) {
	events, err = eventsAfter(f.ctx, f.service.db, f.id, edge, feedPage)
	if err != nil || len(events) == 0 {
		return nil, nil, err
	}
	removals, err = removalsAfter(f.ctx, f.service.db, f.id, events[len(events)-1].Seq)
	return events, removals, err
}

func (f *feed) readLater(err error) {
	if f.ctx.Err() != nil {
		return
	}
	f.retry = min(max(2*f.retry, firstRetry), lastRetry)
	f.service.opts.Log.Warn("cannot read the events of a conversation; trying again", "conversation", f.id, "in", f.retry, "error", err)
	if f.gap != nil {
		f.gap.Stop()
	}
	f.awaitGap(f.retry)
}

// compare is told how far the conversation has come in the database. round is 0 where not all
// conversations are looked at.
func (f *feed) compare(round, last int64) {
	f.mu.Lock()
	if round > 0 {
		f.compared = comparison{round, last}
	}
	moved := f.begun && last > f.edge
	f.mu.Unlock()
	if moved {
		f.offer(hint{seq: last})
	}
}

// doubt has every follower read, and be checked, anew: the conversation seems to be gone.
func (f *feed) doubt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compared = comparison{}
	for fo := range f.followers {
		fo.fallBehind(math.MaxInt64)
	}
}

// comparedIn is how far the conversation had come in a round of comparing; false where the feed was
// not there yet, or another round has been since.
func (f *feed) comparedIn(round int64) (last int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.compared.last, f.compared.round == round
}
