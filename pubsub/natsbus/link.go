package natsbus

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"parley/pubsub"
)

// Codec says what messages look like between nodes. What cannot be decoded is dropped: anybody who
// may publish on the subjects can have sent it.
type Codec[T any] struct {
	Encode func(message T) ([]byte, error)
	Decode func(topic string, data []byte) (T, error)
}

// Link joins one bus with the buses of the same name on other nodes.
type Link[T any] struct {
	conn   *Conn
	bus    *pubsub.Bus[T]
	codec  Codec[T]
	log    *slog.Logger
	topics string // the subject of a topic, without the topic
	lost   string // the subject by which a node tells that it has lost messages
	missed func(topics []string)

	out chan outgoing[T] // what waits to leave
	in  chan *nats.Msg   // what has arrived
	// unsaid says that messages of this node were lost on their way out, and that the others do not
	// know it yet.
	unsaid atomic.Bool
	leave  chan struct{} // rings for send
	look   chan struct{} // rings for keep

	mu      sync.Mutex // guards what follows; the bus is locked before it, see Bus.Watch
	here    map[string]bool
	changed map[string]bool
}

type outgoing[T any] struct {
	topic   string
	message T
}

// Join prepares the joining of a bus, which Run does. Topics have to be of letters, digits, - and
// _; others stay local.
//
// missed is called when messages of these topics may have been missed until now; nil are all
// topics. That is so after the first subscription of a topic was made known to NATS, which takes a
// moment longer than making it; after each connection; when more came than fitted; and when another
// node says that it has lost some. It must return at once.
func Join[T any](c *Conn, name string, bus *pubsub.Bus[T], codec Codec[T], missed func(topics []string)) *Link[T] {
	prefix := c.opts.Prefix + "." + name
	return &Link[T]{
		conn: c, bus: bus, codec: codec, log: c.opts.Log, topics: prefix + ".topic.", lost: prefix + ".lost", missed: missed,
		out: make(chan outgoing[T], c.opts.Buffer), in: make(chan *nats.Msg, c.opts.Buffer),
		leave: make(chan struct{}, 1), look: make(chan struct{}, 1),
		here: map[string]bool{}, changed: map[string]bool{},
	}
}

// Publish tells the other nodes, and returns at once: what does not fit is dropped and counted. The
// local bus is not told.
func (l *Link[T]) Publish(topic string, message T) {
	if !isToken(topic) {
		return
	}
	select {
	case l.out <- outgoing[T]{topic, message}:
	default:
		// The buffer is full, so send is yet to take something from it, and then sees that there is
		// something to say.
		l.unsaid.Store(true)
		l.conn.counts.dropped.Add(1)
	}
}

// Run joins the bus until ctx ends. It is the bus's watcher meanwhile.
func (l *Link[T]) Run(ctx context.Context) {
	l.conn.attach(l, func() {
		ring(l.leave)
		ring(l.look)
	})
	l.bus.Watch(l.watch)
	var running sync.WaitGroup
	running.Go(func() { l.send(ctx) })
	running.Go(func() { l.receive(ctx) })
	l.keep(ctx)
	l.bus.Watch(nil)
	l.conn.detach(l)
	running.Wait()
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it rings already
	}
}

// watch marks and rings: of a topic that goes and comes back before keep has looked, nothing is
// seen but that it is there, and its subscription stays.
func (l *Link[T]) watch(topic string, here bool) {
	if !isToken(topic) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if here {
		l.here[topic] = true
	} else {
		delete(l.here, topic)
	}
	l.changed[topic] = true
	ring(l.look)
}

// takeChanged takes what has changed since the last time: whether each of these topics is there
// now.
func (l *Link[T]) takeChanged() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := l.changed
	for topic := range changed {
		changed[topic] = l.here[topic]
	}
	l.changed = map[string]bool{}
	return changed
}

// allHere is every topic that is there.
func (l *Link[T]) allHere() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed = map[string]bool{}
	all := make(map[string]bool, len(l.here))
	for topic := range l.here {
		all[topic] = true
	}
	return all
}

// keep holds one NATS subscription for each topic that is there.
func (l *Link[T]) keep(ctx context.Context) {
	k := keeper[T]{Link: l, subs: map[string]*nats.Subscription{}}
	defer k.end()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.look:
			k.turn(ctx)
		}
	}
}

type keeper[T any] struct {
	*Link[T]
	nc     *nats.Conn // whose subscriptions subs are
	subs   map[string]*nats.Subscription
	lost   *nats.Subscription
	round  int
	fresh  []string // subscribed to, but the server may not know yet
	missed uint64
	all    bool // something may have been missed on any topic
}

// turn brings the subscriptions in line with the topics, and tells what may have been missed
// before.
func (k *keeper[T]) turn(ctx context.Context) {
	cn := k.conn.connection()
	if cn.nc == nil {
		// or the marks would pile up; the first connection begins with all that are here
		k.takeChanged()
		return
	}
	var changed map[string]bool
	if k.nc != cn.nc {
		k.nc, k.subs, k.lost = cn.nc, map[string]*nats.Subscription{}, nil
		changed = k.allHere()
		k.subscribe(k.Link.lost, &k.lost)
	} else {
		changed = k.takeChanged()
	}
	for topic, here := range changed {
		switch sub := k.subs[topic]; {
		case here && sub == nil:
			if k.subscribe(k.topics+topic, &sub); sub != nil {
				k.subs[topic] = sub
				k.fresh = append(k.fresh, topic)
			}
		case !here && sub != nil:
			// which fails only when the connection is closed, and the subscription with it
			_ = sub.Unsubscribe()
			delete(k.subs, topic)
		}
	}
	if cn.round != k.round {
		k.round, k.all = cn.round, true
	}
	if missed := k.conn.counts.missed.Load(); missed != k.missed {
		k.missed, k.all = missed, true
	}
	if !cn.connected || len(k.fresh) == 0 && !k.all {
		return // without a connection, the next one rings
	}
	if err := cn.flush(ctx); err != nil {
		if ctx.Err() == nil && k.conn.connection().connected {
			ring(k.look) // the marks are kept, for another try
		}
		return
	}
	fresh := k.fresh
	if k.all {
		fresh = nil
	}
	k.fresh, k.all = nil, false
	k.Link.missed(fresh)
}

// subscribe fails only on a connection that is closed, and then everything is done anew on the
// next.
func (k *keeper[T]) subscribe(subject string, into **nats.Subscription) {
	sub, err := k.nc.ChanSubscribe(subject, k.in)
	if err != nil {
		k.log.Debug("cannot subscribe at NATS", "subject", subject, "error", err)
		return
	}
	*into = sub
}

func (k *keeper[T]) end() {
	if k.lost != nil {
		_ = k.lost.Unsubscribe()
	}
	for _, sub := range k.subs {
		_ = sub.Unsubscribe()
	}
}

// send hands the buffer over to NATS, in order.
func (l *Link[T]) send(ctx context.Context) {
	round := 0
	for {
		select {
		case <-ctx.Done():
			for len(l.out) > 0 {
				l.sendOne(<-l.out)
			}
			return
		case <-l.leave:
		case o := <-l.out:
			l.sendOne(o)
		}
		cn := l.conn.connection()
		if cn.round != round {
			if round > 0 {
				// nobody knows what was under way when the connection before this one ended
				l.unsaid.Store(true)
			}
			round = cn.round
		}
		// Not while more is waiting: what is told of has to be behind what is lost, and once is
		// enough.
		if cn.connected && len(l.out) == 0 && l.unsaid.CompareAndSwap(true, false) {
			if err := cn.nc.Publish(l.lost, nil); err != nil {
				l.unsaid.Store(true) // the next connection rings
				l.log.Debug("cannot tell other nodes that messages were lost", "error", err)
			}
		}
	}
}

func (l *Link[T]) sendOne(o outgoing[T]) {
	err := nats.ErrDisconnected
	if cn := l.conn.connection(); cn.connected {
		var data []byte
		if data, err = l.codec.Encode(o.message); err == nil {
			err = cn.nc.Publish(l.topics+o.topic, data)
		}
		if err != nil {
			l.log.Debug("cannot tell other nodes", "topic", o.topic, "error", err)
		}
	}
	if err != nil {
		l.unsaid.Store(true)
		l.conn.counts.dropped.Add(1)
		return
	}
	l.conn.counts.sent.Add(1)
}

// receive hands on what other nodes have published. It never waits for anybody, so that what has
// arrived does not pile up.
func (l *Link[T]) receive(ctx context.Context) {
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
				l.log.DebugContext(ctx, "a message of another node is broken", "topic", topic, "error", err)
				continue
			}
			l.conn.counts.received.Add(1)
			l.bus.Publish(topic, message)
		}
	}
}
