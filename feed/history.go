package feed

import (
	"context"
	"sync"
	"sync/atomic"

	"parley/wake"
)

// histories is what the node knows of the history of its database: whether it may have gone back,
// because a backup was restored or a server that was behind has taken over.
//
// Within a conversation marks are enough: see eventsAfter. But ViewerEvents must not deliver an
// event of one conversation in a new history after lost events of another. So it delivers nothing
// while the history is suspected, and is reset when the node finds another one.
type histories struct {
	wake.Notifier // notified when the history is suspected

	found atomic.Int64 // how many times the node has found another history

	mu        sync.Mutex    // guards what follows
	suspicion int64         // how many times the history was suspected
	trusted   chan struct{} // closed when it no longer is; nil if it is not
	viewers   map[*stream]struct{}
}

func newHistories() *histories {
	return &histories{Notifier: wake.NewNotifier(), viewers: map[*stream]struct{}{}}
}

// suspect is called when another server answers than before, or the same after a restart. It
// returns at once.
func (h *histories) suspect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.suspectLocked()
}

// suspectLocked must be called with h.mu held.
func (h *histories) suspectLocked() {
	h.suspicion++
	if h.trusted == nil {
		h.trusted = make(chan struct{})
	}
	h.Notify()
}

// suspected returns a number for trust.
func (h *histories) suspected() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.suspicion
}

// trust ends the suspicion, unless the history was suspected again since suspected returned the
// number.
func (h *histories) trust(suspected int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.suspicion == suspected && h.trusted != nil {
		close(h.trusted)
		h.trusted = nil
	}
}

// await waits until the history is not suspected.
func (h *histories) await(ctx context.Context) error {
	for {
		h.mu.Lock()
		trusted := h.trusted
		h.mu.Unlock()
		if trusted == nil {
			return nil
		}
		select {
		case <-trusted:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// foundAnother interrupts the streams of all viewers, which start again with Reset, once the node
// has reconciled all that it follows.
func (h *histories) foundAnother() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.found.Add(1)
	h.suspectLocked()
	for st := range h.viewers {
		st.interrupt()
	}
}

// add lets foundAnother interrupt a stream, until remove is called.
func (h *histories) add(st *stream) (remove func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.viewers[st] = struct{}{}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.viewers, st)
	}
}

// checkHistory finds out whether the database still has the checkpoint that the round before has
// read. If not, it has another history.
func (s *Service) checkHistory(ctx context.Context, before *reconciled) error {
	if before.id == 0 {
		return nil
	}
	same, err := s.proves(ctx, before.id, before.low)
	if err != nil || same {
		return err
	}
	s.opts.Log.Warn("the database has another history than before: it was restored, or a server " +
		"that was behind has taken over; streams of events are reset")
	if err := s.CheckPositions(ctx); err != nil {
		return err
	}
	s.reconciled.Store(&reconciled{}) // so that this round reconciles all memberships
	s.histories.foundAnother()
	return nil
}
