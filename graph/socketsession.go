package graph

import (
	"context"
	"sync"

	"parley/auth"
	"parley/model"
)

// socketSession is the session of a WebSocket. It changes when the session is refreshed over the
// socket.
type socketSession struct {
	identity *identity

	mu    sync.Mutex  // guards lease
	lease *auth.Lease // ends the socket with its session; nil for an anonymous client
}

type socketSessionKey struct{}

// socketSessionOf returns the session of the WebSocket that an operation came over, or nil. A nil
// socketSession has no account, and renewing it does nothing.
func socketSessionOf(ctx context.Context) *socketSession {
	s, _ := ctx.Value(socketSessionKey{}).(*socketSession)
	return s
}

// account returns nil for an anonymous client.
func (s *socketSession) account() *model.UserID {
	if s == nil {
		return nil
	}
	grant := s.identity.grant.Load()
	if grant == nil {
		return nil
	}
	return &grant.Actor.UserID
}

// renew extends the life of the socket to that of the new tokens.
func (s *socketSession) renew(signedIn *auth.SignedIn) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return
	}
	grant := signedIn.Grant()
	s.identity.grant.Store(&grant)
	s.lease.Renew(grant)
}

func (s *socketSession) setLease(lease *auth.Lease) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease = lease
}

// Init authenticates a WebSocket: by the parameters of connection_init or, if they have no
// Authorization, by the header of the upgrade. It refuses a token that is not valid. Without a
// token, the client is anonymous, and only @public fields are answered.
func (s *Server) Init(ctx context.Context, params map[string]any) (context.Context, error) {
	i := identityOf(ctx)
	if authorization := authorizationIn(params); authorization != "" {
		i = authenticate(ctx, s.services.Auth, authorization).withClient(i.client)
	}
	if i.err != nil {
		return nil, i.err
	}
	session := &socketSession{identity: i}
	return context.WithValue(withIdentity(ctx, i), socketSessionKey{}, session), nil
}

func authorizationIn(params map[string]any) string {
	for _, name := range []string{"Authorization", "authorization"} {
		if text, ok := params[name].(string); ok && text != "" {
			return text
		}
	}
	return ""
}
