// Package config has the settings: their names as environment variables and flags, their defaults,
// and the rules about their values.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/alecthomas/kong"

	"parley/auth"
	"parley/chat"
	"parley/document"
	"parley/errs"
	"parley/feed"
	"parley/graph"
	"parley/model"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
	"parley/store"
	"parley/wire"
)

// Settings of a server. Each is a flag, and an environment variable of the same name with the
// prefix PARLEY_; the flag wins. The help texts are for operators: the meaning, the unit, and the
// meaning of the default.
//
// A default is written here only if the package that uses it has none. The others are constants of
// these packages: see Defaults.
type Settings struct {
	Addr        string `default:"localhost:8080" help:"Address to listen on, host:port. An empty host is every interface; port 0 is any free one."`
	DataDir     string `default:"data" help:"Folder for the files of this node: the SQLite file and the signing key." type:"path"`
	DatabaseURL string `help:"sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME; a primary and its standbys are separated by commas: HOST:PORT,HOST:PORT. Default: sqlite:DIR/parley.db in the data folder." name:"database-url" placeholder:"URL"`
	MaxDBConns  int    `default:"${max_db_conns}" help:"Most connections to PostgreSQL." name:"max-db-conns"`

	DBConnLifetime time.Duration `default:"${db_conn_lifetime}" help:"How long a connection to PostgreSQL is used before another one takes its place." name:"db-conn-lifetime"`
	Migrate        bool          `default:"true" help:"Apply missing migrations at start; on unless set to false." negatable:""`

	NATSURL     []string `help:"NATS server, over which several nodes on one PostgreSQL database notify each other of new messages: nats://USER:PASSWORD@HOST:4222 or tls://…; several servers of one NATS cluster are separated by commas. Without NATS, nodes find the messages of other nodes when they reconcile with the database." name:"nats-url" placeholder:"URL,..."`
	NATSSubject string   `default:"${nats_subject}" help:"Prefix of the subjects at NATS. Clusters of Parley that share a NATS need different ones." name:"nats-subject"`

	JWTSecret          string `help:"Key that signs access tokens, at least 32 characters; the same on every node. Default: generated once, and stored in the data folder." name:"jwt-secret" placeholder:"SECRET"`
	JWTPreviousSecret  string `help:"Previous secret, during a rotation: tokens that it signed are still accepted." name:"jwt-previous-secret" placeholder:"SECRET"`
	JWTKeyFile         string `help:"Ed25519 private key (PEM, PKCS #8) that signs access tokens instead of a secret. The public key is served at /.well-known/jwks.json." name:"jwt-key-file" placeholder:"FILE" type:"path"`
	JWTPreviousKeyFile string `help:"Previous key file, during a rotation." name:"jwt-previous-key-file" placeholder:"FILE" type:"path"`

	Issuer     string        `default:"parley" help:"Name of this server or cluster in its access tokens (iss and aud)."`
	AccessTTL  time.Duration `default:"15m" help:"How long an access token is valid." name:"access-ttl"`
	RefreshTTL time.Duration `default:"720h" help:"How long a session lasts after it was refreshed." name:"refresh-ttl"`

	Registration         string `default:"${registration}" enum:"open,invite,closed" help:"Who may create an account: anyone (open), people with the invitation code (invite), or no one (closed)."`
	InvitationCode       string `help:"The invitation code." placeholder:"CODE"`
	RequireVerifiedEmail bool   `help:"Only accounts with a confirmed e-mail address may start conversations."`
	ConcealEmails        bool   `help:"Registration does not reveal whether an e-mail address has an account: the answer is always that a mail was sent, and accounts cannot sign in before their address is confirmed. Nicknames still reveal it: a second registration with the same nickname and another address shows whether the first one succeeded."`
	RateLimits           bool   `default:"true" help:"Limit how often clients register, sign in, request mails, write and search; on unless set to false." negatable:""`

	// Rates of one account on each node: see package ratelimit.
	RateMessages      ratelimit.Rate `default:"600/1m" help:"Messages of one account on a node, as TOKENS/TIME: 600/1m allows 600 at once, which are refilled evenly over a minute; off is no limit. The other rates have the same form."`
	RateConversations ratelimit.Rate `default:"200/1h" help:"Conversations that one account starts, direct ones included."`
	RateMembers       ratelimit.Rate `default:"2000/1h" help:"Members that one account adds to groups, when it creates them or later."`
	RateEdits         ratelimit.Rate `default:"300/1m" help:"Edits and deletions of messages."`
	RateReactions     ratelimit.Rate `default:"300/1m" help:"Reactions added or removed."`
	RateChanges       ratelimit.Rate `default:"300/5m" help:"Other changes of conversations: titles, settings, roles, and members who leave or are removed."`
	RateState         ratelimit.Rate `default:"1200/1m" help:"Changes of an account's own state: drafts, read positions, muting, pinning, archiving and typing."`
	RateSearches      ratelimit.Rate `default:"300/1m" help:"Searches for messages and people."`
	RateProfile       ratelimit.Rate `default:"60/10m" help:"Changes of an account's profile and settings."`
	RateExempt        []string       `help:"Ids of accounts without these limits, user_…, separated by commas. They are not nicknames, because a nickname can pass to another account." placeholder:"ID,..."`

	SMTPURL     string `help:"Server for outgoing mail: smtp://USER:PASSWORD@HOST:587 (STARTTLS) or smtps://HOST:465. Without one, the links of mails are written to the log." name:"smtp-url" placeholder:"URL"`
	MailFrom    string `default:"Parley <parley@localhost>" help:"Sender of mails."`
	PublicURL   string `help:"Public address of this server, for links in mails, and to recognise its own pages. Default: the address that it listens on." name:"public-url" placeholder:"URL"`
	AccountLink string `help:"Page for the links in mails, with {action} (verify-email, reset-password) and {token}. Default: the built-in page, PUBLIC-URL/account/{action}#token={token}." placeholder:"URL"`

	TrustedProxies []string `help:"Networks of trusted proxies, like 10.0.0.0/8, separated by commas. The X-Forwarded-For of other peers is ignored." placeholder:"CIDR,..."`
	AllowedOrigins []string `default:"http://localhost:*,http://127.0.0.1:*" help:"Origins of web pages that may use the API, besides the server's own, separated by commas; :* is any port, and * is any origin."`
	Playground     bool     `default:"true" help:"Serve the playground at /; on unless set to false." negatable:""`
	Introspection  bool     `default:"true" help:"Let clients read the schema; on unless set to false. Without it, the playground is off." negatable:""`

	TrustedDocuments string `help:"JSON file of trusted GraphQL documents, {SHA-256: DOCUMENT}. All others are refused, and the playground is off. Default: all documents are answered." placeholder:"FILE" type:"path"`
	Compression      bool   `help:"Compress WebSocket messages of 512 bytes and more, for clients that offer it. It takes CPU time for each follower of a conversation." negatable:""`

	MaxBodyBytes  int64 `default:"${max_body_bytes}" help:"Most bytes of a request, or of a WebSocket message."`
	MaxTokens     int   `default:"${max_tokens}" help:"Most tokens of a GraphQL document."`
	MaxDepth      int   `default:"${max_depth}" help:"Most levels of nested fields."`
	MaxAliases    int   `default:"${max_aliases}" help:"Most aliases in a document."`
	MaxComplexity int   `default:"${max_complexity}" help:"Most fields of an answer. Pages count in full. The items of lists without pages are counted when they are read; with them, an answer has at most twice as many fields."`

	MaxConnsPerAddress int `default:"1000" help:"Most TCP connections of one address on a node, of any kind; an IPv6 address counts as its /64 network. One more is answered with 429 and closed. Trusted proxies and clients over loopback do not count."`
	MaxConversations   int `default:"${max_conversations}" help:"Most conversations of one account, direct ones included. An account that has more keeps them."`
	MaxEventComplexity int `default:"${max_event_complexity}" help:"Most fields of one event of a subscription. Pages count in full."`
	MaxAnswerBytes     int `default:"${max_answer_bytes}" help:"Most bytes of an answer."`

	MaxSockets    int `default:"50" help:"Most live connections of one account on a node, or of the anonymous clients of one address; one more is closed with 1013."`
	MaxOperations int `default:"${max_operations}" help:"Most operations, subscriptions included, at once on one live connection; one more is RATE_LIMITED."`
	MaxStreams    int `default:"20" help:"Most subscriptions of one account on a node, of each kind that covers all its conversations (events, inboxUpdated, conversationAdded, presenceChanged); one more is RATE_LIMITED."`
	MaxQueueItems int `default:"${max_queue_items}" help:"Most results in the queue of one live connection. If the client does not read them, and the queue is full, the connection is closed with 1013."`
	MaxQueueBytes int `default:"${max_queue_bytes}" help:"The same in bytes."`
	MaxReplayed   int `default:"${max_replayed}" help:"Most events and changes of membership that the subscription events replays; a client that has missed more starts again (StreamReset)."`
	MaxReplays    int `default:"${max_replays}" help:"Most followers on a node that replay missed events at once; the others wait."`

	EditWindow     time.Duration `default:"24h" help:"How long a message can be edited after it was sent; 0 is for ever."`
	ReconcileEvery time.Duration `default:"${reconcile_every}" help:"How often followed conversations are reconciled with the database, which finds messages whose hint was lost."`
	StopDelay      time.Duration `default:"0s" help:"How long a stopping server still serves everything while /readyz answers 503: a little longer than the load balancer takes to notice. 0 if there is none."`
	StopTimeout    time.Duration `default:"20s" help:"How long running requests may take when the server stops."`
	DrainSpread    time.Duration `default:"3s" help:"Time over which a stopping server closes its live connections, so that not all clients reconnect at once; at most half of the stop timeout. A few connections take less."`

	LogLevel  string `default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
	LogFormat string `default:"text" enum:"text,json" help:"text or json."`
}

// Defaults returns the defaults that other packages own. They are variables in the tags of
// Settings, and an option of kong.New.
func Defaults() kong.Vars {
	text := func(n int) string { return strconv.Itoa(n) }
	return kong.Vars{
		"max_conversations":    text(chat.DefaultMaxConversations),
		"max_replayed":         text(feed.DefaultMaxReplayed),
		"max_replays":          text(feed.DefaultMaxReplays),
		"reconcile_every":      feed.DefaultReconcileEvery.String(),
		"max_db_conns":         text(store.DefaultMaxConns),
		"db_conn_lifetime":     store.DefaultMaxConnLifetime.String(),
		"nats_subject":         natsbus.DefaultPrefix,
		"registration":         string(auth.Open),
		"max_body_bytes":       text(wire.DefaultMaxMessage),
		"max_operations":       text(wire.DefaultMaxOperations),
		"max_queue_items":      text(wire.DefaultQueueItems),
		"max_queue_bytes":      text(wire.DefaultQueueBytes),
		"max_answer_bytes":     text(graph.DefaultMaxAnswerBytes),
		"max_tokens":           text(document.DefaultTokens),
		"max_depth":            text(document.DefaultDepth),
		"max_aliases":          text(document.DefaultAliases),
		"max_complexity":       text(document.DefaultComplexity),
		"max_event_complexity": text(document.DefaultEventComplexity),
	}
}

const minSecret = 32 // characters

// Validate returns an error for each setting that cannot work or is not safe, with its name. It
// sets the defaults that depend on other settings.
func (s *Settings) Validate() error {
	const shortSecret = "it has %d characters, and needs at least %d"
	var problems []error
	refuse := func(name, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
	}
	if s.DatabaseURL == "" {
		s.DatabaseURL = "sqlite:" + filepath.Join(s.DataDir, "parley.db")
	}
	if !strings.HasPrefix(s.DatabaseURL, "sqlite:") && !s.Postgres() {
		refuse("PARLEY_DATABASE_URL", "it has to start with sqlite: or postgres://")
	}
	for i, address := range s.NATSURL {
		if err := natsbus.CheckURL(address); err != nil {
			// The error leaves out the address, which may contain a password.
			refuse("PARLEY_NATS_URL", "address %d: %v", i+1, err)
		}
	}
	if len(s.NATSURL) > 0 && !s.Postgres() {
		refuse("PARLEY_NATS_URL",
			"NATS joins nodes that share a PostgreSQL database; "+
				"a SQLite file has one node, which needs no NATS")
	}
	if err := natsbus.CheckPrefix(s.NATSSubject); err != nil {
		refuse("PARLEY_NATS_SUBJECT", "%v", err)
	}
	if s.JWTSecret != "" && len(s.JWTSecret) < minSecret {
		refuse("PARLEY_JWT_SECRET", shortSecret, len(s.JWTSecret), minSecret)
	}
	for name, value := range map[string]time.Duration{
		"PARLEY_ACCESS_TTL":       s.AccessTTL,
		"PARLEY_REFRESH_TTL":      s.RefreshTTL,
		"PARLEY_RECONCILE_EVERY":  s.ReconcileEvery,
		"PARLEY_STOP_TIMEOUT":     s.StopTimeout,
		"PARLEY_DB_CONN_LIFETIME": s.DBConnLifetime,
	} {
		if value <= 0 {
			refuse(name, "%v is not a positive duration", value)
		}
	}
	for name, value := range map[string]time.Duration{
		"PARLEY_STOP_DELAY":   s.StopDelay,
		"PARLEY_DRAIN_SPREAD": s.DrainSpread,
		"PARLEY_EDIT_WINDOW":  s.EditWindow,
	} {
		if value < 0 {
			refuse(name, "%v is negative", value)
		}
	}
	s.DrainSpread = min(s.DrainSpread, s.StopTimeout/2) // the rest is for running requests
	if s.TrustedDocuments != "" || !s.Introspection {
		s.Playground = false // it requests the schema, and the documents that its user writes
	}
	if s.JWTPreviousSecret != "" && len(s.JWTPreviousSecret) < minSecret {
		refuse("PARLEY_JWT_PREVIOUS_SECRET", shortSecret, len(s.JWTPreviousSecret), minSecret)
	}
	if s.JWTSecret != "" && s.JWTKeyFile != "" {
		refuse("PARLEY_JWT_KEY_FILE", "set this or PARLEY_JWT_SECRET, not both; "+
			"during a rotation, the old one goes into the setting for the previous one")
	}
	if (s.Registration == "invite") != (s.InvitationCode != "") {
		refuse("PARLEY_INVITATION_CODE",
			"it has to be set with PARLEY_REGISTRATION=invite, and only then")
	}
	hasAll := strings.Contains(s.AccountLink, "{action}") &&
		strings.Contains(s.AccountLink, "{token}")
	if s.AccountLink != "" && !hasAll {
		refuse("PARLEY_ACCOUNT_LINK", "it has to contain {action} and {token}")
	}
	if public := strings.TrimSuffix(s.PublicURL, "/"); public != "" && !isWebAddress(public) {
		refuse("PARLEY_PUBLIC_URL", "%q is not an address like https://chat.example.org",
			s.PublicURL)
	}
	if _, err := s.Proxies(); err != nil {
		refuse("PARLEY_TRUSTED_PROXIES", "%v", err)
	}
	if _, err := s.Exempt(); err != nil {
		refuse("PARLEY_RATE_EXEMPT", "%v", err)
	}
	if s.AccessTTL > s.RefreshTTL {
		refuse("PARLEY_ACCESS_TTL", "%v is longer than PARLEY_REFRESH_TTL, %v",
			s.AccessTTL, s.RefreshTTL)
	}
	if s.Issuer == "" {
		refuse("PARLEY_ISSUER", "it must not be empty")
	}
	for name, value := range map[string]int64{
		"PARLEY_MAX_BODY_BYTES":        s.MaxBodyBytes,
		"PARLEY_MAX_TOKENS":            int64(s.MaxTokens),
		"PARLEY_MAX_DEPTH":             int64(s.MaxDepth),
		"PARLEY_MAX_ALIASES":           int64(s.MaxAliases),
		"PARLEY_MAX_COMPLEXITY":        int64(s.MaxComplexity),
		"PARLEY_MAX_CONNS_PER_ADDRESS": int64(s.MaxConnsPerAddress),
		"PARLEY_MAX_CONVERSATIONS":     int64(s.MaxConversations),
		"PARLEY_MAX_SOCKETS":           int64(s.MaxSockets),
		"PARLEY_MAX_REPLAYS":           int64(s.MaxReplays),
		"PARLEY_MAX_EVENT_COMPLEXITY":  int64(s.MaxEventComplexity),
		"PARLEY_MAX_ANSWER_BYTES":      int64(s.MaxAnswerBytes),
		"PARLEY_MAX_OPERATIONS":        int64(s.MaxOperations),
		"PARLEY_MAX_QUEUE_ITEMS":       int64(s.MaxQueueItems),
		"PARLEY_MAX_QUEUE_BYTES":       int64(s.MaxQueueBytes),
		"PARLEY_MAX_REPLAYED":          int64(s.MaxReplayed),
		"PARLEY_MAX_STREAMS":           int64(s.MaxStreams),
	} {
		if value < 1 {
			refuse(name, "%d is less than 1", value)
		}
	}
	if s.MaxDBConns < 2 {
		refuse("PARLEY_MAX_DB_CONNS", "%d is less than 2", s.MaxDBConns)
	}
	for _, origin := range s.AllowedOrigins {
		if origin != "*" && !isOrigin(origin) {
			refuse("PARLEY_ALLOWED_ORIGINS",
				"%q is not an origin like https://app.example.org or http://localhost:*, in ASCII",
				origin)
		}
	}
	return errors.Join(problems...)
}

// isOrigin accepts any scheme, because the pages of an app have one of their own, for example
// capacitor://localhost. It accepts ASCII only, as browsers send it.
func isOrigin(s string) bool {
	s = strings.TrimSuffix(s, ":*")
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && u.Host != "" && u.User == nil && u.Path == "" &&
		u.RawQuery == "" && u.Fragment == "" &&
		!strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII || r == '*' })
}

// isWebAddress is isOrigin for addresses that a browser can open.
func isWebAddress(s string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(s), ":")
	return isOrigin(s) && !strings.HasSuffix(s, ":*") && (scheme == "http" || scheme == "https")
}

// Postgres reports whether the database is PostgreSQL.
func (s *Settings) Postgres() bool {
	return strings.HasPrefix(s.DatabaseURL, "postgres://") ||
		strings.HasPrefix(s.DatabaseURL, "postgresql://")
}

// Rates returns the rates of accounts.
func (s *Settings) Rates() ratelimit.Rates {
	return ratelimit.Rates{
		ratelimit.Messages:      s.RateMessages,
		ratelimit.Conversations: s.RateConversations,
		ratelimit.Members:       s.RateMembers,
		ratelimit.Edits:         s.RateEdits,
		ratelimit.Reactions:     s.RateReactions,
		ratelimit.Changes:       s.RateChanges,
		ratelimit.State:         s.RateState,
		ratelimit.Searches:      s.RateSearches,
		ratelimit.Profile:       s.RateProfile,
	}
}

// Exempt returns the accounts that Rates do not limit.
func (s *Settings) Exempt() (ids []model.UserID, err error) {
	for _, text := range s.RateExempt {
		id, err := model.ParseID[model.UserID](text)
		if known := (*errs.Error)(nil); errors.As(err, &known) {
			// The code is left out: it is for clients of the API.
			return nil, errors.New(known.Message)
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Unknown returns the names of environment variables that start with PARLEY_ and are not settings,
// sorted. They are probably misspelt. environ has the form NAME=VALUE. Unknown leaves out
// PARLEY_TEST_*, which are for tests, and the variables that Kubernetes sets for a service named
// parley.
func Unknown(environ []string, isSetting func(name string) bool) (names []string) {
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		rest, ours := strings.CutPrefix(name, "PARLEY_")
		if !ours || isSetting(name) || strings.HasPrefix(rest, "TEST_") ||
			rest == "SERVICE_HOST" || strings.HasPrefix(rest, "SERVICE_PORT") ||
			strings.HasPrefix(rest, "PORT_") || rest == "PORT" && strings.Contains(value, "://") {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SecretFile returns the file of the signing secret, which is used if no key is set.
func (s *Settings) SecretFile() string { return filepath.Join(s.DataDir, "jwt.secret") }

// Proxies returns the networks of TrustedProxies. A single address is a network too.
func (s *Settings) Proxies() (networks []netip.Prefix, err error) {
	for _, text := range s.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if addr, errAddr := netip.ParseAddr(text); errAddr == nil {
			network, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q is not a network like 10.0.0.0/8", text)
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// Link returns a function that makes the links in mails. publicURL is used if PublicURL is empty.
func (s *Settings) Link(publicURL string) func(action, token string) string {
	pattern := s.AccountLink
	if pattern == "" {
		if s.PublicURL != "" {
			publicURL = s.PublicURL
		}
		pattern = strings.TrimSuffix(publicURL, "/") + "/account/{action}#token={token}"
	}
	return func(action, token string) string {
		return strings.NewReplacer("{action}", action, "{token}", token).Replace(pattern)
	}
}

// Database returns the address of the database for log lines, without passwords.
func (s *Settings) Database() string {
	if !s.Postgres() {
		return s.DatabaseURL
	}
	u, err := url.Parse(s.DatabaseURL)
	if err != nil {
		return "a PostgreSQL URL that cannot be read" // it may have a password in it
	}
	query := u.Query()
	for _, name := range []string{"password", "sslpassword"} {
		if query.Has(name) {
			query.Set(name, "xxxxx") // as Redacted does
			u.RawQuery = query.Encode()
		}
	}
	return u.Redacted()
}

// NATS returns the addresses of NATS for log lines, without passwords and tokens; "off" if there
// are none.
func (s *Settings) NATS() string {
	if len(s.NATSURL) == 0 {
		return "off"
	}
	names := make([]string, len(s.NATSURL))
	for i, address := range s.NATSURL {
		names[i] = natsbus.Redacted(address)
	}
	return strings.Join(names, ",")
}
