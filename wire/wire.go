// Package wire transports GraphQL between clients and the executor: over WebSockets
// (graphql-transport-ws), server-sent events (graphql-sse) and plain HTTP, all on one path. It
// knows the rules of these protocols, and no rules about rights: package graph gives it functions
// for these, see Options. docs/wire.md has the protocol rules as tables.
//
// # Concurrency
//
// Goroutines: A WebSocket leaves net/http, whose handler returns after the handshake. One goroutine
// reads from the client (socket.read); while the socket is idle, it has no other. Each operation
// runs on a goroutine of its own, and queues its results in the outbox of its connection. The
// outboxes of all sockets are written by a few shared goroutines (flusher). The results of one
// connection leave in the order in which they were queued. Several queued results leave with one
// write. A client that does not keep up gets a writing goroutine of its own (socket.flushSlowly)
// until its queue is empty. A server-sent stream is written by the goroutine of its request.
//
// Blocking: The goroutines of the flusher never wait for a client. Operation.Put waits for room in
// the outbox; Next, TryNext, Fail and Complete never wait. flushSlowly and server-sent streams wait
// for the client, at most Options.WriteTimeout for each part of what they write. The functions in
// Options may block, because each call runs on a goroutine that serves one connection only. The
// release function of OnConnect must not block: the flusher calls it when it loses a connection.
//
// Descriptors: A writer pins the descriptor of its socket, because it writes past net. A socket
// that is closed while it is pinned is closed by its writer. So the number of the descriptor never
// belongs to another connection during a write.
//
// Stopping: A connection that ends is first marked as ended, which discards the queued results of
// its open operations. Only then these are cancelled. So after the end nothing is written but the
// close frame, and above all no "complete", which would make the client stay away. Server.Drain
// ends all connections, and waits until their close frames are written.
//
// Locks: outbox.mu, flusher.mu, connections.mu, streams.mu and failure.mu. None of them is locked
// while another one is held, nor while anything is written, nor while a function of Options is
// called. Callers may hold locks of their own when they call Operation.TryNext. So the lock order
// is: a caller's lock → one lock of this package.
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

// Defaults of Options that are settings of the server.
const (
	DefaultMaxMessage    = 256 << 10
	DefaultMaxOperations = 100
	DefaultQueueItems    = 1024
	DefaultQueueBytes    = 1 << 20
)

// Options are what a Server needs. Exec, Present, Detach, Init, OnConnect and SameCaller are
// required; the zero value of any other field means its default.
type Options struct {
	Exec graphql.GraphExecutor
	// Present converts an error to the form that clients see.
	Present func(ctx context.Context, err error) *gqlerror.Error

	// Detach returns a context for a connection that outlives its request. ctx is the context of
	// the request. What the returned context refers to stays in memory as long as the connection.
	Detach func(ctx context.Context) context.Context
	// Init authenticates the client of a WebSocket by the payload of its connection_init, and
	// returns the context of its operations. A WebSocket is closed if Init fails.
	Init func(ctx context.Context, connectionParams map[string]any) (context.Context, error)
	// OnConnect is called when a WebSocket is acknowledged or a stream starts. It may call end, at
	// most once and on any goroutine, to end the connection, because its session is over for
	// example. The returned release is called when the connection has ended, also by end itself. It
	// must not block, and no lock that it takes may be held around a call of end.
	OnConnect func(ctx context.Context, end func(reason error)) (release func())
	// SameCaller reports whether a request comes from the caller that started the stream, and so
	// may add operations to it.
	SameCaller func(stream, request context.Context) bool
	// Subscribe may take over a subscription from the executor, and reports whether it did. Such an
	// operation continues after Subscribe has returned. When the operation ends, ctx is cancelled.
	// Nil takes over none.
	Subscribe func(ctx context.Context, op *Operation, oc *graphql.OperationContext) bool
	// Header adds header fields to the answer of an operation over plain HTTP, after it has run.
	// Nil adds none.
	Header func(ctx context.Context, h http.Header)

	// IsLarge reports whether the answer to an operation may be large. A connection runs one such
	// operation at a time. Nil means that no answer is large.
	IsLarge func(oc *graphql.OperationContext) bool

	// bytes of a request, or of a WebSocket message; default DefaultMaxMessage
	MaxMessage    int
	MaxOperations int  // of one connection at once; default DefaultMaxOperations
	QueueItems    int  // queued for one connection; default DefaultQueueItems
	QueueBytes    int  // queued for one connection; default DefaultQueueBytes
	Compression   bool // of WebSocket messages, if the client offers it
	// trusted documents, the only ones that are answered; nil means any document
	Documents []string

	// InitTimeout is the time from the handshake to connection_init; default 10 seconds.
	InitTimeout time.Duration
	// PingInterval is how long a client may send nothing before it is pinged. A client that leaves
	// two pings unanswered is disconnected after a third interval. Default 25 seconds.
	PingInterval time.Duration
	// MessageTimeout is how long a message or a request may take from its first byte to its last;
	// default 15 seconds.
	MessageTimeout time.Duration
	// WriteTimeout is how long a client may take to accept one part of what is written; default 10
	// seconds.
	WriteTimeout time.Duration
	// Linger is how long a client may take to answer a close frame; default 2 seconds.
	Linger time.Duration
	// Heartbeat is the time between comments on an idle server-sent stream; default 15 seconds.
	Heartbeat time.Duration
	// DrainSpread is the time over which Drain ends the connections; 0 means all at once.
	DrainSpread time.Duration
	// ReservationLasts is how long the token of a stream can be used after it was reserved; default
	// 30 seconds.
	ReservationLasts time.Duration
}

func (o Options) withDefaults() Options {
	o.MaxMessage = cmp.Or(o.MaxMessage, DefaultMaxMessage)
	o.MaxOperations = cmp.Or(o.MaxOperations, DefaultMaxOperations)
	o.QueueItems = cmp.Or(o.QueueItems, DefaultQueueItems)
	o.QueueBytes = cmp.Or(o.QueueBytes, DefaultQueueBytes)
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
	return &Server{
		opts: opts, bounds: bounds{items: opts.QueueItems, bytes: opts.QueueBytes},
		connections: connections{open: map[connection]struct{}{}},
		documents:   newDocuments(opts.Documents), streams: newStreams(),
	}
}

// Drain accepts no more WebSockets and streams, and ends each open one once its running queries and
// mutations are answered, in a way that makes the client connect again, here or to another node. It
// returns when all have ended. When ctx ends, it ends the others at once. Requests over plain HTTP
// are not affected.
func (s *Server) Drain(ctx context.Context) { s.connections.drain(ctx, s.opts.DrainSpread) }

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The answer depends on the caller and on the time (RFC 9111, section 5.2.2.5).
	w.Header().Set("Cache-Control", "no-store")
	s.limitBodyTime(w, r)
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
		WriteError(w, r, http.StatusMethodNotAllowed,
			errs.New(errs.BadUserInput, "Use POST, GET, or a WebSocket."))
	}
}

// operation answers a request that contains an operation.
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

// answerAlone runs the only operation of a request. The operation is parsed first: whether the
// request is allowed depends on whether it is a query, a mutation or a subscription.
func (s *Server) answerAlone(w http.ResponseWriter, r *http.Request, p *params, media string) {
	ctx := graphql.StartOperationTrace(r.Context())
	oc, list := s.prepare(ctx, p)
	switch {
	case list == nil && oc.Operation.Operation == ast.Mutation && r.Method == http.MethodGet:
		w.Header().Set("Allow", "POST")
		if media == eventStream {
			media = legacyJSON
		}
		err := coded(errs.BadUserInput,
			"A mutation has to be sent with POST: a link on another site could send a GET.")
		write(w, http.StatusMethodNotAllowed, media, encodeErrors(gqlerror.List{err}))
	case media == eventStream:
		s.stream(ctx, w, oc, list)
	case list != nil:
		refuse(w, media, list)
	default:
		s.answer(ctx, w, oc, media)
	}
}

// answer runs a query or a mutation, and writes its result.
func (s *Server) answer(
	ctx context.Context, w http.ResponseWriter, oc *graphql.OperationContext, media string,
) {
	defer func() {
		if reason := recover(); reason != nil {
			write(w, http.StatusInternalServerError, media,
				encodeErrors(gqlerror.List{s.recovered(ctx, reason)}))
		}
	}()
	if oc.Operation.Operation == ast.Subscription {
		refuse(w, media, gqlerror.List{coded(errs.BadUserInput,
			"A subscription needs a WebSocket (%s), or a POST that accepts text/event-stream "+
				"and nothing else.", Subprotocol)})
		return
	}
	responses, ctx := s.opts.Exec.DispatchOperation(graphql.WithOperationContext(ctx, oc), oc)
	response := responses(ctx)
	if s.opts.Header != nil {
		s.opts.Header(ctx, w.Header())
	}
	switch {
	case response == nil: // the operation was cancelled before it started
		refuse(w, media, gqlerror.List{s.opts.Present(ctx, context.Canceled)})
	case response.Data == nil:
		refuse(w, media, response.Errors)
	default:
		write(w, http.StatusOK, media, Encode(response))
	}
}
