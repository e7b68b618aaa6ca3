// Parley is a self-hosted messenger backend with a GraphQL API. This file wires the parts together,
// in reading order, and says why they start and stop in the order they do.
package main

import (
	"cmp"
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

	"github.com/alecthomas/kong"
	"github.com/go-chi/chi/v5"

	"parley/auth"
	"parley/chat"
	"parley/config"
	"parley/document"
	"parley/feed"
	"parley/graph"
	"parley/live"
	"parley/mail"
	"parley/migrations"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
	"parley/seed"
	"parley/store"
	"parley/verify"
	"parley/web"
)

func main() {
	// SIGTERM is how a supervisor stops a service, SIGINT is Ctrl-C. A second one ends the process
	// at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program, apart from its process: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var cli commandLine
	exited := -1
	parser, err := kong.New(&cli,
		kong.Name("parley"), kong.Description("A self-hosted messenger backend with a GraphQL API."),
		kong.DefaultEnvars("PARLEY"), kong.Writers(stdout, stderr), kong.Exit(func(code int) { exited = code }),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "parley:", err)
		return 1
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(args[1:], "--help")
	}
	command, err := parser.Parse(args) // which calls Settings.Validate too
	if exited >= 0 {                   // after --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "parley: %v\nSee parley help.\n", err)
		return 2
	}
	log := newLog(cli.Settings, stderr)
	if unknown := config.Unknown(os.Environ(), known(parser)); len(unknown) > 0 {
		log.Warn("environment variables that name no setting are ignored", "names", strings.Join(unknown, ","))
	}
	command.BindTo(ctx, (*context.Context)(nil))
	command.BindTo(stdout, (*io.Writer)(nil))
	if err := command.Run(&cli.Settings, log); err != nil {
		fmt.Fprintln(stderr, "parley:", err)
		return 1
	}
	return 0
}

// known reports which environment variables set a flag, of the server or of any command.
func known(parser *kong.Kong) func(name string) bool {
	names := map[string]bool{}
	_ = kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				names[name] = true
			}
		}
		return next(nil)
	})
	return func(name string) bool { return names[name] }
}

type commandLine struct {
	config.Settings
	Serve   serveCommand   `cmd:"" default:"1" help:"Run the server (this is what happens without a command)."`
	Migrate migrateCommand `cmd:"" help:"Bring the tables up to date, or show or take back what was done."`
	Seed    seedCommand    `cmd:"" help:"Fill an empty database with people who have been talking for a year, to try Parley out or to measure it."`
	Verify  verify.Command `cmd:"" help:"Prove that no message is lost, doubled, reordered or leaked, against running servers or with --chaos."`
	Version versionCommand `cmd:"" help:"Print the version."`
	Help    struct{}       `cmd:"" help:"Show this list of commands and settings, with their defaults."`
}

func newLog(s config.Settings, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.LogLevel)) // one of its enum
	options := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

type serveCommand struct{}

// Run serves until ctx ends, and then stops in order.
func (serveCommand) Run(ctx context.Context, s *config.Settings, log *slog.Logger) error {
	server, err := start(ctx, s, log)
	if err != nil {
		return err
	}
	log.Info("parley is up", "version", version(), "playground", server.playground(), "api", server.url+"/graphql",
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
	nodes    *natsbus.Conn // nil on a node alone
	graph    *graph.Server
	jwks     []byte
	http     *http.Server
	work     sync.WaitGroup // goroutines that live as long as the server
	stopWork context.CancelFunc
	stopping chan struct{}                        // closed when stopping begins, for /readyz
	after    func(time.Duration) <-chan time.Time // a test's, or time.After
	served   chan error                           // how serving HTTP ended
}

// start builds every part, each from those before it: database, rules, API, and serves last, so
// that nothing is answered before everything is there to answer it.
func start(ctx context.Context, s *config.Settings, log *slog.Logger) (_ *server, err error) {
	dataDir, err := filepath.Abs(s.DataDir)
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, s.DatabaseURL, store.Options{MaxConns: s.MaxDBConns, Log: log})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	if s.Migrate {
		err = migrateUp(ctx, db, log)
	} else {
		err = requireMigrated(ctx, db)
	}
	if err != nil {
		return nil, err
	}
	// Listening comes early, because mails say where; what comes in waits until it is served.
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
	// Before chat, which speaks over it. Nothing waits for NATS: without it, a message of another
	// node is late, not lost.
	nodes, err := joinNodes(s, log)
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
		ReconcileEvery: s.CompareEvery, MaxReplays: s.MaxReplays, MaxReplayed: s.MaxReplayed,
		Nodes: nodes, Log: log,
	})
	if err := feeds.CheckEpoch(ctx); err != nil {
		return nil, err
	}
	lives := live.New(db, feeds, live.Options{
		Limits: accounts, ReconcileEvery: s.CompareEvery, Nodes: nodes, Log: log,
	})
	chatService := chat.New(db, feeds, lives, chat.Options{
		RequireVerifiedEmail: s.RequireVerifiedEmail, MaxConversations: s.MaxConversations,
		Limits: accounts, EditWindow: s.EditWindow, Log: log,
	})
	authService, err := auth.New(db, auth.Options{
		Keys: keys, Issuer: s.Issuer, AccessTTL: s.AccessTTL, RefreshTTL: s.RefreshTTL,
		Registration: auth.Registration(s.Registration), InvitationCode: s.InvitationCode, ConcealEmails: s.ConcealEmails,
		RateLimits: s.RateLimits, Accounts: accounts, Mail: outbox, Link: s.Link(url), Log: log,
		OnDelete: lives.EndPresence, CleanUp: chatService.CleanUpAccount, OnSettings: lives.SettingsChanged,
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
		AllowedOrigins: s.AllowedOrigins, PublicURL: s.PublicURL, TrustedProxies: proxies, Introspection: s.Introspection,
		Documents: documents, Compression: s.Compression, DrainSpread: s.DrainSpread, Log: log,
	})
	jwks, err := authService.JWKS()
	if err != nil {
		return nil, err
	}

	srv := &server{
		settings: s, log: log, url: url, dataDir: dataDir, db: db, nodes: nodes, graph: graphServer, jwks: jwks,
		stopping: make(chan struct{}), after: time.After, served: make(chan error, 1),
	}
	warn(s, log)

	// From here on nothing fails. The work outlives ctx: it is needed while requests are still
	// being finished.
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	srv.stopWork = stopWork
	srv.work.Go(func() { feeds.Run(workCtx) })
	srv.work.Go(func() { lives.Run(workCtx) })
	srv.work.Go(func() { chatService.Run(workCtx) })
	srv.work.Go(func() { authService.Run(workCtx) })
	srv.work.Go(func() { outbox.Run(workCtx) })
	srv.http = newHTTP(srv.routes(), log)
	limited := limitConnections(listener, s.MaxConnsPerAddress, proxies, log)
	go func() { srv.served <- srv.http.Serve(limited) }()
	return srv, nil
}

// newHTTP bounds how long a client may take for what it has begun to send, and for the answer. A
// WebSocket leaves these times behind once its handshake is done, and a stream once its request is
// there: both have deadlines of their own for each write.
func newHTTP(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           withDefaultHeaders(handler),
		ReadHeaderTimeout: 10 * time.Second,
		// net/http waits for a body, too, that no handler reads
		ReadTimeout:    15 * time.Second,
		WriteTimeout:   answerTimeout, // also of what net/http answers by itself
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
		// what strangers' clients do wrong
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			boundPeer(conn, peerTimeout)
			return ctx
		},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" goes the way of any other path
	}
}

// joinNodes begins to connect to NATS, where it is set.
func joinNodes(s *config.Settings, log *slog.Logger) (*natsbus.Conn, error) {
	if len(s.NATSURL) == 0 {
		return nil, nil // a node alone
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	nodes, err := natsbus.Open(natsbus.Options{URLs: s.NATSURL, Prefix: s.NATSSubject, Name: "parley " + host, Log: log})
	if err != nil {
		return nil, fmt.Errorf("PARLEY_NATS_URL: %w", err)
	}
	return nodes, nil
}

// signingKeys are the key that signs access tokens and, while it replaces another, that one.
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

// accountLimits are shared by auth and chat, because both search; nil without rate limits.
func accountLimits(s *config.Settings, db *store.DB) *ratelimit.Accounts {
	if !s.RateLimits {
		return nil
	}
	exempt, _ := s.Exempt() // Validate has read them
	return ratelimit.NewAccounts(ratelimit.AccountsOptions{Rates: s.Rates(), Exempt: exempt, Now: db.Now})
}

// trustedDocuments are those that are answered when others are not: the operator's, and those of
// our own pages.
func trustedDocuments(s *config.Settings, limits document.Limits) ([]string, error) {
	if s.TrustedDocuments == "" {
		return nil, nil
	}
	documents, err := graph.ReadDocuments(s.TrustedDocuments, limits, s.Introspection)
	return append(documents, web.AccountDocuments()...), err
}

// stop first says that no more should come (/readyz) and gives whoever asks the time to see it,
// while everything is served. Then it sends the long-lived clients elsewhere, once what they have
// asked is answered, lets running requests finish, and ends the work and the database last, because
// requests need both. NATS goes between those two: chat's work hands over the hints of the last
// requests when it ends, and what has not left by then would be late on the other nodes.
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
		err = errors.Join(fmt.Errorf("some requests did not finish in %v: %w", srv.settings.StopTimeout, err), srv.http.Close())
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
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
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

// answerTimeout is for an answer to be made and taken, whatever headers its request has.
const answerTimeout = time.Minute

// peerTimeout is how long a client may acknowledge nothing of what was sent to it. A server-sent
// stream would have no other way to notice one that has gone without a word: its comments are taken
// by the operating system, which sends them again for a quarter of an hour. With the comment that
// is the first to be lost, that is 75 seconds, as on a WebSocket. It is no less than answerTimeout,
// because who reads nothing for so long counts too.
const peerTimeout = answerTimeout

// ready says whether this node should get requests: not while it stops, and not without its
// database. Without NATS it should: its messages arrive all the same, and where NATS is away from
// all nodes there would be none left to ask.
func (srv *server) ready(w http.ResponseWriter, r *http.Request) {
	select {
	case <-srv.stopping:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	default:
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if _, err := srv.db.NewSelect().ColumnExpr("1").Exec(ctx); err != nil {
		srv.log.WarnContext(ctx, "not ready: the database does not answer", "error", err)
		http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		return
	}
	if srv.nodes != nil && !srv.nodes.Status().Connected {
		_, _ = fmt.Fprintf(w, "ok, but NATS is away: what other nodes store is up to %v late\n", srv.settings.CompareEvery)
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

// reachable is an address that a person can open: the host that was asked for, with the port that
// was got.
func reachable(got net.Addr, asked string) string {
	host, _, _ := net.SplitHostPort(asked)
	_, port, _ := net.SplitHostPort(got.String())
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// warn says loudly what an operator should know about a server that others can reach.
func warn(s *config.Settings, log *slog.Logger) {
	if len(s.NATSURL) > 0 && s.JWTSecret == "" && s.JWTKeyFile == "" {
		log.Warn("this node signs with a key of its own: without the same PARLEY_JWT_SECRET or PARLEY_JWT_KEY_FILE on all nodes, they refuse each other's tokens")
	}
	host, _, _ := net.SplitHostPort(s.Addr)
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return
	}
	log.Warn("others can reach this server: put it behind a proxy that speaks TLS, because tokens travel in the clear", "addr", s.Addr)
	for _, origin := range s.AllowedOrigins {
		if origin == "*" || strings.HasPrefix(origin, "http://") && !strings.HasSuffix(origin, ":*") {
			log.Warn("pages that come without TLS, or from anywhere, may use the API (PARLEY_ALLOWED_ORIGINS)", "origin", origin)
		}
	}
}

type migrateCommand struct {
	Direction string `arg:"" default:"up" enum:"up,down,status" help:"up (the default) applies what is missing; down takes back the newest group, with its data; status lists all."`
}

func (c migrateCommand) Run(ctx context.Context, s *config.Settings, log *slog.Logger, out io.Writer) (err error) {
	db, err := store.Open(ctx, s.DatabaseURL, store.Options{MaxConns: s.MaxDBConns})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	switch c.Direction {
	case "down":
		reverted, err := migrations.Down(ctx, db.DB)
		for _, name := range reverted {
			log.Info("took back", "migration", name)
		}
		return err
	case "status":
		list, err := migrations.List(ctx, db.DB)
		for _, m := range list {
			state := "missing"
			if m.Applied {
				state = "applied"
			}
			fmt.Fprintln(out, state, m.Name)
		}
		return err
	}
	return migrateUp(ctx, db, log)
}

type seedCommand struct {
	Large         bool   `help:"1,000 people, 10,000 conversations, 1,000,000 messages; takes some minutes. Without it 20, 30 and 2,000."`
	People        int    `help:"How many people, instead." placeholder:"N"`
	Conversations int    `help:"How many conversations, instead." placeholder:"N"`
	Messages      int    `help:"How many messages, instead." placeholder:"N"`
	Seed          uint64 `default:"1" help:"Another number makes other people say other things."`
}

func (c seedCommand) size() seed.Size {
	size := seed.Small
	if c.Large {
		size = seed.Large
	}
	return seed.Size{
		People: cmp.Or(c.People, size.People), Conversations: cmp.Or(c.Conversations, size.Conversations),
		Messages: cmp.Or(c.Messages, size.Messages),
	}
}

func (c seedCommand) Run(ctx context.Context, s *config.Settings, log *slog.Logger, out io.Writer) (err error) {
	db, err := store.Open(ctx, s.DatabaseURL, store.Options{MaxConns: s.MaxDBConns})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := migrateUp(ctx, db, log); err != nil {
		return err
	}
	var said time.Time
	size := c.size()
	filled, err := seed.Fill(ctx, db, seed.Options{Size: size, Seed: c.Seed, Progress: func(messages int) {
		if now := time.Now(); now.Sub(said) >= 5*time.Second || messages == size.Messages {
			said = now
			log.Info("seeding", "messages", messages, "of", size.Messages)
		}
	}})
	if err != nil {
		return fmt.Errorf("seed %s: %w", s.Database(), err)
	}
	fmt.Fprintf(out, "%d people, %d conversations, %d messages, %d events.\nEverybody's password is %q. Sign in as %s (%s), or as %s (%s).\n",
		len(filled.People), filled.Conversations, filled.Messages, filled.Events, seed.Password,
		filled.People[0].Email, filled.People[0].Nickname, filled.People[1].Email, filled.People[1].Nickname)
	return nil
}

// requireMigrated keeps a server from starting on tables that it does not know.
func requireMigrated(ctx context.Context, db *store.DB) error {
	list, err := migrations.List(ctx, db.DB)
	if err != nil {
		return err
	}
	for _, m := range list {
		if !m.Applied {
			return fmt.Errorf("the tables are not up to date (%s is missing): run parley migrate, or start without PARLEY_MIGRATE=false", m.Name)
		}
	}
	return nil
}

func migrateUp(ctx context.Context, db *store.DB, log *slog.Logger) error {
	applied, err := migrations.Up(ctx, db.DB)
	for _, name := range applied {
		log.Info("applied", "migration", name)
	}
	if err != nil {
		return fmt.Errorf("bring the tables up to date: %w", err)
	}
	return nil
}
