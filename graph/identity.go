package graph

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/99designs/gqlgen/graphql"

	"parley/auth"
	"parley/errs"
	"parley/model"
	"parley/ratelimit"
)

// identity is who asks. A token that was sent and is not valid does no harm to what needs none:
// signing in has to work for a client whose old token has expired.
type identity struct {
	// grant is nil without a valid token. On a WebSocket it changes when the session is refreshed
	// over it, while other operations run.
	grant  atomic.Pointer[auth.Grant]
	err    error // why the token that was sent is not valid
	client auth.Client
}

func (who *identity) with(client auth.Client) *identity {
	who.client = client
	return who
}

// copy is for what is to change apart from the original.
func (who *identity) copy() *identity {
	c := &identity{err: who.err, client: who.client}
	c.grant.Store(who.grant.Load())
	return c
}

type identityKey struct{}

func withIdentity(ctx context.Context, who *identity) context.Context {
	return context.WithValue(ctx, identityKey{}, who)
}

// identityOf never returns nil.
func identityOf(ctx context.Context) *identity {
	if who, ok := ctx.Value(identityKey{}).(*identity); ok {
		return who
	}
	return &identity{}
}

var errNoToken = errs.New(errs.Unauthenticated,
	"Sign in first, and send the access token as \"Authorization: Bearer <token>\".")

// actor is who asks, or UNAUTHENTICATED.
func actor(ctx context.Context) (model.Actor, error) {
	who := identityOf(ctx)
	if grant := who.grant.Load(); grant != nil {
		return grant.Actor, nil
	}
	if who.err != nil {
		return model.Actor{}, who.err
	}
	return model.Actor{}, errNoToken
}

// signIn makes a person who has just signed in the one who asks, for what stands below the field
// that signed them in.
func signIn(ctx context.Context, signedIn *auth.SignedIn) *AuthPayload {
	grant := signedIn.Grant()
	identityOf(ctx).grant.Store(&grant)
	return &AuthPayload{Tokens: &signedIn.Tokens, Viewer: &Viewer{User: signedIn.User}, UserErrors: []*UserError{}}
}

// gate is the one place that holds the rule of the schema: every field needs a signed-in viewer
// unless it is @public. It also counts what each field adds to the answer.
func gate(ctx context.Context, next graphql.Resolver) (any, error) {
	field := graphql.GetFieldContext(ctx)
	if !isPublic(field.Object, field.Field) {
		if _, err := actor(ctx); err != nil {
			return nil, err
		}
	}
	a := answerOf(ctx)
	if a != nil {
		if err := a.begin(ctx); err != nil {
			return nil, err
		}
	}
	mutation := field.Object == "Mutation"
	if mutation {
		// A copy for each: signing in with one field of a document signs nobody in for the next.
		ctx = withIdentity(ctx, identityOf(ctx).copy())
	}
	value, err := next(ctx)
	if a == nil || err != nil {
		return value, err
	}
	if mutation {
		a.ranField(field.Field.Alias)
	}
	return value, a.charge(ctx, field.Field.Alias, value)
}

func isPublic(object string, field graphql.CollectedField) bool {
	// introspection
	return strings.HasPrefix(field.Name, "__") || strings.HasPrefix(object, "__") ||
		field.Definition.Directives.ForName("public") != nil
}

// identify reads the Authorization header.
func identify(service *auth.Service, proxies proxies, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := authenticate(r.Context(), service, r.Header.Get("Authorization")).
			with(auth.Client{UserAgent: r.UserAgent(), IP: proxies.clientIP(r)})
		next.ServeHTTP(w, r.WithContext(withIdentity(ratelimit.WithUsage(r.Context()), who)))
	})
}

func authenticate(ctx context.Context, service *auth.Service, authorization string) *identity {
	if authorization == "" {
		return &identity{}
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return &identity{err: errs.New(errs.Unauthenticated, "The Authorization has to be \"Bearer <token>\".")}
	}
	grant, err := service.Authenticate(ctx, strings.TrimSpace(token))
	if err != nil {
		return &identity{err: err}
	}
	who := new(identity)
	who.grant.Store(&grant)
	return who
}
