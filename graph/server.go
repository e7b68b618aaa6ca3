package graph

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler"
	"github.com/99designs/gqlgen/graphql/handler/extension"
	"github.com/99designs/gqlgen/graphql/handler/lru"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/auth"
	"parley/chat"
	"parley/errs"
	"parley/model"
)

// Options are the settings of a Server; the zero value serves.
type Options struct {
	Limits         Limits
	AllowedOrigins []string // of web pages beside the server's own; see the README for the form
	TrustedProxies []netip.Prefix
	Introspection  bool
	Log            *slog.Logger // nil means slog.Default
}

// Server answers GraphQL over HTTP, WebSocket and server-sent events, all on one path.
type Server struct {
	http.Handler
	live *live
}

// documents is how many parsed documents are kept.
const documents = 1000

// New makes the server. Drain has to be called before the process stops.
func New(authService *auth.Service, chatService *chat.Service, opts Options) *Server {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	limits := opts.Limits.withDefaults()
	people := &gatherer[model.UserID, *model.User]{find: authService.Users}
	resolver := &Resolver{Auth: authService, Chat: chatService, people: people}
	present := presenter{opts.Log}.present
	connections := &live{open: map[connection]struct{}{}}

	gql := handler.New(NewExecutableSchema(Config{Resolvers: resolver}))
	gql.SetErrorPresenter(present)
	gql.SetRecoverFunc(func(ctx context.Context, reason any) error { return present(ctx, recovered(ctx, reason)) })
	gql.SetQueryCache(shortDocuments{lru.New[*ast.QueryDocument](documents)})
	gql.SetParserTokenLimit(limits.Tokens)
	gql.Use(limits)
	gql.Use(fitsTransport{})
	if opts.Introspection {
		gql.Use(extension.Introspection{})
	} else {
		gql.SetDisableSuggestion(true) // it would tell the schema word by word
	}
	gql.AroundOperations(boundOperations)
	gql.AroundFields(gate)
	gql.AroundResponses(resolver.withLoaders)
	gql.AroundResponses(resolver.withEventsCursor)
	gql.AroundRootFields(resolver.withLoadersAfterEach)

	gql.AddTransport(webSocket{auth: authService, live: connections, streaming: &streaming{present: present}, limits: limits})
	gql.AddTransport(serverSent{auth: authService, live: connections, present: present}) // before POST, which would take it
	gql.AddTransport(transport.POST{})
	gql.AddTransport(transport.GET{})

	h := readWhole(limits.BodyBytes, gql)
	h = identify(authService, opts.TrustedProxies, h)
	h = origins(opts.AllowedOrigins).guard(h)
	return &Server{Handler: h, live: connections}
}

// Drain ends every WebSocket (1012) and server-sent stream so that its client comes back, here or to another node, and
// takes no new ones. Requests that are being answered go on.
func (s *Server) Drain(ctx context.Context) { s.live.drain(ctx) }

// shortDocuments keeps no document that is long: a stranger could fill the memory with them.
type shortDocuments struct {
	graphql.Cache[*ast.QueryDocument]
}

const longDocument = 8 << 10 // bytes

func (c shortDocuments) Add(ctx context.Context, text string, document *ast.QueryDocument) {
	if len(text) <= longDocument {
		c.Cache.Add(ctx, text, document)
	}
}

// fitsTransport refuses a subscription over a transport that would carry only its first event, and a mutation with GET.
type fitsTransport struct{}

var (
	_ graphql.HandlerExtension        = fitsTransport{}
	_ graphql.OperationContextMutator = fitsTransport{}
)

func (fitsTransport) ExtensionName() string                   { return "FitsTransport" }
func (fitsTransport) Validate(graphql.ExecutableSchema) error { return nil }

func (fitsTransport) MutateOperationContext(ctx context.Context, op *graphql.OperationContext) *gqlerror.Error {
	streams := ctx.Value(streamingKey{}) != nil // also a WebSocket, which has begun with a GET
	if op.Operation.Operation == ast.Mutation && !streams && ctx.Value(queriesOnlyKey{}) != nil {
		err := gqlerror.Errorf("A mutation has to be sent with POST: a link on a foreign page could send a GET.")
		err.Extensions = withCode(string(errs.BadUserInput), nil)
		return err
	}
	if op.Operation.Operation != ast.Subscription || streams {
		return nil
	}
	err := gqlerror.Errorf(
		"A subscription needs a WebSocket (%s), or a POST that accepts text/event-stream and nothing else.", subprotocol)
	err.Extensions = withCode(string(errs.BadUserInput), nil)
	return err
}
