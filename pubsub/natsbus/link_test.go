package natsbus_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
)

func TestEveryOtherNodeGetsEachMessageOnceAndInOrder(t *testing.T) {
	t.Parallel()
	const each = 400
	nodes := mustNodes(t, natstest.MustStart(t), 3)
	var subs []*listener
	for _, n := range nodes {
		subs = append(subs, n.subscribe("a"))
	}
	other := nodes[2].subscribe("b")
	var senders sync.WaitGroup
	for i, n := range nodes {
		senders.Go(func() {
			for seq := range each {
				n.bus.PublishRemote("a", fmt.Sprintf("%d:%03d", i, seq))
			}
		})
	}
	senders.Wait()
	for i, n := range nodes {
		var got, want []string
		for range 2 * each {
			got = append(got, n.next(subs[i]))
		}
		for from := range nodes {
			for seq := range each {
				if from != i { // a node does not get its own messages
					want = append(want, fmt.Sprintf("%d:%03d", from, seq))
				}
			}
		}
		// In order of each sender: sorting by sender alone has to give them all.
		slices.SortStableFunc(got, func(a, b string) int { return strings.Compare(a[:1], b[:1]) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("node %d (-want +got):\n%s", i, diff)
		}
	}
	// The next message is a marker: nothing came twice, and nothing on another topic.
	nodes[0].bus.PublishRemote("a", "end")
	nodes[0].bus.PublishRemote("b", "end")
	nodes[1].want(subs[1], "end")
	nodes[2].want(subs[2], "end")
	nodes[2].want(other, "end")
	nodes[1].bus.PublishRemote("a", "end")
	nodes[0].want(subs[0], "end")
}

func TestOneSubscriptionForEachTopicAndNode(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	nodes := mustNodes(t, s, 2)
	topics := func() []string { return s.Subscriptions("parley.test.topic.") }
	var subs []*listener
	for _, n := range nodes {
		for range 3 {
			subs = append(subs, n.listen("a", 1), n.listen("b", 1))
		}
		n.synced()
	}
	a, b := "parley.test.topic.a", "parley.test.topic.b"
	isNow := func(want ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("the subscriptions are %v", want),
			func() bool { return slices.Equal(topics(), want) })
	}
	isNow(a, a, b, b)
	for _, sub := range subs[:11] {
		sub.Close()
	}
	isNow(b)
	subs[11].Close()
	isNow()
	if control := s.Subscriptions("parley.test."); len(control) != 2 {
		t.Errorf("other subscriptions are %v", control)
	}
	nodes[0].stop()
	eventually(t, "the node that ended has no subscriptions",
		func() bool { return len(s.Subscriptions("parley.")) == 1 })
}

// Topics lose their last subscription and get a first one at the same time. In the end there is a
// NATS subscription for exactly those that have one.
func TestSubscriptionsFollowTopicsThatRace(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	nodes := mustNodes(t, s, 2)
	n := nodes[0]
	stay := make([]*listener, 6)
	var subscribing sync.WaitGroup
	for i := range stay {
		topic := fmt.Sprintf("t%d", i%3) // two on each
		subscribing.Go(func() {
			for range 300 {
				n.listen(topic, 1).Close()
			}
			if i%3 != 2 {
				stay[i] = n.listen(topic, 10)
			}
		})
	}
	subscribing.Wait()
	n.synced()
	eventually(t, "only t0 and t1 are subscribed to", func() bool {
		return slices.Equal(s.Subscriptions("parley.test.topic."),
			[]string{"parley.test.topic.t0", "parley.test.topic.t1"})
	})
	for i := range 2 {
		nodes[1].bus.PublishRemote(fmt.Sprintf("t%d", i), "hello")
		n.want(stay[i], "hello")
		n.want(stay[i+3], "hello")
	}
}

func TestTopicsThatCannotBeSubjectsStayLocal(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	nodes := mustNodes(t, s, 2)
	var subs []*listener
	for _, topic := range []string{"*", ">", "a.b", "a b", "", "é", "a\r\nPUB x"} {
		subs = append(subs, nodes[0].listen(topic, 10))
		nodes[1].bus.PublishRemote(topic, "out of bounds")
	}
	good := nodes[0].subscribe("a")
	if topics := s.Subscriptions("parley.test.topic."); len(topics) != 1 {
		t.Errorf("subscribed to %v", topics)
	}
	nodes[1].bus.PublishRemote("a", "fine")
	nodes[0].want(good, "fine")
	for _, sub := range subs {
		if len(sub.C) > 0 {
			t.Errorf("%q has come", <-sub.C)
		}
	}
}

func TestClustersOnOneServerAreApart(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	prefixed := func(prefix string) *node {
		n := mustNode(t, s.URL(), func(o *natsbus.Options, _ *natsbus.Codec[string]) {
			o.Prefix = prefix
		})
		n.waitMissedAll()
		return n
	}
	red, blue, red2 := prefixed("chat.red"), prefixed("chat.blue"), prefixed("chat.red")
	onRed, onBlue := red2.subscribe("a"), blue.subscribe("a")
	red.bus.PublishRemote("a", "red")
	red2.want(onRed, "red")
	red2.bus.PublishRemote("a", "red again")
	red.stop() // has handed over what it had, so that this comes behind it:
	prefixed("chat.blue").bus.PublishRemote("a", "blue")
	blue.want(onBlue, "blue")
}

func TestMalformedMessagesAreDropped(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	n := mustNodes(t, s, 1)[0]
	sub := n.subscribe("a")
	client, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, text := range []string{"malformed!", "fine", "!", "also fine"} {
		if err := client.Publish("parley.test.topic.a", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	n.want(sub, "fine", "also fine")
	if got := n.Status(); got.Broken != 2 || got.Received != 2 {
		t.Errorf("counted %+v", got)
	}
	if n.log.lines("malformed") != 0 {
		t.Errorf("any client could fill the log: %s", n.log)
	}
}

// TestPublishingNeverWaits publishes more than all buffers hold while the network hangs.
func TestPublishingNeverWaits(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	n := mustNode(t, s.URL(), func(o *natsbus.Options, _ *natsbus.Codec[string]) { o.Buffer = 8 })
	n.waitMissedAll()
	s.Hang()
	const messages = 2000
	large := strings.Repeat("x", 64<<10) // 128 MB in all, more than any socket takes
	for range messages {
		n.bus.PublishRemote("a", large)
	}
	if got := n.Status(); got.Dropped == 0 || got.Sent+got.Dropped > messages {
		t.Errorf("counted %+v", got)
	}
	n.stop() // waits for the network no longer than flushTimeout
	if got := n.Status(); got.Sent+got.Dropped != messages {
		t.Errorf("counted %+v", got)
	}
}

// TestDroppedMessagesAreReported fills the small buffer of one node. The other must learn that it
// may have missed messages.
func TestDroppedMessagesAreReported(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	small := mustNode(t, s.URL(), func(o *natsbus.Options, _ *natsbus.Codec[string]) {
		o.Buffer = 1
	})
	small.waitMissedAll()
	other := mustNodes(t, s, 1)[0]
	for small.Status().Dropped == 0 {
		small.bus.PublishRemote("a", "x")
	}
	other.waitMissedAll()
}

// Messages arrive while a node reads none. They are dropped on the node, not by the server, which
// would close the connection, and the node knows that it missed some.
func TestASlowNodeDropsMessagesAndKnows(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	slow := mustNode(t, s.URL(), func(o *natsbus.Options, c *natsbus.Codec[string]) {
		o.Buffer = 4
		decode := c.Decode
		c.Decode = func(topic string, data []byte) (string, error) {
			<-hold
			return decode(topic, data)
		}
	})
	t.Cleanup(release) // before the node ends, which waits for Decode
	slow.waitMissedAll()
	quick := mustNodes(t, s, 1)[0]
	sub := slow.subscribe("a")
	for range 100 {
		quick.bus.PublishRemote("a", "one of many")
	}
	slow.waitMissedAll()
	release()
	eventually(t, "it reads messages again", func() bool {
		quick.bus.PublishRemote("a", "again") // the buffer may still be full at first
		for {
			select {
			case message := <-sub.C:
				if message == "again" {
					return true
				}
			default:
				return false
			}
		}
	})
	if got := slow.Status(); got.Missed == 0 || !got.Connected {
		t.Errorf("counted %+v", got)
	}
}
