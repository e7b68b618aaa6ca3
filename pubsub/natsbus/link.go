package natsbus

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"parley/pubsub"
	"parley/wake"
)

// Codec encodes messages for other nodes, and decodes theirs. A message that Decode refuses is
// dropped and counted: any client of NATS that may publish on the subjects can have sent it.
type Codec[T any] struct {
	Encode func(message T) ([]byte, error)
	Decode func(topic string, data []byte) (T, error)
}

// link connects one bus with the buses of the same name on other nodes.
type link[T any] struct {
	conn   *Conn
	bus    *pubsub.Bus[T]
	codec  Codec[T]
	log    *slog.Logger
	topics string // the prefix of the subjects of topics
	lost   string // the subject on which a node reports that it has lost messages
	missed func(topics []string)

	out chan outgoing[T] // messages to send
	in  chan *nats.Msg   // messages that have arrived
	// unreported is true if messages of this node were lost on their way out, and the other nodes
	// do not know it yet.
	unreported atomic.Bool
	wakeSend   wake.Notifier
	wakeSync   wake.Notifier // of syncSubscriptions

	mu         sync.Mutex // guards what follows
	subscribed map[string]bool
	changed    map[string]bool // topics that were subscribed to or left since the last sync
}

type outgoing[T any] struct {
	topic   string
	message T
}

// join returns a link, which connects the bus while Run runs. Topics consist of letters, digits,
// "-" and "_"; messages of other topics stay on this node.
//
// missed is called when messages of some topics may have been missed until now; nil means all
// topics. This is the case
//   - after NATS has confirmed the first subscription of a topic, which is a moment after Handle
//     has returned,
//   - after each connection,
//   - when more messages arrived than fit into the buffer, and
//   - when another node reports that it has lost some.
//
// missed must return at once.
func join[T any](
	c *Conn, name string, bus *pubsub.Bus[T], codec Codec[T], missed func(topics []string),
) *link[T] {
	prefix := c.opts.Prefix + "." + name
	return &link[T]{
		conn: c, bus: bus, codec: codec, log: c.opts.Log, topics: prefix + ".topic.",
		lost: prefix + ".lost", missed: missed,
		out: make(chan outgoing[T], c.opts.Buffer), in: make(chan *nats.Msg, c.opts.Buffer),
		wakeSend: wake.NewNotifier(), wakeSync: wake.NewNotifier(),
		subscribed: map[string]bool{}, changed: map[string]bool{},
	}
}

// Publish sends a message to the other nodes, not to the local bus. It returns at once: a message
// that does not fit into the buffer is dropped and counted.
func (l *link[T]) Publish(topic string, message T) {
	if !isToken(topic) {
		return
	}
	select {
	case l.out <- outgoing[T]{topic, message}:
	default:
		// The buffer is full, so send will take a message from it, and then sees the flag.
		l.unreported.Store(true)
		l.conn.counts.dropped.Add(1)
	}
}

// Run connects the bus until ctx ends. Meanwhile it is the bus's watcher.
func (l *link[T]) Run(ctx context.Context) {
	l.conn.attach(l, func() {
		l.wakeSend.Notify()
		l.wakeSync.Notify()
	})
	l.bus.Watch(l.watch)
	var running sync.WaitGroup
	running.Go(func() { l.send(ctx) })
	running.Go(func() { l.receive(ctx) })
	l.syncSubscriptions(ctx)
	l.bus.Watch(nil)
	l.conn.detach(l)
	running.Wait()
}

// watch marks a topic as changed. If a topic is left and subscribed to again before the next sync,
// its NATS subscription stays.
func (l *link[T]) watch(topic string, subscribed bool) {
	if !isToken(topic) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if subscribed {
		l.subscribed[topic] = true
	} else {
		delete(l.subscribed, topic)
	}
	l.changed[topic] = true
	l.wakeSync.Notify()
}

// drainChanged returns the topics that have changed since the last call, and whether each is
// subscribed to now.
func (l *link[T]) drainChanged() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := l.changed
	for topic := range changed {
		changed[topic] = l.subscribed[topic]
	}
	l.changed = map[string]bool{}
	return changed
}

// drainAll is drainChanged on a new connection, on which every topic that is subscribed to has
// changed.
func (l *link[T]) drainAll() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed = map[string]bool{}
	all := make(map[string]bool, len(l.subscribed))
	for topic := range l.subscribed {
		all[topic] = true
	}
	return all
}

// send sends the messages of the buffer to NATS, in order.
func (l *link[T]) send(ctx context.Context) {
	round := 0
	for {
		select {
		case <-ctx.Done():
			for len(l.out) > 0 {
				l.sendOne(<-l.out)
			}
			return
		case <-l.wakeSend.C():
		case o := <-l.out:
			l.sendOne(o)
		}
		cn := l.conn.connection()
		if cn.round != round {
			if round > 0 {
				// messages that were on their way when the last connection ended may be lost
				l.unreported.Store(true)
			}
			round = cn.round
		}
		// The report is sent when the buffer is empty, so that it comes after all that was lost,
		// and once.
		if cn.connected && len(l.out) == 0 && l.unreported.CompareAndSwap(true, false) {
			if err := cn.nc.Publish(l.lost, nil); err != nil {
				l.unreported.Store(true) // the next connection wakes send
				l.log.Debug("cannot report lost messages to other nodes", "error", err)
			}
		}
	}
}

func (l *link[T]) sendOne(o outgoing[T]) {
	err := nats.ErrDisconnected
	if cn := l.conn.connection(); cn.connected {
		var data []byte
		if data, err = l.codec.Encode(o.message); err == nil {
			err = cn.nc.Publish(l.topics+o.topic, data)
		}
		if err != nil {
			l.log.Debug("cannot publish to other nodes", "topic", o.topic, "error", err)
		}
	}
	if err != nil {
		l.unreported.Store(true)
		l.conn.counts.dropped.Add(1)
		return
	}
	l.conn.counts.sent.Add(1)
}

// receive delivers the messages of other nodes to the bus. It never waits for anything else, so
// that messages do not pile up.
func (l *link[T]) receive(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-l.in:
			if m.Subject == l.lost {
				l.missed(nil)
				continue
			}
			topic := strings.TrimPrefix(m.Subject, l.topics)
			message, err := l.codec.Decode(topic, m.Data)
			if err != nil {
				l.conn.counts.broken.Add(1)
				l.log.DebugContext(ctx, "a message of another node is malformed", "topic", topic,
					"error", err)
				continue
			}
			l.conn.counts.received.Add(1)
			l.bus.Publish(topic, message)
		}
	}
}
