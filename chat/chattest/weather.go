package chattest

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"parley/feed"
	"parley/live"
	"parley/store"
	"parley/store/storetest"
)

// TwoNodes are services of one database whose hints and signals go through one weather.
type TwoNodes struct {
	Nodes   [2]*Fixture
	Weather atomic.Pointer[Weather]
}

// MustTwoNodes makes two nodes. While there is no weather, hints and signals arrive on their own
// node alone.
func MustTwoNodes(t *testing.T, db *store.DB, opts Options) *TwoNodes {
	t.Helper()
	n := &TwoNodes{}
	for i := range n.Nodes {
		w := NewIdle(t, db, opts, nil)
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			n.Blow(i, func(to Services, bare bool) {
				if bare {
					h.Events = nil
				}
				to.Hints().PublishLocal(topic, h)
			})
		})
		w.MembershipHints().Intercept(func(topic string, h feed.MembershipHint) {
			n.Blow(i, func(to Services, _ bool) { to.MembershipHints().PublishLocal(topic, h) })
		})
		w.Signals().Intercept(func(topic string, sig live.Signal) {
			n.Blow(i, func(to Services, _ bool) { to.Signals().PublishLocal(topic, sig) })
		})
		n.Nodes[i] = w
	}
	n.Nodes[1].Actors = n.Nodes[0].Actors
	var running sync.WaitGroup
	for _, w := range n.Nodes {
		running.Go(func() { w.Run(t.Context()) })
	}
	t.Cleanup(running.Wait)
	return n
}

// Blow delivers a message of one node through the weather.
func (n *TwoNodes) Blow(from int, deliver func(to Services, bare bool)) {
	over := n.Weather.Load()
	for i, w := range n.Nodes {
		switch {
		case over == nil && i == from:
			deliver(w.Services, false)
		case over != nil && (i == from || over.Crosses):
			over.Blow(func(bare bool) { deliver(w.Services, bare) })
		}
	}
}

// weather is chaos for messages of any kind.
type Weather struct {
	Fates   []Fate
	Crosses bool // from one node to the other, too

	Mu   sync.Mutex
	Met  int
	Held []HeldMessage
}

type HeldMessage struct {
	Deliver func()
	Left    int // messages that go first
}

func (w *Weather) Blow(deliver func(bare bool)) {
	w.Mu.Lock()
	defer w.Mu.Unlock()
	f := w.Fates[w.Met%len(w.Fates)]
	w.Met++
	switch f.Kind {
	case "lost":
		return
	case "doubled":
		w.Held = append(w.Held, HeldMessage{func() { deliver(false) }, f.Delay * 2})
	}
	w.Held = append(w.Held, HeldMessage{func() { deliver(f.Kind == "bare") }, f.Delay})
	due := func(h HeldMessage) bool { return h.Left <= 0 }
	for _, h := range slices.Backward(w.Held) {
		if due(h) {
			h.Deliver()
		}
	}
	w.Held = slices.DeleteFunc(w.Held, due)
	for i := range w.Held {
		w.Held[i].Left--
	}
}

// fate is what becomes of a hint.
type Fate struct {
	Kind  string // "arrives", "doubled", "lost", "bare": without its event
	Delay int    // how many other hints go first
}

func DrawFate(rt *rapid.T) Fate {
	return Fate{
		Kind: rapid.SampledFrom([]string{"arrives", "arrives", "doubled", "lost", "bare"}).
			Draw(rt, "kind"),
		Delay: rapid.SampledFrom([]int{0, 0, 0, 1, 2, 5, 30}).Draw(rt, "delay"),
	}
}

// progress lets others wait until a number of messages are sent.
type Progress struct {
	Sent    atomic.Int64
	Reached []chan struct{}
}

func NewProgress(total int) *Progress {
	p := &Progress{Reached: make([]chan struct{}, total+1)}
	for i := range p.Reached {
		p.Reached[i] = make(chan struct{})
	}
	close(p.Reached[0])
	return p
}

func (p *Progress) Step() { close(p.Reached[p.Sent.Add(1)]) }

// wait returns once n are sent, or all there are.
func (p *Progress) Wait(n int) { <-p.Reached[min(n, len(p.Reached)-1)] }

// ways are how one node learns of another: by hints, or by comparing.
func Ways(t *testing.T, test func(t *testing.T, nodes *TwoNodes)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		t.Run("by hints", func(t *testing.T) {
			nodes := MustTwoNodes(t, db, Options{ReconcileEvery: Never})
			nodes.Weather.Store(&Weather{Fates: []Fate{{Kind: "arrives"}}, Crosses: true})
			nodes.Nodes[0].Invite("ann", "ben", "cleo")
			test(t, nodes)
		})
		t.Run("by comparing", func(t *testing.T) {
			nodes := MustTwoNodes(t, db, Options{ReconcileEvery: ReconcileSoon})
			nodes.Weather.Store(&Weather{Fates: []Fate{{Kind: "lost"}}})
			nodes.Nodes[0].Invite("ann2", "ben2", "cleo2")
			for _, name := range []string{"ann", "ben", "cleo"} {
				nodes.Nodes[0].Actors[name] = nodes.Nodes[0].Actor(name + "2")
			}
			test(t, nodes)
		})
	})
}
