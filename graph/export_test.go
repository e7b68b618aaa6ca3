package graph

import (
	"github.com/99designs/gqlgen/graphql"

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

// AroundFields has something done before fields are resolved. It has to be called before anything is asked.
func (s *Server) AroundFields(f graphql.FieldMiddleware) { s.exec.AroundFields(f) }
