package feed_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"parley/chat"
	"parley/chat/chattest"
	"parley/feed"
	"parley/model"
	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
	"parley/store/storetest"
)

// Three nodes reconcile so seldom that the test does not notice. Followers start while messages are
// sent on all of them: even messages from before NATS knew of their subscriptions are delivered
// without reconciling.
func TestNodesExchangeHints(t *testing.T) {
	t.Parallel()
	const each = 40
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 3, s, chattest.Never, nil, "ann", "ben", "eve")
	nicknames := []string{"ann", "ben", "eve"}
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben", "eve")
	var senders sync.WaitGroup
	failed := make([]error, len(nodes))
	for i, w := range nodes {
		senders.Go(func() {
			for n := range each {
				_, err := w.SendMessage(t.Context(), w.Actor(nicknames[i]),
					chat.SendMessage{ConversationID: c.ID, Content: fmt.Sprint(n)})
				failed[i] = errors.Join(failed[i], err)
			}
		})
	}
	var followers []*chattest.Pulled
	for i := range 6 {
		followers = append(followers, nodes[i%3].Pull(t, nicknames[i/2], c.ID, new(int64(0))))
	}
	const last = 1 + 3*each
	var all [6][]*model.Event
	var following sync.WaitGroup
	for i, p := range followers {
		following.Go(func() { all[i] = p.Collect(last) })
	}
	following.Wait()
	senders.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	stored := nodes[0].Stored(c.ID)
	for i := range all {
		chattest.WantEqual(t, fmt.Sprintf("what follower %d got", i), stored, all[i], sameData())
	}
	// Two followers on each node, and one subscription.
	topic := "parley.chat.topic." + feed.Topic(c.ID)
	chattest.WantEqual(t, "subscriptions", []string{topic, topic, topic}, s.Subscriptions(topic))
	for i, p := range followers {
		if i%3 != 0 {
			p.Stop()
		}
	}
	chattest.WaitUntil(t, "only the first node subscribes",
		func() bool { return slices.Equal(s.Subscriptions(topic), []string{topic}) })
}

// A follower starts while its subscription cannot reach NATS. The hint of a message that is sent
// then is lost, and the message is read as soon as NATS knows the subscription.
func TestAMessageFromBeforeTheSubscriptionReachedNATS(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	way := natstest.MustForward(t, s)
	urls := []string{s.URL(), way.URL(), s.URL()}
	nodes := mustNodes(t, db, 3, s, chattest.Never,
		func(o *natsbus.Options) { o.URLs, urls = urls[:1], urls[1:] }, "ann", "ben")
	c, other := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben"),
		chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
	early := []*chattest.Pulled{
		nodes[1].Pull(t, "ben", c.ID, new(int64(0))),
		nodes[2].Pull(t, "ben", c.ID, new(int64(0))),
	}
	for _, p := range early {
		p.Event(1)
	}
	chattest.WaitUntil(t, "both listen",
		func() bool { return len(s.Subscriptions("parley.chat.topic.")) == 2 })
	nodes[0].Send("ann", c.ID, "all that was to be said of connecting has been said")
	for _, p := range early {
		p.Event(2)
	}
	way.Hang()
	late := nodes[1].Pull(t, "ben", other.ID, new(int64(0)))
	late.Event(1)
	nodes[0].Send("ann", other.ID, "into the dark")
	nodes[0].Send("ann", c.ID, "behind it")
	early[1].Event(3) // so NATS has dealt with both
	way.Resume()
	late.Event(2)
	early[0].Event(3)
}

// An event that comes over NATS is delivered without a read.
func TestAHintCarriesTheEvent(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 2, s, chattest.Never, nil, "ann", "ben")
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
	p := nodes[1].Pull(t, "ben", c.ID, new(int64(0)))
	p.Event(1)
	nodes[1].wantListening(s, c.ID)
	// The event is not stored, so it cannot have been read.
	m := &model.Message{
		ID: model.NewMessageID(), ConversationID: c.ID, Seq: 2,
		AuthorID: new(nodes[0].UserID("ann")), Content: "not stored",
	}
	e := &model.Event{
		ConversationID: c.ID, Seq: 2, Kind: model.MessageAdded, MessageID: &m.ID,
		Message: m, Data: []byte("{}"), Before: nodes[0].Stored(c.ID)[0].Mark(),
	}
	nodes[0].Publish([]*model.Event{e})
	chattest.WantEqual(t, "event", e, p.Event(2), sameData())
}

// wantListening waits until NATS knows this node's subscription. There are two nodes, of which only
// one follows.
func (w *fixture) wantListening(s *natstest.Server, id model.ConversationID) {
	w.T.Helper()
	chattest.WaitUntil(w.T, "it listens",
		func() bool { return len(s.Subscriptions("parley.chat.topic."+feed.Topic(id))) == 1 })
}

// NATS ends while messages are sent, and starts again.
func TestWithoutNATSReconcilingIsEnough(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 2, s, chattest.ReconcileSoon, nil, "ann", "ben")
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
	p := nodes[1].Pull(t, "ben", c.ID, new(int64(0)))
	p.Event(1)
	var sending sync.WaitGroup
	stop := make(chan struct{})
	var sent int64 = 1
	sending.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := nodes[0].SendMessage(t.Context(), nodes[0].Actor("ann"),
				chat.SendMessage{ConversationID: c.ID, Content: "x"}); err != nil {
				t.Error(err)
				return
			}
			sent++
		}
	})
	seq := int64(1)
	goOn := func() {
		p.Events(seq+1, seq+10)
		seq += 10
	}
	goOn()
	s.Stop()
	nodes[0].WantConnected(false)
	nodes[1].WantConnected(false)
	goOn()
	s.Start()
	nodes[0].WantConnected(true)
	nodes[1].WantConnected(true)
	goOn()
	close(stop)
	sending.Wait()
	p.Events(seq+1, sent)
}

// Messages are sent while one node, or all, have no connection to NATS. Nothing is reconciled by
// time.
func TestAReconnectReconcilesAtOnce(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(t *testing.T,
		s *natstest.Server) (cut *natstest.Server, ofFirst, ofSecond string){
		"the server": func(_ *testing.T, s *natstest.Server) (*natstest.Server, string,
			string,
		) {
			return s, s.URL(), s.URL()
		},
		"the sender's way": func(t *testing.T, s *natstest.Server) (*natstest.Server, string,
			string,
		) {
			way := natstest.MustForward(t, s)
			return way, way.URL(), s.URL()
		},
		"the follower's way": func(t *testing.T, s *natstest.Server) (*natstest.Server, string,
			string,
		) {
			way := natstest.MustForward(t, s)
			return way, s.URL(), way.URL()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, s := storetest.MustPostgres(t), natstest.MustStart(t)
			cut, ofFirst, ofSecond := outage(t, s)
			urls := []string{ofFirst, ofSecond}
			nodes := mustNodes(t, db, 2, s, chattest.Never,
				func(o *natsbus.Options) { o.URLs, urls = urls[:1], urls[1:] }, "ann", "ben")
			c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
			p := nodes[1].Pull(t, "ben", c.ID, new(int64(0)))
			p.Event(1)
			nodes[0].WantConnected(true)
			nodes[1].WantConnected(true)
			cut.Stop()
			for i, of := range []string{ofFirst, ofSecond} {
				if of == cut.URL() {
					nodes[i].WantConnected(false)
				}
			}
			nodes[0].SendMany("ann", c.ID, 3)
			cut.Start()
			p.Events(2, 4)
			nodes[0].Send("ann", c.ID, "live again")
			p.Event(5)
		})
	}
}

// A node sends through a buffer of one hint.
func TestADroppedHintIsReconciled(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	small := func(o *natsbus.Options) { o.Buffer = 1 }
	nodes := mustNodes(t, db, 2, s, chattest.Never, small, "ann", "ben")
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
	p := nodes[1].Pull(t, "ben", c.ID, new(int64(0)))
	p.Event(1)
	nodes[0].WantConnected(true)
	nodes[1].wantListening(s, c.ID)
	// finds the buffer full of hints that no node follows
	nodes[0].Hints().Intercept(func(string, feed.Hint) {
		for nodes[0].Conn.Status().Dropped == 0 {
			nodes[0].Hints().PublishRemote(feed.Topic(model.NewConversationID()), feed.Hint{Seq: 1})
		}
	})
	nodes[0].Send("ann", c.ID, "its hint is dropped")
	p.Event(2)
}

// The follower takes nothing while more events come than its queue holds.
func TestASlowFollowerOnAnotherNode(t *testing.T) {
	t.Parallel()
	const burst = feed.FollowQueue + 20
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 2, s, chattest.Never, nil, "ann", "ben")
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
	slow, quick := nodes[1].Pull(t, "ben", c.ID, new(int64(0))),
		nodes[1].Pull(t, "ben", c.ID, new(int64(0)))
	slow.Event(1)
	quick.Event(1)
	nodes[1].wantListening(s, c.ID)
	for seq := int64(2); seq < 2+burst; seq++ {
		nodes[0].Send("ann", c.ID, "quick")
		quick.Event(seq)
	}
	chattest.WantEqual(t, "events", nodes[0].Stored(c.ID)[1:], slow.Events(2, 1+burst), sameData())
}

// Broken and false hints come over NATS. The stream does not end, and delivers no event of another
// conversation or seq.
func TestForgedHintsOverNATS(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 2, s, chattest.Never, nil, "ann", "ben")
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
	p := nodes[1].Pull(t, "ben", c.ID, new(int64(0)))
	p.Event(1)
	nodes[1].wantListening(s, c.ID)
	intruder, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer intruder.Close()
	broken := uint64(0)
	for name, data := range brokenHints(c.ID) {
		if err := intruder.Publish("parley.chat.topic."+feed.Topic(c.ID),
			[]byte(data)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		broken++
	}
	chattest.WaitUntil(t, "all have been dropped",
		func() bool { return nodes[1].Conn.Status().Broken == broken })
	nodes[0].SendMany("ann", c.ID, 2)
	chattest.WantEqual(t, "events", nodes[0].Stored(c.ID)[1:], p.Events(2, 3), sameData())
}

func TestTheLastHintsOfAStoppingNodeAreSent(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	there := mustNodes(t, db, 1, s, chattest.Never, nil, "ann", "ben")[0]
	c := chattest.MustConversation(t, there.Fixture, "ann", "ben")
	p := there.Pull(t, "ben", c.ID, new(int64(0)))
	p.Event(1)
	conn, err := natsbus.Open(natsbus.Options{
		URLs: []string{s.URL()},
		Log:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	leaving := chattest.NewServices(db,
		chattest.Options{ReconcileEvery: chattest.Never, Nodes: conn})
	there.wantListening(s, c.ID)
	chattest.WaitUntil(t, "NATS is connected", func() bool { return conn.Status().Connected })
	for range 20 {
		_, err := leaving.SendMessage(t.Context(), there.Actor("ann"),
			chat.SendMessage{ConversationID: c.ID, Content: strings.Repeat("x", 1000)})
		if err != nil {
			t.Fatal(err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	leaving.Run(ended) // nothing has left before
	conn.Close()
	p.Events(2, 21)
}
