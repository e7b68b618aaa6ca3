package chat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
	"parley/store/storetest"
)

// reconnectSoon is between two tries to reach NATS.
const reconnectSoon = 5 * time.Millisecond

// MustNodes makes services of n nodes with one database and one NATS, in which the first has
// invited people.
func MustNodes(
	t *testing.T, db *store.DB, n int, s *natstest.Server, compareEvery time.Duration, change func(*natsbus.Options), nicknames ...string,
) (nodes []*world) {
	t.Helper()
	for range n {
		opts := natsbus.Options{
			URLs: []string{s.URL()}, RetryEvery: reconnectSoon, Log: slog.New(slog.DiscardHandler),
		}
		if change != nil {
			change(&opts)
		}
		conn, err := natsbus.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close) // after Run, which MustWorldWith waits for in a cleanup of its own
		w := MustWorldWith(t, db, Options{CompareEvery: compareEvery, Nodes: conn})
		if len(nodes) == 0 {
			w.invite(nicknames...)
		} else {
			w.actors = nodes[0].actors
		}
		nodes = append(nodes, w)
	}
	return nodes
}

func (w *world) wantConnected(want bool) {
	w.t.Helper()
	waitUntil(w.t, fmt.Sprintf("NATS being connected is %v", want), func() bool { return w.opts.Nodes.Status().Connected == want })
}

// waitUntil waits for what nothing tells of.
func waitUntil(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !isSo() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("it is still not so: %s", what)
		}
	}
}

// TestNodesTellEachOther has three nodes whose comparison comes too seldom to matter. Followers
// begin while messages are being sent on all of them: not even what was sent before NATS knew of
// their subscriptions may wait for the comparison.
func TestNodesTellEachOther(t *testing.T) {
	t.Parallel()
	const each = 40
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 3, s, never, nil, "ann", "ben", "eve")
	people := []string{"ann", "ben", "eve"}
	c := MustConversation(t, nodes[0], "ann", "ben", "eve")
	var senders sync.WaitGroup
	failed := make([]error, len(nodes))
	for i, w := range nodes {
		senders.Go(func() {
			for n := range each {
				_, err := w.SendMessage(t.Context(), w.actor(people[i]), SendMessage{ConversationID: c.ID, Content: fmt.Sprint(n)})
				failed[i] = errors.Join(failed[i], err)
			}
		})
	}
	var followers []*pulled
	for i := range 6 {
		followers = append(followers, nodes[i%3].pull(t, people[i/2], c.ID, new(int64(0))))
	}
	const last = 1 + 3*each
	var all [6][]*model.Event
	var following sync.WaitGroup
	for i, p := range followers {
		following.Go(func() { all[i] = p.collect(last) })
	}
	following.Wait()
	senders.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	stored := nodes[0].stored(c.ID)
	for i := range all {
		wantEqual(t, fmt.Sprintf("what follower %d got", i), stored, all[i], sameData())
	}
	// Two followers on each node, and one subscription.
	topic := "parley.chat.topic." + topicOf(c.ID)
	wantEqual(t, "subscriptions", []string{topic, topic, topic}, s.Subscriptions(topic))
	for i, p := range followers {
		if i%3 != 0 {
			p.stop()
		}
	}
	waitUntil(t, "only the first node subscribes", func() bool { return slices.Equal(s.Subscriptions(topic), []string{topic}) })
}

// collect takes events up to a seq, which need not be what they should be; for goroutines, where a
// test cannot end.
func (p *pulled) collect(last int64) (events []*model.Event) {
	for {
		e, err, ok := p.next()
		if err != nil || !ok {
			p.t.Errorf("got the end (%v) after %d events", err, len(events))
			return events
		}
		if events = append(events, e); e.Seq >= last {
			return events
		}
	}
}

// TestWhatIsSentBeforeNATSKnowsOfAFollower has a follower begin while its subscription cannot get
// to NATS. What is sent then is told to nobody, and found as soon as NATS knows.
func TestWhatIsSentBeforeNATSKnowsOfAFollower(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	way := natstest.MustForward(t, s)
	urls := []string{s.URL(), way.URL(), s.URL()}
	nodes := MustNodes(t, db, 3, s, never, func(o *natsbus.Options) { o.URLs, urls = urls[:1], urls[1:] }, "ann", "ben")
	c, other := MustConversation(t, nodes[0], "ann", "ben"), MustConversation(t, nodes[0], "ann", "ben")
	early := []*pulled{nodes[1].pull(t, "ben", c.ID, new(int64(0))), nodes[2].pull(t, "ben", c.ID, new(int64(0)))}
	for _, p := range early {
		p.event(1)
	}
	waitUntil(t, "both listen", func() bool { return len(s.Subscriptions("parley.chat.topic.")) == 2 })
	nodes[0].send("ann", c.ID, "all that was to be said of connecting has been said")
	for _, p := range early {
		p.event(2)
	}
	way.Hang()
	late := nodes[1].pull(t, "ben", other.ID, new(int64(0)))
	late.event(1)
	nodes[0].send("ann", other.ID, "into the dark")
	nodes[0].send("ann", c.ID, "behind it")
	early[1].event(3) // so NATS has dealt with both
	way.Resume()
	late.event(2)
	early[0].event(3)
}

// TestAHintBringsTheEvent makes sure that what comes over NATS is delivered without reading the
// database.
func TestAHintBringsTheEvent(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 2, s, never, nil, "ann", "ben")
	c := MustConversation(t, nodes[0], "ann", "ben")
	p := nodes[1].pull(t, "ben", c.ID, new(int64(0)))
	p.event(1)
	nodes[1].wantListening(s, c.ID)
	// Of an event that is not stored, nobody can have read.
	m := &model.Message{ID: model.NewMessageID(), ConversationID: c.ID, Seq: 2, AuthorID: new(nodes[0].id("ann")), Content: "only told"}
	e := &model.Event{ConversationID: c.ID, Seq: 2, Kind: model.MessageAdded, MessageID: &m.ID, Message: m, Data: []byte("{}")}
	nodes[0].announce([]*model.Event{e})
	wantEqual(t, "event", e, p.event(2), sameData())
}

// wantListening waits until this node's subscription is known to NATS. With two nodes, only one of
// which follows.
func (w *world) wantListening(s *natstest.Server, id model.ConversationID) {
	w.t.Helper()
	waitUntil(w.t, "it listens", func() bool { return len(s.Subscriptions("parley.chat.topic."+topicOf(id))) == 1 })
}

// TestWithoutNATSComparingIsEnough ends NATS in the middle of traffic, and starts it again.
func TestWithoutNATSComparingIsEnough(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 2, s, compareSoon, nil, "ann", "ben")
	c := MustConversation(t, nodes[0], "ann", "ben")
	p := nodes[1].pull(t, "ben", c.ID, new(int64(0)))
	p.event(1)
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
			if _, err := nodes[0].SendMessage(t.Context(), nodes[0].actor("ann"), SendMessage{ConversationID: c.ID, Content: "x"}); err != nil {
				t.Error(err)
				return
			}
			sent++
		}
	})
	seq := int64(1)
	goOn := func() {
		p.events(seq+1, seq+10)
		seq += 10
	}
	goOn()
	s.Stop()
	nodes[0].wantConnected(false)
	nodes[1].wantConnected(false)
	goOn()
	s.Start()
	nodes[0].wantConnected(true)
	nodes[1].wantConnected(true)
	goOn()
	close(stop)
	sending.Wait()
	p.events(seq+1, sent)
}

// TestAReconnectRepairsAtOnce has messages sent while NATS is away from one node, or all. Nobody
// compares by itself here.
func TestAReconnectRepairsAtOnce(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(t *testing.T, s *natstest.Server) (cut *natstest.Server, ofFirst, ofSecond string){
		"the server": func(_ *testing.T, s *natstest.Server) (*natstest.Server, string, string) { return s, s.URL(), s.URL() },
		"the sender's way": func(t *testing.T, s *natstest.Server) (*natstest.Server, string, string) {
			way := natstest.MustForward(t, s)
			return way, way.URL(), s.URL()
		},
		"the follower's way": func(t *testing.T, s *natstest.Server) (*natstest.Server, string, string) {
			way := natstest.MustForward(t, s)
			return way, s.URL(), way.URL()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, s := storetest.MustPostgres(t), natstest.MustStart(t)
			cut, ofFirst, ofSecond := outage(t, s)
			urls := []string{ofFirst, ofSecond}
			nodes := MustNodes(t, db, 2, s, never, func(o *natsbus.Options) { o.URLs, urls = urls[:1], urls[1:] }, "ann", "ben")
			c := MustConversation(t, nodes[0], "ann", "ben")
			p := nodes[1].pull(t, "ben", c.ID, new(int64(0)))
			p.event(1)
			nodes[0].wantConnected(true)
			nodes[1].wantConnected(true)
			cut.Stop()
			for i, of := range []string{ofFirst, ofSecond} {
				if of == cut.URL() {
					nodes[i].wantConnected(false)
				}
			}
			nodes[0].sendMany("ann", c.ID, 3)
			cut.Start()
			p.events(2, 4)
			nodes[0].send("ann", c.ID, "live again")
			p.event(5)
		})
	}
}

// TestADroppedHintIsRepaired has a node send through a buffer of one hint.
func TestADroppedHintIsRepaired(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	small := func(o *natsbus.Options) { o.Buffer = 1 }
	nodes := MustNodes(t, db, 2, s, never, small, "ann", "ben")
	c := MustConversation(t, nodes[0], "ann", "ben")
	p := nodes[1].pull(t, "ben", c.ID, new(int64(0)))
	p.event(1)
	nodes[0].wantConnected(true)
	nodes[1].wantListening(s, c.ID)
	nodes[0].publish = func(string, hint) { // finds the buffer full, of what concerns nobody
		for nodes[0].opts.Nodes.Status().Dropped == 0 {
			nodes[0].nodes.Publish(topicOf(model.NewConversationID()), hint{seq: 1})
		}
	}
	nodes[0].send("ann", c.ID, "not told")
	p.event(2)
}

// TestASlowFollowerOnAnotherNode takes nothing while more comes than its queue holds.
func TestASlowFollowerOnAnotherNode(t *testing.T) {
	t.Parallel()
	const burst = followQueue + 20
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 2, s, never, nil, "ann", "ben")
	c := MustConversation(t, nodes[0], "ann", "ben")
	slow, quick := nodes[1].pull(t, "ben", c.ID, new(int64(0))), nodes[1].pull(t, "ben", c.ID, new(int64(0)))
	slow.event(1)
	quick.event(1)
	nodes[1].wantListening(s, c.ID)
	for seq := int64(2); seq < 2+burst; seq++ {
		nodes[0].send("ann", c.ID, "quick")
		quick.event(seq)
	}
	wantEqual(t, "events", nodes[0].stored(c.ID)[1:], slow.events(2, 1+burst), sameData())
}

// TestHintsFromStrangers sends what is no hint, and hints that are not true, over NATS: the stream
// does not end, and nothing is delivered that is not of this conversation and place.
func TestHintsFromStrangers(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 2, s, never, nil, "ann", "ben")
	c := MustConversation(t, nodes[0], "ann", "ben")
	p := nodes[1].pull(t, "ben", c.ID, new(int64(0)))
	p.event(1)
	nodes[1].wantListening(s, c.ID)
	stranger, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	broken := uint64(0)
	for name, data := range brokenHints(c.ID) {
		if err := stranger.Publish("parley.chat.topic."+topicOf(c.ID), []byte(data)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		broken++
	}
	waitUntil(t, "all have been dropped", func() bool { return nodes[1].opts.Nodes.Status().Broken == broken })
	nodes[0].sendMany("ann", c.ID, 2)
	wantEqual(t, "events", nodes[0].stored(c.ID)[1:], p.events(2, 3), sameData())
}

// TestStopHandsOver makes sure that the last hints of a node that stops still leave.
func TestStopHandsOver(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	there := MustNodes(t, db, 1, s, never, nil, "ann", "ben")[0]
	c := MustConversation(t, there, "ann", "ben")
	p := there.pull(t, "ben", c.ID, new(int64(0)))
	p.event(1)
	conn, err := natsbus.Open(natsbus.Options{URLs: []string{s.URL()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	leaving := New(db, Options{CompareEvery: never, Nodes: conn})
	there.wantListening(s, c.ID)
	waitUntil(t, "NATS is connected", func() bool { return conn.Status().Connected })
	for range 20 {
		_, err := leaving.SendMessage(t.Context(), there.actor("ann"), SendMessage{ConversationID: c.ID, Content: strings.Repeat("x", 1000)})
		if err != nil {
			t.Fatal(err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	leaving.Run(ended) // nothing has left before
	conn.Close()
	p.events(2, 21)
}
