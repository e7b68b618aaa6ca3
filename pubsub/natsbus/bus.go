package natsbus

import (
	"context"
	"sync/atomic"

	"parley/pubsub"
)

// Bus is a pubsub.Bus whose messages reach the handlers of all nodes. Without a Conn it is the bus
// of one node.
type Bus[T any] struct {
	local       *pubsub.Bus[T]
	link        *link[T] // nil on a node alone
	interceptor atomic.Pointer[func(topic string, message T)]
}

// NewBus returns a bus, which is connected with the buses of the same name on other nodes. conn is
// nil on a node alone, which needs neither codec nor missed. See join for which topics leave the
// node, and for when missed is called.
func NewBus[T any](conn *Conn, name string, codec Codec[T], missed func(topics []string)) *Bus[T] {
	b := &Bus[T]{local: pubsub.New[T]()}
	if conn != nil {
		b.link = join(conn, name, b.local, codec, missed)
	}
	return b
}

// Run connects the bus with those of the other nodes until ctx ends. On a node alone it waits for
// that and does nothing.
func (b *Bus[T]) Run(ctx context.Context) {
	if b.link == nil {
		<-ctx.Done()
		return
	}
	b.link.Run(ctx)
}

// Publish delivers a message to the handlers of the topic on this node, and then sends it to the
// other nodes. It never waits for the network.
func (b *Bus[T]) Publish(topic string, message T) {
	if intercept := b.interceptor.Load(); intercept != nil {
		(*intercept)(topic, message)
		return
	}
	b.PublishLocal(topic, message)
	b.PublishRemote(topic, message)
}

// PublishLocal delivers a message to the handlers of the topic on this node alone.
func (b *Bus[T]) PublishLocal(topic string, message T) { b.local.Publish(topic, message) }

// PublishRemote sends a message to the other nodes alone. A message that does not fit into the
// buffer is dropped and counted.
func (b *Bus[T]) PublishRemote(topic string, message T) {
	if b.link != nil {
		b.link.Publish(topic, message)
	}
}

// Intercept makes Publish call fn in place of delivering the message; nil ends that. Tests use it
// to lose, double, delay and reorder messages: fn delivers those that it lets through with
// PublishLocal and PublishRemote, which are not intercepted. Messages of other nodes are not
// intercepted either.
func (b *Bus[T]) Intercept(fn func(topic string, message T)) {
	if fn == nil {
		b.interceptor.Store(nil)
		return
	}
	b.interceptor.Store(&fn)
}

// Handle calls fn with each message of a topic until the subscription is closed. See
// pubsub.Bus.Handle for what fn may do.
func (b *Bus[T]) Handle(topic string, fn func(T)) *pubsub.Subscription[T] {
	return b.local.Handle(topic, fn)
}

// Topics lists the topics that have a subscription on this node, in no order.
func (b *Bus[T]) Topics() []string { return b.local.Topics() }
