// Package pubsub has topics inside one process: whoever publishes on a topic reaches every
// subscription that it has then.
//
// What is published is a hint that something has happened, never the only record of it.
//
// # Concurrency
//
// Publish calls the handlers of the topic and returns. Within one topic, messages of one publisher
// come in the order in which they were published; those of several have no order. A handler or a
// watcher is called with the bus locked, so that what it hears has an order; it may lock what is
// its own, returns at once, and never calls the bus.
package pubsub

import "sync"

// Bus is a set of topics that carry messages of one type.
type Bus[T any] struct {
	mu      sync.RWMutex // guards what follows, and each subscription's ended
	topics  map[string]map[*Subscription[T]]struct{}
	watcher func(topic string, here bool)
}

// New makes a bus without topics: a topic is there while somebody is subscribed to it.
func New[T any]() *Bus[T] {
	return &Bus[T]{topics: map[string]map[*Subscription[T]]struct{}{}}
}

// Subscription is one handler on one topic.
type Subscription[T any] struct {
	bus    *Bus[T]
	topic  string
	handle func(T)
	ended  bool
}

// Handle has fn called with what is published on a topic, until the subscription is closed; there
// are no calls any more once Close has returned. fn is called by the publishers, several at once,
// with the bus locked: it must return at once, and not call the bus.
func (b *Bus[T]) Handle(topic string, fn func(T)) *Subscription[T] {
	s := &Subscription[T]{bus: b, topic: topic, handle: fn}
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

// Watch has watcher told of each topic that gets its first subscription (here) or has lost its last
// one, one after the other and in the order in which it happens, beginning with those that are
// there. It must return at once, and not call the bus. A bus has one watcher; nil ends that.
//
// Handle returns after the watcher has been told. Whoever subscribes and then reads what is stored
// so knows that the watcher heard of the topic before the reading.
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

// Publish hands a message to every subscription of the topic.
func (b *Bus[T]) Publish(topic string, message T) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for s := range b.topics[topic] {
		s.handle(message)
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

// Close ends the subscription. It may be called more than once.
func (s *Subscription[T]) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
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
}
