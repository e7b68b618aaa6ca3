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
	// patience ends a test that waits for what never comes. It is no measure of speed.
	patience = 30 * time.Second
	// soon is between two tries to connect.
	soon = 5 * time.Millisecond
)

// journal is a log.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// lines counts those that have a text in them.
func (j *journal) lines(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// node is one of several, with a bus that is joined with those of the others. Its messages are
// texts without "!".
type node struct {
	*natsbus.Conn
	t      *testing.T
	bus    *natsbus.Bus[string]
	log    *journal
	missed chan []string
	stop   func()
}

func mustNode(t *testing.T, url string, change ...func(*natsbus.Options, *natsbus.Codec[string])) *node {
	t.Helper()
	n := &node{t: t, log: new(journal), missed: make(chan []string, 10_000)}
	opts := natsbus.Options{URLs: []string{url}, RetryEvery: soon, Log: slog.New(slog.NewTextHandler(n.log, nil))}
	codec := natsbus.Codec[string]{
		Encode: func(s string) ([]byte, error) { return []byte(s), nil },
		Decode: func(_ string, data []byte) (string, error) {
			if bytes.ContainsRune(data, '!') {
				return "", errors.New("too loud")
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

// mustNodes starts nodes, and waits until NATS knows all of them.
func mustNodes(t *testing.T, s *natstest.Server, n int) (nodes []*node) {
	t.Helper()
	for range n {
		nodes = append(nodes, mustNode(t, s.URL()))
	}
	for _, n := range nodes {
		n.joined()
	}
	return nodes
}

// joined waits until the node says that anything may have been missed, as it does after connecting.
func (n *node) joined() {
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
	case <-time.After(patience):
		n.t.Fatalf("nothing was missed: %+v\n%s", n.Status(), n.log)
		return nil
	}
}

// listener keeps what comes on a topic.
type listener struct {
	*pubsub.Subscription[string]
	C chan string
}

// listen keeps up to size messages, and lets go of the others.
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

// subscribe waits until NATS knows of it.
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

// settled waits until all that was done on the bus before is done at NATS too.
func (n *node) settled() {
	n.t.Helper()
	n.subscribe("settled").Close()
	n.subscribe("settled2").Close()
}

func (n *node) next(sub *listener) string {
	n.t.Helper()
	select {
	case message := <-sub.C:
		return message
	case <-time.After(patience):
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

// eventually waits for what nothing tells of.
func eventually(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !isSo() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("it is still not so that %s", what)
		}
	}
}
