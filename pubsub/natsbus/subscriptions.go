package natsbus

import (
	"context"

	"github.com/nats-io/nats.go"
)

// syncSubscriptions keeps one NATS subscription for each topic that is subscribed to.
func (l *link[T]) syncSubscriptions(ctx context.Context) {
	s := subscriptions[T]{link: l, byTopic: map[string]*nats.Subscription{}}
	defer s.unsubscribe()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wakeSync.C():
			s.sync(ctx)
		}
	}
}

// subscriptions are the NATS subscriptions of a link.
type subscriptions[T any] struct {
	*link[T]
	nc          *nats.Conn // the connection that they belong to
	byTopic     map[string]*nats.Subscription
	ofLost      *nats.Subscription
	round       int      // the last one that was seen, of Conn.round
	missedCount uint64   // the last one that was seen, of Conn.counts
	unconfirmed []string // topics that were subscribed to, of which NATS may not know yet
	missedAll   bool     // messages of any topic may have been missed
}

// sync subscribes and unsubscribes to follow the bus, and reports what may have been missed.
func (s *subscriptions[T]) sync(ctx context.Context) {
	cn := s.conn.connection()
	if cn.nc == nil {
		s.drainChanged() // drainAll has them when the first connection is there
		return
	}
	var changed map[string]bool
	if s.nc != cn.nc {
		s.nc, s.byTopic, s.ofLost = cn.nc, map[string]*nats.Subscription{}, nil
		changed = s.drainAll()
		s.ofLost = s.subscribe(s.lost)
	} else {
		changed = s.drainChanged()
	}
	for topic, subscribed := range changed {
		switch sub := s.byTopic[topic]; {
		case subscribed && sub == nil:
			if sub = s.subscribe(s.topics + topic); sub != nil {
				s.byTopic[topic] = sub
				s.unconfirmed = append(s.unconfirmed, topic)
			}
		case !subscribed && sub != nil:
			_ = sub.Unsubscribe() // fails only if the connection is closed, which ends it too
			delete(s.byTopic, topic)
		}
	}
	if cn.round != s.round {
		s.round, s.missedAll = cn.round, true
	}
	if missed := s.conn.counts.missed.Load(); missed != s.missedCount {
		s.missedCount, s.missedAll = missed, true
	}
	if !cn.connected || len(s.unconfirmed) == 0 && !s.missedAll {
		return // the next connection wakes it
	}
	if err := cn.flush(ctx); err != nil {
		if ctx.Err() == nil && s.conn.connection().connected {
			s.wakeSync.Notify() // tries again: unconfirmed and missedAll are still set
		}
		return
	}
	topics := s.unconfirmed
	if s.missedAll {
		topics = nil
	}
	s.unconfirmed, s.missedAll = nil, false
	s.missed(topics)
}

// subscribe returns nil if the connection is closed. Then the next one subscribes to everything.
func (s *subscriptions[T]) subscribe(subject string) *nats.Subscription {
	sub, err := s.nc.ChanSubscribe(subject, s.in)
	if err != nil {
		s.log.Debug("cannot subscribe at NATS", "subject", subject, "error", err)
		return nil
	}
	return sub
}

func (s *subscriptions[T]) unsubscribe() {
	if s.ofLost != nil {
		_ = s.ofLost.Unsubscribe()
	}
	for _, sub := range s.byTopic {
		_ = sub.Unsubscribe()
	}
}
