package chattest

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
)

// ReconnectSoon is the time between two attempts to connect to NATS.
const ReconnectSoon = 5 * time.Millisecond

// MustNodes returns n nodes with one database and one NATS server, and invites accounts. change, if
// it is not nil, changes the options of each connection.
func MustNodes(
	t *testing.T, db *store.DB, n int, s *natstest.Server, reconcileEvery time.Duration,
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
		t.Cleanup(conn.Close) // cleanups run in reverse order: Run has ended by then
		w := NewWith(t, db, Options{ReconcileEvery: reconcileEvery, Nodes: conn})
		if len(nodes) == 0 {
			w.Invite(nicknames...)
		} else {
			w.Actors = nodes[0].Actors
		}
		nodes = append(nodes, w)
	}
	return nodes
}

// WantConnected waits until the node is connected to NATS, or is not.
func (w *Fixture) WantConnected(want bool) {
	w.T.Helper()
	WaitUntil(w.T, fmt.Sprintf("NATS being connected is %v", want),
		func() bool { return w.Conn.Status().Connected == want })
}

// WaitUntil waits, by polling, until isSo is true.
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

// ReconcileSoon is an Options.ReconcileEvery that tests wait for.
const ReconcileSoon = 20 * time.Millisecond
