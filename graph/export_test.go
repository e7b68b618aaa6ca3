package graph

import (
	"context"
	"math"

	"github.com/99designs/gqlgen/graphql"

	"parley/auth"
	"parley/fair"
	"parley/model"
	"parley/wire"
)

// ChangeTransport is for tests that have no time for a slow client's real ones.
func (o *Options) ChangeTransport(change func(*wire.Options)) { o.transport = change }

// Connections counts those that are live, of everybody.
func (s *Server) Connections() (n int) {
	s.connections.mu.Lock()
	defer s.connections.mu.Unlock()
	for _, of := range s.connections.open {
		n += of
	}
	return n
}

// SharedAnswer is what all followers who asked the same are sent of the first message; nil where
// each has to make their own. Between reading the event and the answer, meanwhile happens.
func (s *Server) SharedAnswer(
	ctx context.Context, who model.Actor, id model.ConversationID, query string, meanwhile func(),
) ([]byte, error) {
	identity := &identity{}
	identity.grant.Store(&auth.Grant{Actor: who})
	ctx = graphql.StartOperationTrace(withIdentity(ctx, identity))
	oc, refused := s.exec.CreateOperationContext(ctx, &graphql.RawParams{Query: query})
	if refused != nil {
		return nil, refused
	}
	_, asked, _ := s.shared.sharable(oc)
	all, err := s.services.Feed.Follow(ctx, who, id, new(int64))
	if err != nil {
		return nil, err
	}
	for e, err := range all {
		if err != nil {
			return nil, err
		}
		if e.Kind == model.MessageAdded {
			meanwhile()
			sh := &sharing{shared: s.shared, oc: oc, ctx: ctx, who: who, id: id, asked: asked}
			return sh.answerTo(e), nil
		}
	}
	return nil, err
}

// TakeAllTurns has whatever is not light wait until it is released.
func (s *Server) TakeAllTurns() (release func()) {
	var all []func()
	for _, t := range []*fair.Semaphore[holder]{s.exec.turns.middle, s.exec.turns.heavy, s.exec.turns.events} {
		one, err := t.Acquire(context.Background(), holder{network: "test"}, math.MaxInt64)
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
