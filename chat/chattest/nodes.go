package chattest

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
)

// reconnectSoon is between two tries to reach NATS.
const ReconnectSoon = 5 * time.Millisecond

// MustNodes makes services of n nodes with one database and one NATS, in which the first has
// invited people.
func MustNodes(
	t *testing.T, db *store.DB, n int, s *natstest.Server, compareEvery time.Duration,
	change func(*natsbus.Options), nicknames ...string,
) (nodes []*Fixture) {
	t.Helper()
	for range n {
		opts := natsbus.Options{
			URLs: []string{s.URL()}, RetryEvery: ReconnectSoon, Log: slog.New(slog.DiscardHandler),
		}
		if change != nil {
			change(&opts)
		}
		conn, err := natsbus.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close) // after Run, which MustWorldWith waits for in a cleanup of its own
		w := NewWith(t, db, Options{ReconcileEvery: compareEvery, Nodes: conn})
		if len(nodes) == 0 {
			w.Invite(nicknames...)
		} else {
			w.Actors = nodes[0].Actors
		}
		nodes = append(nodes, w)
	}
	return nodes
}

func (w *Fixture) WantConnected(want bool) {
	w.T.Helper()
	WaitUntil(w.T, fmt.Sprintf("NATS being connected is %v", want),
		func() bool { return w.Conn.Status().Connected == want })
}

// waitUntil waits for what nothing tells of.
func WaitUntil(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(Patience)
	for !isSo() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("it is still not so: %s", what)
		}
	}
}

// collect takes events up to a seq, which need not be what they should be; for goroutines, where a
// test cannot end.
func (p *Pulled) Collect(last int64) (events []*model.Event) {
	for {
		e, err, ok := p.Next()
		if err != nil || !ok {
			p.T.Errorf("got the end (%v) after %d events", err, len(events))
			return events
		}
		if events = append(events, e); e.Seq >= last {
			return events
		}
	}
}

// compareSoon has Run look for lost hints often enough to wait for it.
const ReconcileSoon = 20 * time.Millisecond
