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
	// that are live of one account, or of one address without signing in; 0 means any number
	MaxConnections int
	MaxOperations  int // at once on a connection; 0 means wire.DefaultMaxOperations
	// of an account, for each subscription over all its conversations; 0 means any number
	MaxStreams     int
	QueueItems     int   // that wait to be read on a connection; 0 means wire.DefaultQueueItems
	QueueBytes     int   // the same in bytes; 0 means wire.DefaultQueueBytes
	MaxAnswerBytes int   // of an answer; 0 means DefaultMaxAnswerBytes
	MaxBodyBytes   int64 // of a request, or of a WebSocket message; 0 means wire.DefaultMaxMessage
	Limits         document.Limits
	AllowedOrigins []string // of web pages beside the server's own; see the README for the form
	// whose origin is the server's own; empty means that of the host a request names
	PublicURL      string
	TrustedProxies []netip.Prefix
	Introspection  bool
	// the only ones that are answered, see ReadDocuments; nil means all
	Documents   []string
	Compression bool          // of WebSocket messages
	DrainSpread time.Duration // over which Drain ends connections
	Log         *slog.Logger  // nil means slog.Default

	transport func(*wire.Options) // for tests, which have no time for the real ones
}

// Server answers GraphQL over HTTP, WebSocket and server-sent events, all on one path.
type Server struct {
	http.Handler
	services Services
	wire     *wire.Server
	exec     *executor

	shared      *shared
	connections *connections
}

// Services are what the API is served from.
type Services struct {
	Auth *auth.Service
	Chat *chat.Service
	Live *live.Service
	Feed *feed.Service
}

// New makes the server. Drain has to be called before the process stops.
func New(services Services, opts Options) *Server {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	people := &gatherer[model.UserID, *model.User]{find: services.Auth.Users}
	resolver := &Resolver{Services: services, people: people, slots: newSlots(cmp.Or(opts.MaxStreams, math.MaxInt))}
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
		Executor: gqlgen.New(schema), present: present, afterRoots: resolver.withLoadersAfterEach, turns: turns, reader: reader,
		recovered: func(ctx context.Context, reason any) error { return present(ctx, recovered(ctx, reason)) },
	}
	exec.SetErrorPresenter(presenter.presentField)
	exec.SetRecoverFunc(exec.recovered)
	exec.AroundOperations(newSchemaAnswers().aroundOperation)
	exec.AroundResponses((&answerer{
		limit: int64(maxAnswer), maxFields: 2 * int64(reader.Limits().Complexity), turns: turns, log: opts.Log,
	}).around)
	exec.AroundResponses(answerOfRoot)
	exec.AroundResponses(resolver.withLoaders)
	exec.AroundResponses(resolver.withEventsCursor)

	s := &Server{
		services: services, exec: exec, shared: newShared(resolver, exec, present),
		connections: &connections{max: cmp.Or(opts.MaxConnections, math.MaxInt), open: map[holder]int{}},
	}
	transport := wire.Options{
		Exec: exec, Present: present, Detach: detach, Init: s.Init, OnConnect: s.hold, SameCaller: sameAccount,
		Subscribe:     s.shared.subscribe,
		Header:        ratelimit.WriteHeader,
		IsLarge:       func(oc *graphql.OperationContext) bool { return memoryOf(oc, maxAnswer) > lightMemory },
		MaxOperations: opts.MaxOperations, QueueItems: opts.QueueItems, QueueBytes: opts.QueueBytes,
		MaxMessage: int(opts.MaxBodyBytes), Documents: opts.Documents, Compression: opts.Compression, DrainSpread: opts.DrainSpread,
	}
	if opts.transport != nil {
		opts.transport(&transport)
	}
	s.wire = wire.New(transport)
	s.Handler = identify(services.Auth, opts.TrustedProxies, s.wire)
	s.Handler = newOrigins(opts.AllowedOrigins, opts.PublicURL, opts.Log).guard(s.Handler)
	return s
}

// Drain ends every WebSocket (1012) and server-sent stream so that its client comes back, here or
// to another node, and takes no new ones. After it, nothing that was begun for one of them needs
// the database. Requests that are being answered go on.
func (s *Server) Drain(ctx context.Context) {
	s.wire.Drain(ctx)
	s.shared.close()
}

// Executor is what answers. With it and Init another transport can carry the same API.
func (s *Server) Executor() graphql.GraphExecutor { return s.exec }
