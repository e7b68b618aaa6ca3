package graph

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"time"

	"github.com/99designs/gqlgen/graphql"
	gqlgen "github.com/99designs/gqlgen/graphql/executor"

	"parley/auth"
	"parley/chat"
	"parley/document"
	"parley/feed"
	"parley/live"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/wire"
)

// DefaultMaxAnswerBytes is the default of Options.MaxAnswerBytes.
const DefaultMaxAnswerBytes = 2 << 20

// Options are the settings of a Server; the zero value serves.
type Options struct {
	// MaxConnections is how many live connections an account has, or an address without signing in;
	// 0 means any number.
	MaxConnections int
	// MaxOperations is how many operations run at once on a connection; 0 means
	// wire.DefaultMaxOperations.
	MaxOperations int
	// MaxStreams is how many subscriptions an account has of each field over all its conversations;
	// 0 means any number.
	MaxStreams int
	// QueueItems and QueueBytes are how much may wait to be read on a connection; 0 means
	// wire.DefaultQueueItems, and wire.DefaultQueueBytes.
	QueueItems, QueueBytes int
	MaxAnswerBytes         int // of an answer; 0 means DefaultMaxAnswerBytes
	// MaxBodyBytes is the size of a request, or of a WebSocket message; 0 means
	// wire.DefaultMaxMessage.
	MaxBodyBytes int64
	Limits       document.Limits
	// AllowedOrigins are those of web pages, in addition to the server's own (see newOrigins).
	AllowedOrigins []string
	// PublicURL has the server's own origin; empty means that of the host that a request names.
	PublicURL      string
	TrustedProxies []netip.Prefix
	Introspection  bool
	// Documents are the only ones that are answered (see ReadDocuments); nil means all.
	Documents   []string
	Compression bool          // of WebSocket messages
	DrainSpread time.Duration // over which Drain ends connections
	Log         *slog.Logger  // nil means slog.Default

	transport func(*wire.Options) // changes its timeouts in tests
}

// Services are what the API is served from.
type Services struct {
	Auth *auth.Service
	Chat *chat.Service
	Live *live.Service
	Feed *feed.Service
}

// Server answers GraphQL over HTTP, WebSocket and server-sent events, all on one path.
type Server struct {
	http.Handler
	services Services
	wire     *wire.Server
	exec     *executor

	broadcaster *broadcaster
	connections *liveConnections
}

// New returns a server. Drain must be called before the process stops.
func New(services Services, opts Options) *Server {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	resolver := &Resolver{
		Services: services,
		users:    &batcher[model.UserID, *model.User]{find: services.Auth.Users, scope: nodeScope},
		slots:    newSlots(cmp.Or(opts.MaxStreams, math.MaxInt)),
	}
	presenter := presenter{opts.Log}
	present := presenter.present
	maxAnswer := cmp.Or(opts.MaxAnswerBytes, DefaultMaxAnswerBytes)
	turns := newExecutionTurns(maxAnswer)

	schema := NewExecutableSchema(Config{Schema: servedSchema(), Resolvers: resolver})
	reader := document.NewReader(schema.Schema(), document.Options{
		Limits: opts.Limits, MaxPage: store.MaxPage, MaxAnswer: maxAnswer, Texts: longTexts(),
		Introspection: opts.Introspection, Scalars: scalars(),
	})
	exec := &executor{
		Executor: gqlgen.New(schema), reader: reader, turns: turns,
		present: present, aroundRoot: resolver.withLoadersOfRoot,
		recovered: func(ctx context.Context, reason any) error {
			return present(ctx, recovered(ctx, reason))
		},
	}
	exec.SetErrorPresenter(presenter.presentField)
	exec.SetRecoverFunc(exec.recovered)
	exec.AroundOperations(newSchemaAnswers().aroundOperation)
	exec.AroundResponses((&answerer{
		limit: int64(maxAnswer), maxFields: 2 * int64(reader.Limits().Complexity), turns: turns,
		log: opts.Log,
	}).around)
	exec.AroundResponses(withRootFieldOfEvents)
	exec.AroundResponses(resolver.withLoaders)
	exec.AroundResponses(resolver.withEventsCursor)

	s := &Server{
		services: services, exec: exec,
		broadcaster: newBroadcaster(resolver, exec, present),
		connections: &liveConnections{
			max: cmp.Or(opts.MaxConnections, math.MaxInt), open: map[clientKey]int{},
		},
	}
	transport := wire.Options{
		Exec: exec, Present: present, Detach: detach, Init: s.Init,
		OnConnect: s.hold, SameCaller: sameAccount,
		Subscribe: s.broadcaster.subscribe,
		Header:    ratelimit.WriteHeader,
		IsLarge: func(oc *graphql.OperationContext) bool {
			return memoryOf(oc, maxAnswer) > lightMemory
		},
		MaxOperations: opts.MaxOperations, QueueItems: opts.QueueItems, QueueBytes: opts.QueueBytes,
		MaxMessage: int(opts.MaxBodyBytes), Documents: opts.Documents,
		Compression: opts.Compression, DrainSpread: opts.DrainSpread,
	}
	if opts.transport != nil {
		opts.transport(&transport)
	}
	s.wire = wire.New(transport)
	s.Handler = identify(services.Auth, opts.TrustedProxies, s.wire)
	s.Handler = newOrigins(opts.AllowedOrigins, opts.PublicURL, opts.Log).guard(s.Handler)
	return s
}

// Drain ends every WebSocket (1012) and server-sent stream, and refuses new ones: their clients
// come back, here or to another node. When it returns, nothing that was started for one of them
// needs the database. Requests that are being answered go on.
func (s *Server) Drain(ctx context.Context) {
	s.wire.Drain(ctx)
	s.broadcaster.close()
}

// Executor returns what executes operations. With it and Init another transport can carry the API.
func (s *Server) Executor() graphql.GraphExecutor { return s.exec }
