package graph

import (
	"context"
	"sync"

	"parley/errs"
)

// liveConnections counts the WebSockets and server-sent streams of each client on this node.
type liveConnections struct {
	max int

	mu   sync.Mutex // guards open
	open map[clientKey]int
}

// acquire reports false if the client has as many as it may have.
func (c *liveConnections) acquire(key clientKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[key] >= c.max {
		return false
	}
	c.open[key]++
	return true
}

func (c *liveConnections) release(key clientKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[key]--; c.open[key] == 0 {
		delete(c.open, key)
	}
}

// hold registers a live connection until it is released. The connection ends with its session, and
// its user is online. If the client has too many connections, it ends at once with RATE_LIMITED.
func (s *Server) hold(ctx context.Context, end func(reason error)) (release func()) {
	key := clientKeyOf(ctx)
	grant := identityOf(ctx).grant.Load()
	if !s.connections.acquire(key) {
		tooMany := "At most %d live connections of one account: end some."
		if grant == nil {
			tooMany = "At most %d live connections from one address without signing in: " +
				"sign in, or end some."
		}
		end(errs.New(errs.RateLimited, tooMany, s.connections.max))
		return func() {}
	}
	if grant == nil {
		return func() { s.connections.release(key) } // an anonymous client: no session ends it
	}
	lease := s.services.Auth.Lease(*grant, end)
	socketSessionOf(ctx).setLease(lease)
	disconnected := s.services.Live.Connected(grant.Actor.UserID)
	return func() {
		disconnected()
		lease.Release()
		s.connections.release(key)
	}
}

// detach returns a context for a WebSocket, which outlives its request. It keeps the identity.
func detach(ctx context.Context) context.Context {
	return withIdentity(context.Background(), identityOf(ctx)) //nolint:contextcheck // see above
}

// sameAccount reports whether a request is of the account that opened a stream, or both are
// anonymous.
func sameAccount(stream, request context.Context) bool {
	a, b := identityOf(stream).grant.Load(), identityOf(request).grant.Load()
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Actor.UserID == b.Actor.UserID
}
