package graph

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"

	"parley/auth"
	"parley/errs"
	"parley/model"
	"parley/ratelimit"
)

// identity is who sends a request, or is at the other end of a live connection: a session, or an
// anonymous client. A token that is not valid does not refuse the request yet, because signing in
// has to work for a client whose old token has expired.
type identity struct {
	// grant is nil without a valid token. On a WebSocket it changes when the session is refreshed
	// over it, while other operations run.
	grant  atomic.Pointer[auth.Grant]
	err    error // why the token that was sent is not valid
	client auth.Client
}

// withClient sets the client of an identity that is not in use yet.
func (i *identity) withClient(client auth.Client) *identity {
	i.client = client
	return i
}

// copy returns an identity that does not change with the original.
func (i *identity) copy() *identity {
	c := &identity{err: i.err, client: i.client}
	c.grant.Store(i.grant.Load())
	return c
}

type identityKey struct{}

func withIdentity(ctx context.Context, i *identity) context.Context {
	return context.WithValue(ctx, identityKey{}, i)
}

// identityOf never returns nil.
func identityOf(ctx context.Context) *identity {
	if i, ok := ctx.Value(identityKey{}).(*identity); ok {
		return i
	}
	return &identity{}
}

var errNoToken = errs.New(errs.Unauthenticated,
	"Sign in first, and send the access token as \"Authorization: Bearer <token>\".")

// actor returns the signed-in user, or UNAUTHENTICATED.
func actor(ctx context.Context) (model.Actor, error) {
	i := identityOf(ctx)
	if grant := i.grant.Load(); grant != nil {
		return grant.Actor, nil
	}
	if i.err != nil {
		return model.Actor{}, i.err
	}
	return model.Actor{}, errNoToken
}

// mustActor is actor for fields that are not @public, which the gate lets only actors reach.
func mustActor(ctx context.Context) model.Actor {
	a, err := actor(ctx)
	if err != nil {
		panic(err) // the gate has a hole
	}
	return a
}

// clientOf returns the device that sends the request.
func clientOf(ctx context.Context) auth.Client { return identityOf(ctx).client }

// clientKey is what limits count by: an account, or the network of an anonymous client.
type clientKey struct {
	account model.UserID
	network string
}

func clientKeyOf(ctx context.Context) clientKey {
	i := identityOf(ctx)
	if grant := i.grant.Load(); grant != nil {
		return clientKey{account: grant.Actor.UserID}
	}
	return clientKey{network: i.client.Network()}
}

// identify reads the identity of a request from the header Authorization.
func identify(service *auth.Service, proxies proxies, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := authenticate(r.Context(), service, r.Header.Get("Authorization")).
			withClient(auth.Client{UserAgent: r.UserAgent(), IP: proxies.clientIP(r)})
		next.ServeHTTP(w, r.WithContext(withIdentity(ratelimit.WithUsage(r.Context()), i)))
	})
}

func authenticate(ctx context.Context, service *auth.Service, authorization string) *identity {
	if authorization == "" {
		return &identity{}
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return &identity{err: errs.New(errs.Unauthenticated,
			"The Authorization has to be \"Bearer <token>\".")}
	}
	grant, err := service.Authenticate(ctx, strings.TrimSpace(token))
	if err != nil {
		return &identity{err: err}
	}
	i := new(identity)
	i.grant.Store(&grant)
	return i
}
