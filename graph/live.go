package graph

import (
	"context"
	"sync"

	"parley/auth"
	"parley/errs"
	"parley/model"
)

// socket is whose a WebSocket is.
type socket struct {
	who *identity

	mu    sync.Mutex  // guards lease
	lease *auth.Lease // ends the socket with the session; nil when nobody is signed in
}

type socketKey struct{}

// socketOf is the WebSocket that an operation came over, or nil. A nil socket is nobody's, and
// cannot be renewed.
func socketOf(ctx context.Context) *socket {
	s, _ := ctx.Value(socketKey{}).(*socket)
	return s
}

// account is whose the socket is, if anybody's.
func (s *socket) account() *model.UserID {
	if s == nil {
		return nil
	}
	grant := s.who.grant.Load()
	if grant == nil {
		return nil
	}
	return &grant.Actor.UserID
}

// renew has the socket live as long as the new tokens.
func (s *socket) renew(signedIn *auth.SignedIn) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return
	}
	grant := signedIn.Grant()
	s.who.grant.Store(&grant)
	s.lease.Renew(grant)
}

// detach is a context for a socket, which outlives its request: of that it keeps who asked.
func detach(ctx context.Context) context.Context {
	return withIdentity(context.Background(), identityOf(ctx)) //nolint:contextcheck // it has to outlive the request
}

// Init decides who is at the other end of a WebSocket: by the connection's parameters or, where
// they say nothing, by the header that came with the upgrade. A token that is not valid is refused;
// without any, only @public fields are answered.
func (s *Server) Init(ctx context.Context, params map[string]any) (context.Context, error) {
	who := identityOf(ctx)
	if authorization := authorizationIn(params); authorization != "" {
		who = authenticate(ctx, s.services.Auth, authorization).with(who.client)
	}
	if who.err != nil {
		return nil, who.err
	}
	return context.WithValue(withIdentity(ctx, who), socketKey{}, &socket{who: who}), nil
}

func authorizationIn(params map[string]any) string {
	for _, name := range []string{"Authorization", "authorization"} {
		if text, ok := params[name].(string); ok && text != "" {
			return text
		}
	}
	return ""
}

// hold has a connection end with the session of whoever uses it.
func (s *Server) hold(ctx context.Context, end func(reason error)) (release func()) {
	who := identityOf(ctx)
	grant := who.grant.Load()
	if grant == nil {
		return s.holdStranger(holderOf(ctx), end)
	}
	of := holderOf(ctx)
	if !s.connections.begin(of) {
		end(errs.New(errs.RateLimited, "At most %d live connections of one account: end some.", s.connections.max))
		return func() {}
	}
	lease := s.services.Auth.Lease(*grant, end)
	if socket := socketOf(ctx); socket != nil {
		socket.mu.Lock()
		socket.lease = lease
		socket.mu.Unlock()
	}
	gone := s.services.Live.Connected(grant.Actor.UserID)
	return func() {
		gone()
		lease.Release()
		s.connections.finish(of)
	}
}

// holdStranger counts a connection of nobody, which nothing ends: without a bound one client could
// keep any number.
func (s *Server) holdStranger(of holder, end func(reason error)) (release func()) {
	if !s.connections.begin(of) {
		end(errs.New(errs.RateLimited, "At most %d live connections from one address without signing in: sign in, or end some.",
			s.connections.max))
		return func() {}
	}
	return func() { s.connections.finish(of) }
}

// holder is whose a live connection is: an account's or, where nobody is signed in, an address's.
type holder struct {
	account model.UserID
	network string
}

// holderOf is whose a request is.
func holderOf(ctx context.Context) holder {
	who := identityOf(ctx)
	if grant := who.grant.Load(); grant != nil {
		return holder{account: grant.Actor.UserID}
	}
	return holder{network: who.client.Network()}
}

// connections counts the live connections of each holder on this node.
type connections struct {
	max int

	mu   sync.Mutex // guards open
	open map[holder]int
}

// begin reports false where there are as many as may be.
func (c *connections) begin(of holder) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[of] >= c.max {
		return false
	}
	c.open[of]++
	return true
}

func (c *connections) finish(of holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[of]--; c.open[of] == 0 {
		delete(c.open, of)
	}
}

// sameAccount keeps a stream to the account that has begun it.
func sameAccount(stream, request context.Context) bool {
	a, b := identityOf(stream).grant.Load(), identityOf(request).grant.Load()
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Actor.UserID == b.Actor.UserID
}
