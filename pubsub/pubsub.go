// Package pubsub delivers messages within one process, by topic: a message reaches every
// subscription that its topic has when it is published.
//
// A message is a hint that something has happened, never the only record of it.
//
// # Concurrency
//
// Publish calls the handlers of the topic and returns. A handler gets the messages of one publisher
// on one topic in the order in which they were published. Those of several publishers have no
// order.
//
// Lock order: the bus → the locks that handlers and the watcher take. They are called with the bus
// locked, must return at once and must not call the bus.
package pubsub

import "sync"

// Bus is a set of topics that carry messages of one type.
type Bus[T any] struct {
	mu      sync.RWMutex // guards what follows, and the field ended of subscriptions
	topics  map[string]map[*Subscription[T]]struct{}
	watcher func(topic string, subscribed bool)
}

// New returns a bus without topics. A topic exists while it has a subscription.
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

// Handle calls fn with each message of a topic until the subscription is closed. After Close has
// returned there are no calls. Publishers call fn themselves, several at a time, with the bus
// locked: it must return at once and must not call the bus.
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

// Watch sets the watcher of the bus, which is called when a topic gets its first subscription
// (subscribed is true) or loses its last one. The calls come one after the other, in the order of
// the changes; the first ones are for the topics that exist. The watcher must return at once and
// must not call the bus. nil ends the watching.
//
// Handle returns after the watcher was called. So a caller that subscribes and then reads from the
// database knows that the watcher knew the topic before the read.
func (b *Bus[T]) Watch(watcher func(topic string, subscribed bool)) {
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

// Publish delivers a message to every subscription of the topic.
func (b *Bus[T]) Publish(topic string, message T) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for s := range b.topics[topic] {
		s.handle(message)
	}
}

// Topics returns the topics that have a subscription, in no order.
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
