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

// TwoNodes are two nodes with one database. Their hints and signals go through one Network.
type TwoNodes struct {
	Nodes   [2]*Fixture
	Network atomic.Pointer[Network]
}

// MustTwoNodes returns two nodes. As long as Network is nil, hints and signals reach only their own
// node.
func MustTwoNodes(t *testing.T, db *store.DB, opts Options) *TwoNodes {
	t.Helper()
	n := &TwoNodes{}
	for i := range n.Nodes {
		w := NewIdle(t, db, opts, nil)
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			n.Deliver(i, func(to Services, bare bool) {
				if bare {
					h.Events = nil
				}
				to.Hints().PublishLocal(topic, h)
			})
		})
		w.MembershipHints().Intercept(func(topic string, h feed.MembershipHint) {
			n.Deliver(i, func(to Services, _ bool) { to.MembershipHints().PublishLocal(topic, h) })
		})
		w.Signals().Intercept(func(topic string, sig live.Signal) {
			n.Deliver(i, func(to Services, _ bool) { to.Signals().PublishLocal(topic, sig) })
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

// Deliver delivers a message of one node through the network. bare asks for it without its events.
func (n *TwoNodes) Deliver(from int, deliver func(to Services, bare bool)) {
	network := n.Network.Load()
	for i, w := range n.Nodes {
		switch {
		case network == nil && i == from:
			deliver(w.Services, false)
		case network != nil && (i == from || network.Crosses):
			network.Deliver(func(bare bool) { deliver(w.Services, bare) })
		}
	}
}

// Network loses, doubles, delays and reorders messages of any kind.
type Network struct {
	Deliveries []Delivery
	Crosses    bool // messages also reach the other node

	mu   sync.Mutex    // guards what follows
	seen int           // how many messages have come
	held []heldMessage // messages that are delayed
}

// heldMessage is a message that is delayed.
type heldMessage struct {
	deliver func()
	left    int // how many other messages go first
}

// Deliver calls deliver with the fate of the next message: never, once, twice, or after other
// messages.
func (w *Network) Deliver(deliver func(bare bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.Deliveries[w.seen%len(w.Deliveries)]
	w.seen++
	switch f.Kind {
	case "lost":
		return
	case "doubled":
		w.held = append(w.held, heldMessage{func() { deliver(false) }, f.Delay * 2})
	}
	w.held = append(w.held, heldMessage{func() { deliver(f.Kind == "bare") }, f.Delay})
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

// Delivery is what happens to one message.
type Delivery struct {
	Kind  string // "arrives", "doubled", "lost", "bare": without its events
	Delay int    // how many other messages go first
}

// DrawDeliveries draws 1 to most deliveries.
func DrawDeliveries(rt *rapid.T, most int) []Delivery {
	return rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) Delivery {
		return Delivery{
			Kind: rapid.SampledFrom([]string{"arrives", "arrives", "doubled", "lost", "bare"}).
				Draw(rt, "kind"),
			Delay: rapid.SampledFrom([]int{0, 0, 0, 1, 2, 5, 30}).Draw(rt, "delay"),
		}
	}), 1, most).Draw(rt, "deliveries")
}

// Progress lets goroutines wait until a number of steps are done.
type Progress struct {
	Sent    atomic.Int64    // how many steps are done
	Reached []chan struct{} // closed when as many steps as the index are done
}

// NewProgress returns a Progress of total steps.
func NewProgress(total int) *Progress {
	p := &Progress{Reached: make([]chan struct{}, total+1)}
	for i := range p.Reached {
		p.Reached[i] = make(chan struct{})
	}
	close(p.Reached[0])
	return p
}

// Step counts one step as done.
func (p *Progress) Step() { close(p.Reached[p.Sent.Add(1)]) }

// Wait waits until n steps are done, or all there are.
func (p *Progress) Wait(n int) { <-p.Reached[min(n, len(p.Reached)-1)] }

// EachWay runs a test in both ways in which a node learns of changes on another: by hints alone,
// and by reconciling alone.
func EachWay(t *testing.T, test func(t *testing.T, nodes *TwoNodes)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		t.Run("by hints", func(t *testing.T) {
			nodes := MustTwoNodes(t, db, Options{ReconcileEvery: Never})
			nodes.Network.Store(&Network{Deliveries: []Delivery{{Kind: "arrives"}}, Crosses: true})
			nodes.Nodes[0].Invite("ann", "ben", "cleo")
			test(t, nodes)
		})
		t.Run("by reconciling", func(t *testing.T) {
			nodes := MustTwoNodes(t, db, Options{ReconcileEvery: ReconcileSoon})
			nodes.Network.Store(&Network{Deliveries: []Delivery{{Kind: "lost"}}})
			nodes.Nodes[0].Invite("ann2", "ben2", "cleo2")
			for _, name := range []string{"ann", "ben", "cleo"} {
				nodes.Nodes[0].Actors[name] = nodes.Nodes[0].Actor(name + "2")
			}
			test(t, nodes)
		})
	})
}
