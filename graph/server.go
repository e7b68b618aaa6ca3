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
	"github.com/99designs/gqlgen/graphql/executor"
	"github.com/99designs/gqlgen/graphql/handler/extension"
	"github.com/99designs/gqlgen/graphql/handler/lru"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/auth"
	"parley/chat"
	"parley/model"
	"parley/wire"
)

// Options are the settings of a Server; the zero value serves.
type Options struct {
	MaxConnections int // that are live of one account, or of one address without signing in; 0 means any number
	MaxOperations  int // at once on a connection; 0 means 100
	MaxStreams     int // of an account, for each subscription over all its conversations; 0 means any number
	QueueItems     int // that wait to be read on a connection; 0 means 1,024
	QueueBytes     int // the same in bytes; 0 means 1 MiB
	Limits         Limits
	AllowedOrigins []string // of web pages beside the server's own; see the README for the form
	TrustedProxies []netip.Prefix
	Introspection  bool
	Documents      []string      // the only ones that are answered, see ReadDocuments; nil means all
	Compression    bool          // of WebSocket messages
	DrainSpread    time.Duration // over which Drain ends connections
	Log            *slog.Logger  // nil means slog.Default

	transport func(*wire.Options) // for tests, which have no time for the real ones
}

// Server answers GraphQL over HTTP, WebSocket and server-sent events, all on one path.
type Server struct {
	http.Handler
	auth *auth.Service
	chat *chat.Service
	wire *wire.Server
	exec *executor.Executor

	shared      *shared
	connections *connections
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
	resolver := &Resolver{Auth: authService, Chat: chatService, people: people, slots: newSlots(cmp.Or(opts.MaxStreams, math.MaxInt))}
	present := presenter{opts.Log}.present

	exec := executor.New(NewExecutableSchema(Config{Resolvers: resolver}))
	exec.SetErrorPresenter(present)
	exec.SetRecoverFunc(func(ctx context.Context, reason any) error { return present(ctx, recovered(ctx, reason)) })
	exec.SetQueryCache(shortDocuments{lru.New[*ast.QueryDocument](documents)})
	exec.SetParserTokenLimit(limits.Tokens)
	exec.Use(limits)
	if opts.Introspection {
		exec.Use(extension.Introspection{})
	} else {
		exec.SetDisableSuggestion(true) // it would tell the schema word by word
	}
	exec.AroundFields(gate)
	exec.AroundResponses(resolver.withLoaders)
	exec.AroundResponses(resolver.withEventsCursor)
	exec.AroundRootFields(resolver.withLoadersAfterEach)

	s := &Server{
		auth: authService, chat: chatService, exec: exec, shared: newShared(resolver, exec, present),
		connections: &connections{max: cmp.Or(opts.MaxConnections, math.MaxInt), open: map[holder]int{}},
	}
	transport := wire.Options{
		Exec: exec, Present: present, Detach: detach, Init: s.Init, Hold: s.hold, Same: sameAccount,
		Subscribe:     s.shared.subscribe,
		MaxOperations: opts.MaxOperations, QueueItems: opts.QueueItems, QueueBytes: opts.QueueBytes,
		MaxMessage: int(limits.BodyBytes), Documents: opts.Documents, Compression: opts.Compression, DrainSpread: opts.DrainSpread,
	}
	if opts.transport != nil {
		opts.transport(&transport)
	}
	s.wire = wire.New(transport)
	s.Handler = identify(authService, opts.TrustedProxies, s.wire)
	s.Handler = origins(opts.AllowedOrigins).guard(s.Handler)
	return s
}

// Drain ends every WebSocket (1012) and server-sent stream so that its client comes back, here or to another node, and
// takes no new ones. After it, nothing that was begun for one of them needs the database. Requests that are being answered go on.
func (s *Server) Drain(ctx context.Context) {
	s.wire.Drain(ctx)
	s.shared.close()
}

// Executor is what answers. With it and Init another transport can carry the same API.
func (s *Server) Executor() *executor.Executor { return s.exec }

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
