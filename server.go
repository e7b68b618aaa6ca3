// Parley is a self-hosted messenger backend with a GraphQL API. This file connects the parts, and
// gives the reasons for the order in which they start and stop. The commands are in commands.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"

	"parley/auth"
	"parley/chat"
	"parley/config"
	"parley/document"
	"parley/feed"
	"parley/graph"
	"parley/internal/usertimeout"
	"parley/live"
	"parley/mail"
	"parley/migrations"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
	"parley/store"
	"parley/web"
)

func main() {
	// SIGTERM is how a supervisor stops a service, SIGINT is Ctrl-C. A second one ends the process
	// at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

type serveCommand struct{}

// Run serves until ctx ends, and then stops in order.
func (serveCommand) Run(ctx context.Context, s *config.Settings, log *slog.Logger) error {
	server, err := start(ctx, s, log)
	if err != nil {
		return err
	}
	log.Info("parley is up", "version", version(),
		"playground", server.playground(), "api", server.url+"/graphql",
		"database", s.Database(), "nats", s.NATS(), "data", server.dataDir)
	<-ctx.Done()
	log.Info("parley is stopping")
	err = server.stop()
	log.Info("parley has stopped")
	return err
}

// server is a running Parley.
type server struct {
	settings *config.Settings
	log      *slog.Logger
	url      string
	dataDir  string

	db       *store.DB
	tables   *migrations.Migrator
	nodes    *natsbus.Conn // nil without NATS
	graph    *graph.Server
	jwks     []byte
	http     *http.Server
	work     sync.WaitGroup // goroutines that live as long as the server
	stopWork context.CancelFunc
	stopping chan struct{}                        // closed when stopping begins, for /readyz
	after    func(time.Duration) <-chan time.Time // time.After, except in tests
	served   chan error                           // the result of serving HTTP
}

// start builds every part from those before it: database, rules, API. It serves last, so that no
// request arrives before all parts are ready.
func start(ctx context.Context, s *config.Settings, log *slog.Logger) (_ *server, err error) {
	dataDir, err := filepath.Abs(s.DataDir)
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, s.DatabaseURL, store.Options{
		MaxConns: s.MaxDBConns, MaxConnLifetime: s.DBConnLifetime, Log: log,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	tables, err := openTables(ctx, db, s.Migrate, log)
	if err != nil {
		return nil, err
	}
	// The listener comes early, because the links in mails contain its address. Connections wait in
	// its backlog until they are served.
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Addr)
	if err != nil {
		return nil, fmt.Errorf("PARLEY_ADDR: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, listener.Close())
		}
	}()
	url := "http://" + reachable(listener.Addr(), s.Addr)

	keys, err := signingKeys(s)
	if err != nil {
		return nil, err
	}
	outbox, err := mail.New(db, mail.Options{SMTPURL: s.SMTPURL, From: s.MailFrom, Log: log})
	if err != nil {
		return nil, err
	}
	// The connection to the other nodes comes before feed and live, which publish over it. Nothing
	// waits for NATS: without it, the messages of other nodes arrive late, but none is lost.
	nodes, err := connectNodes(s, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && nodes != nil {
			nodes.Close()
		}
	}()
	accounts := accountLimits(s, db)
	feeds := feed.New(db, feed.Options{
		ReconcileEvery: s.ReconcileEvery, MaxReplays: s.MaxReplays, MaxReplayed: s.MaxReplayed,
		Nodes: nodes, Log: log,
	})
	if err := feeds.CheckPositions(ctx); err != nil {
		return nil, err
	}
	lives := live.New(db, feeds, live.Options{
		Limits: accounts, ReconcileEvery: s.ReconcileEvery, Nodes: nodes, Log: log,
	})
	chatService := chat.New(db, feeds, lives, chat.Options{
		RequireVerifiedEmail: s.RequireVerifiedEmail, MaxConversations: s.MaxConversations,
		Limits: accounts, EditWindow: s.EditWindow, Log: log,
	})
	authService, err := auth.New(db, auth.Options{
		Keys: keys, Issuer: s.Issuer, AccessTTL: s.AccessTTL, RefreshTTL: s.RefreshTTL,
		Registration: auth.Registration(s.Registration), InvitationCode: s.InvitationCode,
		ConcealEmails: s.ConcealEmails, RateLimits: s.RateLimits, Accounts: accounts,
		Mail: outbox, Link: s.Link(url), Log: log,
		OnDelete: lives.EndPresence, CleanUp: chatService.CleanUpAccount,
		OnSettings: lives.SettingsChanged,
	})
	if err != nil {
		return nil, err
	}
	proxies, err := s.Proxies()
	if err != nil {
		return nil, err
	}
	limits := document.Limits{
		Tokens: s.MaxTokens, Depth: s.MaxDepth, Aliases: s.MaxAliases, Complexity: s.MaxComplexity,
		EventComplexity: s.MaxEventComplexity,
	}
	documents, err := trustedDocuments(s, limits)
	if err != nil {
		return nil, fmt.Errorf("PARLEY_TRUSTED_DOCUMENTS: %w", err)
	}
	graphServer := graph.New(graph.Services{
		Auth: authService, Chat: chatService, Live: lives, Feed: feeds,
	}, graph.Options{
		MaxBodyBytes: s.MaxBodyBytes, MaxAnswerBytes: s.MaxAnswerBytes, Limits: limits,
		MaxConnections: s.MaxSockets, MaxOperations: s.MaxOperations, MaxStreams: s.MaxStreams,
		QueueItems: s.MaxQueueItems, QueueBytes: s.MaxQueueBytes,
		AllowedOrigins: s.AllowedOrigins, PublicURL: s.PublicURL, TrustedProxies: proxies,
		Introspection: s.Introspection, Documents: documents, Compression: s.Compression,
		DrainSpread: s.DrainSpread, Log: log,
	})
	jwks, err := authService.JWKS()
	if err != nil {
		return nil, err
	}

	srv := &server{
		settings: s, log: log, url: url, dataDir: dataDir,
		db: db, tables: tables, nodes: nodes, graph: graphServer, jwks: jwks,
		stopping: make(chan struct{}), after: time.After, served: make(chan error, 1),
	}
	warn(s, log)

	// From here on nothing fails. The work outlives ctx, because running requests need it until
	// they have finished.
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	srv.stopWork = stopWork
	srv.work.Go(func() { feeds.Run(workCtx) })
	srv.work.Go(func() { lives.Run(workCtx) })
	srv.work.Go(func() { chatService.Run(workCtx) })
	srv.work.Go(func() { authService.Run(workCtx) })
	srv.work.Go(func() { outbox.Run(workCtx) })
	srv.http = newHTTPServer(srv.routes(), log)
	limited := limitConnections(listener, s.MaxConnsPerAddress, proxies, log)
	go func() { srv.served <- srv.http.Serve(limited) }()
	return srv, nil
}

// newHTTPServer returns a server that bounds how long a client may take to send a request and to
// read its answer. These times do not apply to a WebSocket after its handshake, nor to a stream
// after its request: both have deadlines of their own for each write.
func newHTTPServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           withDefaultHeaders(handler),
		ReadHeaderTimeout: 10 * time.Second,
		// This includes bodies that no handler reads: net/http waits for these too.
		ReadTimeout:    15 * time.Second,
		WriteTimeout:   answerTimeout, // also for the answers of net/http itself
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
		// The mistakes of unknown clients are of no interest to the operator.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			usertimeout.Set(conn, peerTimeout)
			return ctx
		},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is routed like any other path
	}
}

// connectNodes starts to connect to NATS. It returns nil if no address of NATS is set.
func connectNodes(s *config.Settings, log *slog.Logger) (*natsbus.Conn, error) {
	if len(s.NATSURL) == 0 {
		return nil, nil
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	nodes, err := natsbus.Open(natsbus.Options{
		URLs: s.NATSURL, Prefix: s.NATSSubject, Name: "parley " + host, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("PARLEY_NATS_URL: %w", err)
	}
	return nodes, nil
}

// signingKeys returns the key that signs access tokens and, during a rotation, the one that it
// replaces.
func signingKeys(s *config.Settings) (keys []auth.Key, err error) {
	add := func(k auth.Key, errKey error) {
		keys = append(keys, k)
		err = errors.Join(err, errKey)
	}
	switch {
	case s.JWTKeyFile != "":
		add(auth.ReadKeyFile(s.JWTKeyFile))
	case s.JWTSecret != "":
		add(auth.SecretKey([]byte(s.JWTSecret)))
	default:
		secret, err := auth.LoadOrMakeSecret(s.SecretFile())
		if err != nil {
			return nil, err
		}
		add(auth.SecretKey(secret))
	}
	if s.JWTPreviousKeyFile != "" {
		add(auth.ReadKeyFile(s.JWTPreviousKeyFile))
	}
	if s.JWTPreviousSecret != "" {
		add(auth.SecretKey([]byte(s.JWTPreviousSecret)))
	}
	return keys, err
}

// accountLimits returns the limits of each account. auth and chat share them, because both search.
// They are nil if rate limits are off.
func accountLimits(s *config.Settings, db *store.DB) *ratelimit.Accounts {
	if !s.RateLimits {
		return nil
	}
	exempt, _ := s.Exempt() // Validate has checked them
	return ratelimit.NewAccounts(ratelimit.AccountsOptions{
		Rates: s.Rates(), Exempt: exempt, Now: db.Now,
	})
}

// trustedDocuments returns the only documents that the API answers: the operator's, and those of
// our own pages. It returns nil if all documents are answered.
func trustedDocuments(s *config.Settings, limits document.Limits) ([]string, error) {
	if s.TrustedDocuments == "" {
		return nil, nil
	}
	documents, err := graph.ReadDocuments(s.TrustedDocuments, limits, s.Introspection)
	return append(documents, web.AccountDocuments()...), err
}

// stop ends the server in this order:
//
//  1. /readyz reports 503. While the stop delay lasts, everything is still served, so that a load
//     balancer notices and sends no more requests.
//  2. Each live connection is closed once its running operations are answered. Its client connects
//     again, to another node.
//  3. Running requests finish.
//  4. The work in the background ends. It comes after the requests, because they need it. At its
//     end, feed publishes the hints of the last requests.
//  5. The connection to NATS is closed, once those hints have left: without them, the last messages
//     would be late on the other nodes.
//  6. The database is closed.
func (srv *server) stop() error {
	close(srv.stopping)
	if srv.settings.StopDelay > 0 {
		<-srv.after(srv.settings.StopDelay)
	}
	ctx, cancel := context.WithTimeout(context.Background(), srv.settings.StopTimeout)
	defer cancel()
	srv.graph.Drain(ctx)
	err := srv.http.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("some requests did not finish in %v: %w", srv.settings.StopTimeout, err)
		err = errors.Join(err, srv.http.Close())
	}
	if served := <-srv.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	srv.stopWork()
	srv.work.Wait()
	if srv.nodes != nil {
		srv.nodes.Close()
	}
	return errors.Join(err, srv.db.Close())
}

func (srv *server) routes() http.Handler {
	r := chi.NewRouter()
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	r.Get("/readyz", srv.ready)
	r.Get("/.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Header().Set("Cache-Control", "max-age=300")
		_, _ = w.Write(srv.jwks)
	})
	r.Handle("/graphql", srv.graph)
	r.Handle("/account/*", web.Account("/graphql"))
	if srv.settings.Playground {
		r.Handle("/*", web.Playground("/graphql"))
	}
	return r
}

// answerTimeout is how long it may take to make an answer and to send all of it.
const answerTimeout = time.Minute

// peerTimeout is how long a client may acknowledge nothing of what was sent to it. Without this
// timeout, a server-sent stream would not notice a client that disappears: the operating system
// accepts the comments of the stream, and retransmits them for a quarter of an hour. A stream
// writes a comment every 15 seconds, so the client is given up after 75 seconds at most, as on a
// WebSocket. The timeout must not be shorter than answerTimeout, because it also applies to a
// client that is alive and reads nothing.
const peerTimeout = answerTimeout

// ready reports whether this node should get requests: not while it stops, not while its database
// is away or takes no writes, and not with tables that this version cannot use. A node without NATS
// is ready, because its messages still arrive. If NATS is down for all nodes, no node would be
// ready otherwise.
func (srv *server) ready(w http.ResponseWriter, r *http.Request) {
	select {
	case <-srv.stopping:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	default:
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := errors.Join(srv.tables.Check(ctx), srv.db.CheckWritable(ctx)); err != nil {
		problem := "the database does not answer"
		if reason, ok := errors.AsType[*migrations.Incompatible](err); ok {
			problem = reason.Error()
		} else if errors.Is(err, store.ErrReadOnly) {
			problem = store.ErrReadOnly.Error()
		}
		srv.log.WarnContext(ctx, "not ready", "reason", problem, "error", err)
		http.Error(w, problem, http.StatusServiceUnavailable)
		return
	}
	if srv.nodes != nil && !srv.nodes.Status().Connected {
		_, _ = fmt.Fprintf(w, "ok, but NATS is away: what other nodes store is up to %v late\n",
			srv.settings.ReconcileEvery)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

func (srv *server) playground() string {
	if !srv.settings.Playground {
		return "off"
	}
	return srv.url + "/"
}

// reachable returns an address that a person can open: the host of the setting, and the port of
// the listener.
func reachable(listening net.Addr, setting string) string {
	host, _, _ := net.SplitHostPort(setting)
	_, port, _ := net.SplitHostPort(listening.String())
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// warn logs what an operator should know about a server that others can reach.
func warn(s *config.Settings, log *slog.Logger) {
	if len(s.NATSURL) > 0 && s.JWTSecret == "" && s.JWTKeyFile == "" {
		log.Warn("this node signs with a key of its own: set the same PARLEY_JWT_SECRET or " +
			"PARLEY_JWT_KEY_FILE on all nodes, or they refuse each other's tokens")
	}
	host, _, _ := net.SplitHostPort(s.Addr)
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return
	}
	log.Warn("others can reach this server: put it behind a proxy that speaks TLS, "+
		"because tokens are not encrypted", "addr", s.Addr)
	for _, origin := range s.AllowedOrigins {
		withoutTLS := strings.HasPrefix(origin, "http://") && !strings.HasSuffix(origin, ":*")
		if origin == "*" || withoutTLS {
			log.Warn(
				"pages without TLS, or from any origin, may use the API (PARLEY_ALLOWED_ORIGINS)",
				"origin", origin)
		}
	}
}
