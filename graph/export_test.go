package graph

import (
	"context"
	"math"

	"github.com/99designs/gqlgen/graphql"

	"parley/auth"
	"parley/fair"
	"parley/feed"
	"parley/model"
	"parley/wire"
)

// ChangeTransport changes the timeouts of slow clients, which are too long for tests.
func (o *Options) ChangeTransport(change func(*wire.Options)) { o.transport = change }

// Connections counts the live connections of all clients.
func (s *Server) Connections() (n int) {
	s.connections.mu.Lock()
	defer s.connections.mu.Unlock()
	for _, count := range s.connections.open {
		n += count
	}
	return n
}

// BroadcastAnswer returns what all followers with the same selection are sent of the first message,
// or nil if there is no such answer. It calls meanwhile after reading the event, before answering.
func (s *Server) BroadcastAnswer(
	ctx context.Context, viewer model.Actor, id model.ConversationID, query string,
	meanwhile func(),
) ([]byte, error) {
	identity := &identity{}
	identity.grant.Store(&auth.Grant{Actor: viewer})
	ctx = graphql.StartOperationTrace(withIdentity(ctx, identity))
	oc, refused := s.exec.CreateOperationContext(ctx, &graphql.RawParams{Query: query})
	if refused != nil {
		return nil, refused
	}
	_, key, _ := broadcastKeyOf(oc)
	all, err := s.services.Feed.Follow(ctx, viewer, id, &feed.Place{})
	if err != nil {
		return nil, err
	}
	for e, err := range all {
		if err != nil {
			return nil, err
		}
		if e.Kind == model.MessageAdded {
			meanwhile()
			sub := &broadcastSubscription{
				broadcaster: s.broadcaster, oc: oc, ctx: ctx, viewer: viewer, conversation: id,
				key: key,
			}
			return sub.answerForAll(e), nil
		}
	}
	return nil, err
}

// TakeAllTurns makes all operations that are not light wait until release is called.
func (s *Server) TakeAllTurns() (release func()) {
	turns := s.exec.turns
	var all []func()
	for _, t := range []*fair.Semaphore[clientKey]{turns.middle, turns.heavy, turns.events} {
		one, err := t.Acquire(context.Background(), clientKey{network: "test"}, math.MaxInt64)
		if err != nil {
			panic(err)
		}
		all = append(all, one)
	}
	return func() {
		for _, one := range all {
			one()
		}
	}
}
