package feed

import (
	"context"
	"slices"
	"sync"

	"parley/model"
	"parley/wake"
)

// stream is what one consumer follows: one conversation, or many. Feeds push events to its
// followers without waiting; the consumer drains them.
type stream struct {
	wake.Notifier // notified when a follower is ready or a membership has changed

	// guards what follows, and the fields of each follower that say so
	mu      sync.Mutex
	ready   []*follower            // the followers with something to drain, each once
	changed []model.ConversationID // the conversations with membership hints, each once
	// the database has another history than before
	interrupted bool
}

func newStream() *stream { return &stream{Notifier: wake.NewNotifier()} }

// next waits until a follower is ready or memberships have changed. It returns one ready follower
// and the conversations of all changed memberships; one of them may be nil. It returns
// errOtherHistory after interrupt, until resume.
func (st *stream) next(ctx context.Context) (*follower, []model.ConversationID, error) {
	for {
		st.mu.Lock()
		if st.interrupted {
			st.mu.Unlock()
			return nil, nil, errOtherHistory
		}
		var fo *follower
		if len(st.ready) > 0 {
			fo = st.ready[0]
			st.ready = st.ready[1:]
			fo.isReady = false
		}
		changed := st.changed
		st.changed = nil
		st.mu.Unlock()
		if fo != nil || changed != nil {
			return fo, changed, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-st.C():
		}
	}
}

// markChanged marks the viewer's membership of a conversation as changed.
func (st *stream) markChanged(id model.ConversationID) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !slices.Contains(st.changed, id) {
		st.changed = append(st.changed, id)
	}
	st.Notify()
}

// interrupt makes next return errOtherHistory.
func (st *stream) interrupt() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.interrupted = true
	st.Notify()
}

// resume ends the effect of interrupt.
func (st *stream) resume() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.interrupted = false
}

// drainReady removes and returns all ready followers.
func (st *stream) drainReady() []*follower {
	st.mu.Lock()
	defer st.mu.Unlock()
	ready := st.ready
	st.ready = nil
	for _, fo := range ready {
		fo.isReady = false
	}
	return ready
}

func (st *stream) hasChanged() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.changed) > 0
}
