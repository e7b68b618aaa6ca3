package chat

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"parley/model"
	"parley/store"
)

// twoNodes are services of one database whose hints, news and signs go through one weather.
type twoNodes struct {
	worlds  [2]*world
	weather atomic.Pointer[weather]
}

// MustTwoNodes makes them, with hints, news and signs that arrive on their own node alone as long
// as there is no weather.
func MustTwoNodes(t *testing.T, db *store.DB, opts Options) *twoNodes {
	t.Helper()
	n := &twoNodes{}
	for i := range n.worlds {
		w := &world{Service: New(db, opts), t: t, actors: map[string]model.Actor{}}
		w.publish = func(topic string, h hint) {
			n.blow(i, func(to *Service, bare bool) {
				if bare {
					h.events = nil
				}
				to.hints.Publish(topic, h)
			})
		}
		w.publishNews = func(topic string, told news) {
			n.blow(i, func(to *Service, _ bool) { to.people.Publish(topic, told) })
		}
		w.publishSign = func(topic string, told sign) {
			n.blow(i, func(to *Service, _ bool) { to.signs.Publish(topic, told) })
		}
		n.worlds[i] = w
	}
	n.worlds[1].actors = n.worlds[0].actors
	var running sync.WaitGroup
	for _, w := range n.worlds {
		running.Go(func() { w.Run(t.Context()) })
	}
	t.Cleanup(running.Wait)
	return n
}

func (n *twoNodes) blow(from int, deliver func(to *Service, bare bool)) {
	over := n.weather.Load()
	for i, w := range n.worlds {
		switch {
		case over == nil && i == from:
			deliver(w.Service, false)
		case over != nil && (i == from || over.crosses):
			over.blow(func(bare bool) { deliver(w.Service, bare) })
		}
	}
}

// weather is chaos for messages of any kind.
type weather struct {
	fates   []fate
	crosses bool // from one node to the other, too

	mu   sync.Mutex
	met  int
	held []heldMessage
}

type heldMessage struct {
	deliver func()
	left    int // messages that go first
}

func (w *weather) blow(deliver func(bare bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.fates[w.met%len(w.fates)]
	w.met++
	switch f.kind {
	case "lost":
		return
	case "doubled":
		w.held = append(w.held, heldMessage{func() { deliver(false) }, f.delay * 2})
	}
	w.held = append(w.held, heldMessage{func() { deliver(f.kind == "bare") }, f.delay})
	due := func(h heldMessage) bool { return h.left <= 0 }
	for _, h := range slices.Backward(w.held) {
		if due(h) {
			h.deliver()
		}
	}
	w.held = slices.DeleteFunc(w.held, due)
	for i := range w.held {
		w.held[i].left--
	}
}
