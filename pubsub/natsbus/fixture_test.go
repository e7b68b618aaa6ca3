package natsbus_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/pubsub"
	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// timeout ends a test that waits for something that never comes.
	timeout = 30 * time.Second
	// retryEvery is the time between two attempts to connect.
	retryEvery = 5 * time.Millisecond
)

// logBuffer keeps a log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// lines counts the occurrences of a text.
func (b *logBuffer) lines(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), text)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// node is a node with a bus. Messages are texts without "!".
type node struct {
	*natsbus.Conn
	t      *testing.T
	bus    *natsbus.Bus[string]
	log    *logBuffer
	missed chan []string
	stop   func()
}

func mustNode(
	t *testing.T, url string, change ...func(*natsbus.Options, *natsbus.Codec[string]),
) *node {
	t.Helper()
	n := &node{t: t, log: new(logBuffer), missed: make(chan []string, 10_000)}
	opts := natsbus.Options{
		URLs: []string{url}, RetryEvery: retryEvery,
		Log: slog.New(slog.NewTextHandler(n.log, nil)),
	}
	codec := natsbus.Codec[string]{
		Encode: func(s string) ([]byte, error) { return []byte(s), nil },
		Decode: func(_ string, data []byte) (string, error) {
			if bytes.ContainsRune(data, '!') {
				return "", errors.New("an exclamation mark")
			}
			return string(data), nil
		},
	}
	for _, f := range change {
		f(&opts, &codec)
	}
	var err error
	if n.Conn, err = natsbus.Open(opts); err != nil {
		t.Fatal(err)
	}
	n.bus = natsbus.NewBus(n.Conn, "test", codec, func(topics []string) { n.missed <- topics })
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.bus.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		n.Close()
	})
	t.Cleanup(n.stop)
	return n
}

// mustNodes starts nodes and waits until they are connected.
func mustNodes(t *testing.T, s *natstest.Server, n int) (nodes []*node) {
	t.Helper()
	for range n {
		nodes = append(nodes, mustNode(t, s.URL()))
	}
	for _, n := range nodes {
		n.waitMissedAll()
	}
	return nodes
}

// waitMissedAll waits until the node reports that it may have missed messages of all topics, as it
// does after connecting.
func (n *node) waitMissedAll() {
	n.t.Helper()
	for topics := []string{""}; topics != nil; {
		topics = n.nextMissed()
	}
}

func (n *node) nextMissed() []string {
	n.t.Helper()
	select {
	case topics := <-n.missed:
		return topics
	case <-time.After(timeout):
		n.t.Fatalf("no report of missed messages: %+v\n%s", n.Status(), n.log)
		return nil
	}
}

// listener keeps the messages of a topic.
type listener struct {
	*pubsub.Subscription[string]
	C chan string
}

// listen keeps up to size messages of a topic, and drops more.
func (n *node) listen(topic string, size int) *listener {
	l := &listener{C: make(chan string, size)}
	l.Subscription = n.bus.Handle(topic, func(message string) {
		select {
		case l.C <- message:
		default:
		}
	})
	return l
}

// subscribe is listen, and waits until NATS has confirmed the subscription.
func (n *node) subscribe(topic string) *listener {
	n.t.Helper()
	sub := n.listen(topic, 10_000)
	for known := false; !known; {
		topics := n.nextMissed()
		for _, t := range topics {
			known = known || t == topic
		}
		known = known || topics == nil
	}
	return sub
}

// synced waits until NATS has all earlier changes of subscriptions. The first report of missed
// messages may be an earlier one; the second comes after the changes.
func (n *node) synced() {
	n.t.Helper()
	n.subscribe("synced").Close()
	n.subscribe("synced2").Close()
}

func (n *node) next(sub *listener) string {
	n.t.Helper()
	select {
	case message := <-sub.C:
		return message
	case <-time.After(timeout):
		n.t.Fatalf("no message: %+v\n%s", n.Status(), n.log)
		return ""
	}
}

func (n *node) want(sub *listener, messages ...string) {
	n.t.Helper()
	for _, want := range messages {
		if got := n.next(sub); got != want {
			n.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// eventually waits for a condition that nothing notifies of.
func eventually(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(timeout)
	for !isSo() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("still not: %s", what)
		}
	}
}
