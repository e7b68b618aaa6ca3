// Package wire carries GraphQL between clients and the executor: over WebSockets
// (graphql-transport-ws), server-sent events (graphql-sse) and plain HTTP, all on one path. It
// knows the rules of these protocols and nothing of who may do what: package graph hands it a few
// functions for that. docs/wire.md has the rules as a table.
//
// # Concurrency
//
// A WebSocket leaves net/http behind: its handler returns, and one goroutine waits for what the
// client sends. An operation runs on a goroutine of its own, and puts its results into the
// connection's outbox, from where a few goroutines that all sockets share write them: in the order
// in which they were put there, several at once where several wait. They wait for nobody; a client
// that takes nothing gets a goroutine of its own until its time is up. While one of them writes, it
// holds the socket's descriptor, and closes it where that was asked for meanwhile. A server-sent
// stream is written by the goroutine of its request.
//
// A connection that has to end is marked as ended first, which empties its outbox, and only then
// cancelled. So nothing is written to it any more but the close frame, and above all no "complete",
// which would tell a client not to come back.
//
// Locks are taken one at a time, and never held while writing or while calling one of the functions
// in Options.
package wire

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/errs"
)

// Options are what a Server needs. The functions and Exec have to be there; the zero value of
// anything else is its default.
type Options struct {
	Exec graphql.GraphExecutor
	// gives an error the form that clients see
	Present func(ctx context.Context, err error) *gqlerror.Error

	// Detach is a context for a connection that outlives its request, whose context is given. What
	// it keeps of that stays in memory as long as the connection.
	Detach func(ctx context.Context) context.Context
	// Init decides who is at the other end of a WebSocket, by the parameters of its initialisation.
	Init func(ctx context.Context, connectionParams map[string]any) (context.Context, error)
	// Hold has a connection depend on the session of whoever uses it: end is called at most once,
	// on any goroutine, when that is over. The function that it returns is called when the
	// connection has ended.
	OnConnect func(ctx context.Context, end func(reason error)) (release func())
	// Same reports whether a request may use the stream that was begun with another one's context.
	SameCaller func(stream, request context.Context) bool
	// Subscribe may take a subscription over from the executor. It reports whether it did; then the
	// operation goes on when it returns, until the operation ends, which cancels ctx. Nil takes
	// none.
	Subscribe func(ctx context.Context, op *Operation, oc *graphql.OperationContext) bool
	// Header adds header fields to the answer of an operation over plain HTTP, once it has run. Nil
	// adds none.
	Header func(ctx context.Context, h http.Header)

	// IsLarge reports whether the answer to an operation may be so large that a connection should
	// have one at a time. Nil means that none is.
	IsLarge func(oc *graphql.OperationContext) bool

	MaxMessage    int           // bytes of a request, or of a WebSocket message; default 256 KiB
	MaxOperations int           // of one connection at once; default 100
	QueueItems    int           // that wait to be written on one connection; default 1,024
	QueueBytes    int           // the same in bytes; default 1 MiB
	Compression   bool          // of WebSocket messages, where the client offers it
	Documents     []string      // the only ones that are answered, unless nil
	InitTimeout   time.Duration // from the handshake to connection_init; default 10 seconds
	// without a word from the client, which is gone after two unanswered; default 25 seconds
	PingInterval time.Duration
	// for a message or a request that has begun to be there whole; default 15 seconds
	MessageTimeout time.Duration
	WriteTimeout   time.Duration // in which a client has to take something; default 10 seconds
	Linger         time.Duration // for a client's answer to a close frame; default 2 seconds
	// between comments on a stream that has nothing to say; default 15 seconds
	Heartbeat        time.Duration
	DrainSpread      time.Duration // over which Drain ends connections; default at once
	ReservationLasts time.Duration // until a reserved stream has to be used; default 30 seconds
}

func (o Options) withDefaults() Options {
	o.MaxMessage = cmp.Or(o.MaxMessage, 256<<10)
	o.MaxOperations = cmp.Or(o.MaxOperations, 100)
	o.QueueItems = cmp.Or(o.QueueItems, 1024)
	o.QueueBytes = cmp.Or(o.QueueBytes, 1<<20)
	o.InitTimeout = cmp.Or(o.InitTimeout, 10*time.Second)
	o.PingInterval = cmp.Or(o.PingInterval, 25*time.Second)
	o.MessageTimeout = cmp.Or(o.MessageTimeout, 15*time.Second)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 10*time.Second)
	o.Linger = cmp.Or(o.Linger, 2*time.Second)
	o.Heartbeat = cmp.Or(o.Heartbeat, 15*time.Second)
	o.ReservationLasts = cmp.Or(o.ReservationLasts, 30*time.Second)
	return o
}

// Server answers GraphQL over HTTP, WebSocket and server-sent events.
type Server struct {
	opts        Options
	bounds      bounds
	connections connections
	flusher     flusher
	documents   *documents
	streams     *streams
}

// New makes a server. Drain has to be called before the process stops.
func New(opts Options) *Server {
	opts = opts.withDefaults()
	s := &Server{
		opts: opts, bounds: bounds{items: opts.QueueItems, bytes: opts.QueueBytes},
		connections: connections{open: map[connection]struct{}{}}, documents: newDocuments(opts.Documents), streams: newStreams(),
	}
	return s
}

// Drain ends every WebSocket (1012) and every server-sent stream so that its client comes back,
// here or to another node, and takes no new ones. Requests that are being answered go on.
func (s *Server) Drain(ctx context.Context) { s.connections.drain(ctx, s.opts.DrainSpread) }

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// what is answered depends on who asks, and on when (RFC 9111, section 5.2.2.5)
	w.Header().Set("Cache-Control", "no-store")
	s.boundBody(w, r)
	if isUpgrade(r) {
		s.upgrade(w, r)
		return
	}
	query, problem := parameters(r.URL.RawQuery)
	if problem != nil {
		problem.write(w, r)
		return
	}
	token := streamToken(r, query)
	switch {
	case r.Method == http.MethodPut:
		s.reserve(w, r)
	case r.Method == http.MethodDelete:
		s.completeOperation(w, r, query, token)
	case r.Method == http.MethodGet && token != "":
		s.connectStream(w, r, token)
	case r.Method == http.MethodGet || r.Method == http.MethodPost:
		s.operation(w, r, query, token)
	default:
		w.Header().Set("Allow", "GET, POST, PUT, DELETE")
		WriteError(w, r, http.StatusMethodNotAllowed, errs.New(errs.BadUserInput, "Use POST, GET, or a WebSocket."))
	}
}

// operation answers a request that has an operation in it.
func (s *Server) operation(w http.ResponseWriter, r *http.Request, query url.Values, token string) {
	accepted := negotiate(r.Header)
	p, problem := s.readParams(w, r, query)
	switch {
	case accepted == "":
		WriteError(w, r, http.StatusNotAcceptable, errs.New(errs.BadUserInput,
			"The answer can be %s, %s or %s.", graphqlJSON, legacyJSON, eventStream))
	case problem != nil:
		problem.write(w, r)
	case token != "":
		s.startOperation(w, r, token, p)
	default:
		s.answerAlone(w, r, p, accepted)
	}
}

// answerAlone runs the one operation of a request. It is prepared first, because what it is decides
// whether it may come so.
func (s *Server) answerAlone(w http.ResponseWriter, r *http.Request, p *params, media string) {
	ctx := graphql.StartOperationTrace(r.Context())
	oc, list := s.prepare(ctx, p)
	switch {
	case list == nil && oc.Operation.Operation == ast.Mutation && r.Method == http.MethodGet:
		w.Header().Set("Allow", "POST")
		if media == eventStream {
			media = legacyJSON
		}
		write(w, http.StatusMethodNotAllowed, media, encodeErrors(gqlerror.List{coded(errs.BadUserInput,
			"A mutation has to be sent with POST: a link on a foreign page could send a GET.")}))
	case media == eventStream:
		s.stream(ctx, w, oc, list)
	case list != nil:
		refuse(w, media, list)
	default:
		s.answer(ctx, w, oc, media)
	}
}

// answer runs a query or a mutation, and answers with its result.
func (s *Server) answer(ctx context.Context, w http.ResponseWriter, oc *graphql.OperationContext, media string) {
	defer func() {
		if reason := recover(); reason != nil {
			write(w, http.StatusInternalServerError, media, encodeErrors(gqlerror.List{s.recovered(ctx, reason)}))
		}
	}()
	if oc.Operation.Operation == ast.Subscription {
		refuse(w, media, gqlerror.List{coded(errs.BadUserInput,
			"A subscription needs a WebSocket (%s), or a POST that accepts text/event-stream and nothing else.", Subprotocol)})
		return
	}
	responses, ctx := s.opts.Exec.DispatchOperation(graphql.WithOperationContext(ctx, oc), oc)
	response := responses(ctx)
	if s.opts.Header != nil {
		s.opts.Header(ctx, w.Header())
	}
	switch {
	case response == nil: // cancelled before it began
		refuse(w, media, gqlerror.List{s.opts.Present(ctx, context.Canceled)})
	case response.Data == nil:
		refuse(w, media, response.Errors)
	default:
		write(w, http.StatusOK, media, Encode(response))
	}
}
