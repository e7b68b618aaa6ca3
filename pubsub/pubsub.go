// Package pubsub has topics inside one process: whoever publishes on a topic reaches every subscription that it has then.
//
// What is published is a hint that something has happened, never the only record of it: a subscription that falls behind
// loses hints, is told so, and its owner reads what happened from the database.
//
// # Concurrency
//
// Publish never waits: it puts the message into each subscription's bounded queue, or ends a subscription whose queue is
// full. Within one topic, messages of one publisher arrive in the order in which they were published; those of several have
// no order. The bus makes each subscription's channel and is the only one to close it. A watcher is called with the bus locked,
// so that what it hears has an order; it may lock what is its own, and never calls the bus.
package pubsub

import "sync"

// Bus is a set of topics that carry messages of one type.
type Bus[T any] struct {
	mu      sync.RWMutex // guards watcher, topics, the sets in it, and each subscription's ended and overflowed
	topics  map[string]map[*Subscription[T]]struct{}
	watcher func(topic string, here bool)
}

// New makes a bus without topics: a topic is there while somebody is subscribed to it.
func New[T any]() *Bus[T] {
	return &Bus[T]{topics: map[string]map[*Subscription[T]]struct{}{}}
}

// Subscription is one listener on one topic.
type Subscription[T any] struct {
	// C delivers what is published from the moment of subscribing. It is closed after what was queued when the
	// subscription ends: by Close, or because the queue was full.
	C <-chan T

	bus        *Bus[T]
	topic      string
	queue      chan T
	ended      bool
	overflowed bool
}

// Subscribe listens on a topic, with a queue of size messages, at least 1.
func (b *Bus[T]) Subscribe(topic string, size int) *Subscription[T] {
	queue := make(chan T, max(size, 1))
	s := &Subscription[T]{C: queue, bus: b, topic: topic, queue: queue}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics[topic] == nil {
		b.topics[topic] = map[*Subscription[T]]struct{}{}
		if b.watcher != nil {
			b.watcher(topic, true)
		}
	}
	b.topics[topic][s] = struct{}{}
	return s
}

// Watch has watcher told of each topic that gets its first subscription (here) or has lost its last one, one after the other
// and in the order in which it happens, beginning with those that are there. It must return at once, and not call the bus.
// A bus has one watcher; nil ends that.
//
// Subscribe returns after the watcher has been told. Whoever subscribes and then reads what is stored so knows that the
// watcher heard of the topic before the reading.
func (b *Bus[T]) Watch(watcher func(topic string, here bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watcher = watcher
	if watcher == nil {
		return
	}
	for topic := range b.topics {
		watcher(topic, true)
	}
}

// Publish hands a message to every subscription of the topic, and returns at once.
func (b *Bus[T]) Publish(topic string, message T) {
	var full []*Subscription[T]
	b.mu.RLock()
	for s := range b.topics[topic] {
		select {
		case s.queue <- message:
		default:
			full = append(full, s)
		}
	}
	b.mu.RUnlock()
	if full == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range full {
		s.overflowed = s.overflowed || !s.ended
		s.end()
	}
}

// Topics lists the topics that have a subscription, in no order.
func (b *Bus[T]) Topics() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	topics := make([]string, 0, len(b.topics))
	for topic := range b.topics {
		topics = append(topics, topic)
	}
	return topics
}

// Overflowed reports, once C is closed, that the queue was full and messages were lost.
func (s *Subscription[T]) Overflowed() bool {
	s.bus.mu.RLock()
	defer s.bus.mu.RUnlock()
	return s.overflowed
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription[T]) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.end()
}

// end needs the bus's lock, which keeps every publisher from the channel that it closes.
func (s *Subscription[T]) end() {
	if s.ended {
		return
	}
	s.ended = true
	subscriptions := s.bus.topics[s.topic]
	delete(subscriptions, s)
	if len(subscriptions) == 0 {
		delete(s.bus.topics, s.topic)
		if s.bus.watcher != nil {
			s.bus.watcher(s.topic, false)
		}
	}
	close(s.queue)
}
