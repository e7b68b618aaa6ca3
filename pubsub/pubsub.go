// Package pubsub has topics inside one process: whoever publishes on a topic reaches every subscription that it has then.
//
// What is published is a hint that something has happened, never the only record of it: a subscription that falls behind
// loses hints, is told so, and its owner reads what happened from the database.
//
// # Concurrency
//
// Publish never waits: it puts the message into each subscription's bounded queue, or ends a subscription whose queue is
// full. Within one topic, messages of one publisher arrive in the order in which they were published; those of several have
// no order. The bus makes each subscription's channel and is the only one to close it.
package pubsub

import "sync"

// Bus is a set of topics that carry messages of one type.
type Bus[T any] struct {
	mu     sync.RWMutex // guards topics, the sets in it, and each subscription's ended and overflowed
	topics map[string]map[*Subscription[T]]struct{}
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
	}
	b.topics[topic][s] = struct{}{}
	return s
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
	}
	close(s.queue)
}
