package feed_test

import (
	"testing"
	"time"

	"parley/chat/chattest"
	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
)

func TestMain(m *testing.M) { chattest.Main(m) }

// fixture is the one of package chattest, with what only the tests of this package need.
type fixture struct{ *chattest.Fixture }

func mustFixture(t *testing.T, db *store.DB, nicknames ...string) *fixture {
	t.Helper()
	return &fixture{chattest.New(t, db, nicknames...)}
}

func mustFixtureWith(
	t *testing.T, db *store.DB, opts chattest.Options, nicknames ...string,
) *fixture {
	t.Helper()
	return &fixture{chattest.NewWith(t, db, opts, nicknames...)}
}

// mustNodes is chattest.MustNodes.
func mustNodes(
	t *testing.T, db *store.DB, n int, s *natstest.Server, reconcileEvery time.Duration,
	change func(*natsbus.Options), nicknames ...string,
) (nodes []*fixture) {
	t.Helper()
	for _, node := range chattest.MustNodes(t, db, n, s, reconcileEvery, change, nicknames...) {
		nodes = append(nodes, &fixture{node})
	}
	return nodes
}

// twoNodes is chattest.TwoNodes.
type twoNodes struct {
	*chattest.TwoNodes
	Nodes [2]*fixture
}

func asTwoNodes(n *chattest.TwoNodes) *twoNodes {
	return &twoNodes{n, [2]*fixture{{n.Nodes[0]}, {n.Nodes[1]}}}
}

func mustTwoNodes(t *testing.T, db *store.DB, opts chattest.Options) *twoNodes {
	t.Helper()
	return asTwoNodes(chattest.MustTwoNodes(t, db, opts))
}

// eachWay is chattest.EachWay.
func eachWay(t *testing.T, test func(t *testing.T, nodes *twoNodes)) {
	t.Helper()
	chattest.EachWay(t, func(t *testing.T, n *chattest.TwoNodes) { test(t, asTwoNodes(n)) })
}
