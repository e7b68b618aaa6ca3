// Package config has the settings: their defaults, their names as environment variables and flags,
// and which combinations are refused.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"parley/errs"
	"parley/model"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
)

// Settings of a server. Each is a flag, and an environment variable of the same name with the
// prefix PARLEY_; a flag wins. The help texts are for the operator: what it is, the unit, and what
// the default means.
type Settings struct {
	Addr        string `default:"localhost:8080" help:"Address to listen on, host:port. An empty host is every interface; port 0 is any free one."`
	DataDir     string `default:"data" help:"Folder for what this node keeps: the SQLite file and the signing key." type:"path"`
	DatabaseURL string `help:"sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME. Default: sqlite:DIR/parley.db in the data folder." name:"database-url" placeholder:"URL"`
	MaxDBConns  int    `default:"20" help:"Connections to PostgreSQL at most." name:"max-db-conns"`
	Migrate     bool   `default:"true" help:"Bring the tables up to date at start; on unless set to false." negatable:""`

	NATSURL     []string `help:"NATS, by which several nodes on one PostgreSQL database tell each other of new messages at once: nats://USER:PASSWORD@HOST:4222 or tls://…; several servers of one NATS cluster separated by commas. Without, nodes find what others have stored by comparing with the database." name:"nats-url" placeholder:"URL,..."`
	NATSSubject string   `default:"parley" help:"What the subjects at NATS begin with; another one for each Parley that shares a NATS." name:"nats-subject"`

	JWTSecret          string `help:"Key that signs access tokens, at least 32 characters; the same on every node. Default: made once, and kept in the data folder." name:"jwt-secret" placeholder:"SECRET"`
	JWTPreviousSecret  string `help:"The secret before this one: tokens that it signed are still accepted, while it is being replaced." name:"jwt-previous-secret" placeholder:"SECRET"`
	JWTKeyFile         string `help:"Ed25519 private key (PEM, PKCS #8) that signs access tokens instead of a secret; its public half is at /.well-known/jwks.json." name:"jwt-key-file" placeholder:"FILE" type:"path"`
	JWTPreviousKeyFile string `help:"The key file before this one, while it is being replaced." name:"jwt-previous-key-file" placeholder:"FILE" type:"path"`

	Issuer     string        `default:"parley" help:"Name of this server, or cluster, in its access tokens (iss and aud)."`
	AccessTTL  time.Duration `default:"15m" help:"How long an access token is valid." name:"access-ttl"`
	RefreshTTL time.Duration `default:"720h" help:"How long a session lasts without being refreshed." name:"refresh-ttl"`

	Registration         string `default:"open" enum:"open,invite,closed" help:"Who may make an account: everybody (open), who has the invitation code (invite), or nobody (closed)."`
	InvitationCode       string `help:"The code for invited people." placeholder:"CODE"`
	RequireVerifiedEmail bool   `help:"Only people who confirmed their e-mail address may start conversations."`
	ConcealEmails        bool   `help:"Registering does not tell whether an address has an account: the answer is always that a mail is on its way, and nobody signs in before confirming the address. Nicknames still tell: registering one again, with another address, shows whether the first time worked."`
	RateLimits           bool   `default:"true" help:"Slow down whoever registers, signs in, asks for mails, writes or searches too often; on unless set to false." negatable:""`

	// Of an account, on each node: see package ratelimit.
	RateMessages      ratelimit.Rate `default:"600/1m" help:"Messages of one account on a node, as TOKENS/TIME: 600/1m is 600 at once, which come back evenly over a minute; off is no limit. The other rates are written alike."`
	RateConversations ratelimit.Rate `default:"200/1h" help:"Conversations that one account starts, direct ones included."`
	RateMembers       ratelimit.Rate `default:"2000/1h" help:"People whom one account adds to groups, at their start or later."`
	RateEdits         ratelimit.Rate `default:"300/1m" help:"Edits and deletions of messages."`
	RateReactions     ratelimit.Rate `default:"300/1m" help:"Reactions that are put to messages, or taken back."`
	RateChanges       ratelimit.Rate `default:"300/5m" help:"Other changes of conversations: titles, settings, roles, members who are removed or leave."`
	RateState         ratelimit.Rate `default:"1200/1m" help:"Changes of what is an account's own: drafts, what is read, muted, pinned or archived, that it types."`
	RateSearches      ratelimit.Rate `default:"300/1m" help:"Searches for messages and for people."`
	RateProfile       ratelimit.Rate `default:"60/10m" help:"Changes of an account's profile and settings."`
	RateExempt        []string       `help:"Ids of accounts that these rates do not limit, user_…, separated by commas; an id stays, a nickname can pass to another." placeholder:"ID,..."`

	SMTPURL     string `help:"Server for outgoing mail: smtp://USER:PASSWORD@HOST:587 (STARTTLS) or smtps://HOST:465. Without one, links are written to the log." name:"smtp-url" placeholder:"URL"`
	MailFrom    string `default:"Parley <parley@localhost>" help:"Sender of mails."`
	PublicURL   string `help:"Where people reach this server, for links in mails, and to know its own pages by. Default: the address it listens on." name:"public-url" placeholder:"URL"`
	AccountLink string `help:"Page that a mailed link leads to, with {action} (verify-email, reset-password) and {token} in it. Default: the built-in page, PUBLIC-URL/account/{action}#token={token}." placeholder:"URL"`

	TrustedProxies []string `help:"Networks of proxies whose X-Forwarded-For is believed, like 10.0.0.0/8, separated by commas. Everybody else's is ignored." placeholder:"CIDR,..."`
	AllowedOrigins []string `default:"http://localhost:*,http://127.0.0.1:*" help:"Web pages that may use the API beside the server's own: origins, separated by commas, with :* for any port; * for everybody."`
	Playground     bool     `default:"true" help:"Serve the playground at /; on unless set to false." negatable:""`
	Introspection  bool     `default:"true" help:"Let clients read the schema; without it, the playground is off. On unless set to false." negatable:""`

	TrustedDocuments string `help:"JSON file of the GraphQL documents that are answered, {SHA-256: DOCUMENT}; all others are refused, and the playground is off. Default: all are answered." placeholder:"FILE" type:"path"`
	Compression      bool   `help:"Compress WebSocket messages of 512 bytes and more, for clients that offer it. It costs CPU time for every follower." negatable:""`

	MaxBodyBytes  int64 `default:"262144" help:"Bytes of one request, or of one WebSocket message, at most."`
	MaxTokens     int   `default:"2500" help:"Tokens of a GraphQL document at most."`
	MaxDepth      int   `default:"15" help:"Levels of nested fields at most."`
	MaxAliases    int   `default:"30" help:"Aliases in a document at most."`
	MaxComplexity int   `default:"12000" help:"Fields that an answer may have at most, counting pages in full. Lists without pages are counted as they are made, up to twice as many."`

	MaxConnsPerAddress int `default:"1000" help:"Connections over TCP that one address has at once on a node at most, whatever it does with them; an IPv6 address counts as its /64 network. One more is answered with 429 and closed. Trusted proxies and clients over loopback are not counted."`
	MaxConversations   int `default:"5000" help:"Conversations that one account is in at most, direct ones included; an account that is in more keeps them."`
	MaxEventComplexity int `default:"1000" help:"Fields that one event of a subscription may have at most, counting pages in full."`
	MaxAnswerBytes     int `default:"2097152" help:"Bytes of an answer at most."`

	MaxSockets    int `default:"50" help:"Live connections that one account has on a node at most, or one address without signing in; one more is closed with 1013."`
	MaxOperations int `default:"100" help:"Operations, and so subscriptions, that run at once on one live connection at most; one more is RATE_LIMITED."`
	MaxStreams    int `default:"20" help:"Subscriptions over all of an account's conversations (events, inboxUpdated, conversationAdded, presenceChanged), of each kind, that the account has on a node at most; one more is RATE_LIMITED."`
	MaxQueueItems int `default:"1024" help:"Results that wait to be read on one live connection at most; a connection with more is closed with 1013."`
	MaxQueueBytes int `default:"1048576" help:"The same, in bytes."`
	MaxReplayed   int `default:"10000" help:"Events, joins and leavings that a stream of everything catches up with; a client that has missed more begins anew (StreamReset)."`
	MaxReplays    int `default:"16" help:"Followers of a node that read what they missed at once; others wait their turn."`

	EditWindow   time.Duration `default:"24h" help:"How long after sending it a message can be edited; 0 is for ever."`
	CompareEvery time.Duration `default:"3s" help:"How often followed conversations are compared with the database, which repairs a lost hint."`
	StopDelay    time.Duration `default:"0s" help:"How long everything is still served after /readyz has begun to say 503 when the server stops, so that a load balancer sees it first: a little more than it takes to. 0 for a node alone."`
	StopTimeout  time.Duration `default:"20s" help:"How long running requests may take to finish when the server stops."`
	DrainSpread  time.Duration `default:"3s" help:"Over how long live connections are sent away when the server stops, so that not all come back at once; a few take less, and none longer than half of the stop timeout."`

	LogLevel  string `default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
	LogFormat string `default:"text" enum:"text,json" help:"text or json."`
}

const minSecret = 32

// Validate refuses what cannot work or is not safe, each with the name of its setting, and fills in
// the defaults that depend on other settings.
func (s *Settings) Validate() error {
	var problems []error
	refuse := func(name, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
	}
	if s.DatabaseURL == "" {
		s.DatabaseURL = "sqlite:" + filepath.Join(s.DataDir, "parley.db")
	}
	if !strings.HasPrefix(s.DatabaseURL, "sqlite:") && !s.Postgres() {
		refuse("PARLEY_DATABASE_URL", "it has to begin with sqlite: or postgres://")
	}
	for i, address := range s.NATSURL {
		if err := natsbus.CheckURL(address); err != nil {
			// not the address: it may have a password in it
			refuse("PARLEY_NATS_URL", "address %d: %v", i+1, err)
		}
	}
	if len(s.NATSURL) > 0 && !s.Postgres() {
		refuse("PARLEY_NATS_URL", "NATS joins nodes that share a PostgreSQL database; a SQLite file has one node, which needs no NATS")
	}
	if err := natsbus.CheckPrefix(s.NATSSubject); err != nil {
		refuse("PARLEY_NATS_SUBJECT", "%v", err)
	}
	if s.JWTSecret != "" && len(s.JWTSecret) < minSecret {
		refuse("PARLEY_JWT_SECRET", "it has %d characters, and needs at least %d", len(s.JWTSecret), minSecret)
	}
	for name, value := range map[string]time.Duration{
		"PARLEY_ACCESS_TTL": s.AccessTTL, "PARLEY_REFRESH_TTL": s.RefreshTTL, "PARLEY_COMPARE_EVERY": s.CompareEvery,
		"PARLEY_STOP_TIMEOUT": s.StopTimeout,
	} {
		if value <= 0 {
			refuse(name, "%v is not a time to wait", value)
		}
	}
	for name, value := range map[string]time.Duration{"PARLEY_STOP_DELAY": s.StopDelay, "PARLEY_DRAIN_SPREAD": s.DrainSpread} {
		if value < 0 {
			refuse(name, "%v is not a time", value)
		}
	}
	s.DrainSpread = min(s.DrainSpread, s.StopTimeout/2) // the rest is for what still runs
	if s.TrustedDocuments != "" || !s.Introspection {
		s.Playground = false // it asks for whatever its user writes, and first for the schema
	}
	if s.JWTPreviousSecret != "" && len(s.JWTPreviousSecret) < minSecret {
		refuse("PARLEY_JWT_PREVIOUS_SECRET", "it has %d characters, and needs at least %d", len(s.JWTPreviousSecret), minSecret)
	}
	if s.JWTSecret != "" && s.JWTKeyFile != "" {
		refuse("PARLEY_JWT_KEY_FILE", "set this or PARLEY_JWT_SECRET, not both; the one to be replaced goes into the setting for the previous one")
	}
	if (s.Registration == "invite") != (s.InvitationCode != "") {
		refuse("PARLEY_INVITATION_CODE", "it goes with PARLEY_REGISTRATION=invite, and only with it")
	}
	if s.AccountLink != "" && (!strings.Contains(s.AccountLink, "{action}") || !strings.Contains(s.AccountLink, "{token}")) {
		refuse("PARLEY_ACCOUNT_LINK", "it needs {action} and {token} in it")
	}
	if public := strings.TrimSuffix(s.PublicURL, "/"); public != "" && !isWebAddress(public) {
		refuse("PARLEY_PUBLIC_URL", "%q is not an address like https://chat.example.org", s.PublicURL)
	}
	if _, err := s.Proxies(); err != nil {
		refuse("PARLEY_TRUSTED_PROXIES", "%v", err)
	}
	if _, err := s.Exempt(); err != nil {
		refuse("PARLEY_RATE_EXEMPT", "%v", err)
	}
	if s.AccessTTL > s.RefreshTTL {
		refuse("PARLEY_ACCESS_TTL", "%v is longer than PARLEY_REFRESH_TTL, %v", s.AccessTTL, s.RefreshTTL)
	}
	if s.Issuer == "" {
		refuse("PARLEY_ISSUER", "it must not be empty")
	}
	if s.EditWindow < 0 {
		refuse("PARLEY_EDIT_WINDOW", "%v is not a time to wait", s.EditWindow)
	}
	for name, value := range map[string]int64{
		"PARLEY_MAX_BODY_BYTES": s.MaxBodyBytes, "PARLEY_MAX_TOKENS": int64(s.MaxTokens), "PARLEY_MAX_DEPTH": int64(s.MaxDepth),
		"PARLEY_MAX_ALIASES": int64(s.MaxAliases), "PARLEY_MAX_COMPLEXITY": int64(s.MaxComplexity),
		"PARLEY_MAX_CONNS_PER_ADDRESS": int64(s.MaxConnsPerAddress),
		"PARLEY_MAX_CONVERSATIONS":     int64(s.MaxConversations),
		"PARLEY_MAX_SOCKETS":           int64(s.MaxSockets), "PARLEY_MAX_REPLAYS": int64(s.MaxReplays),
		"PARLEY_MAX_EVENT_COMPLEXITY": int64(s.MaxEventComplexity), "PARLEY_MAX_ANSWER_BYTES": int64(s.MaxAnswerBytes),
		"PARLEY_MAX_OPERATIONS": int64(s.MaxOperations), "PARLEY_MAX_QUEUE_ITEMS": int64(s.MaxQueueItems),
		"PARLEY_MAX_QUEUE_BYTES": int64(s.MaxQueueBytes), "PARLEY_MAX_REPLAYED": int64(s.MaxReplayed),
		"PARLEY_MAX_STREAMS": int64(s.MaxStreams),
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
			refuse("PARLEY_ALLOWED_ORIGINS", "%q is not an origin like https://app.example.org or http://localhost:*, in ASCII", origin)
		}
	}
	return errors.Join(problems...)
}

// isOrigin accepts any scheme: pages in an app have their own, as capacitor://localhost. Browsers
// send ASCII only.
func isOrigin(s string) bool {
	s = strings.TrimSuffix(s, ":*")
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && u.Host != "" && u.User == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == "" &&
		!strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII || r == '*' })
}

// isWebAddress is isOrigin for what a browser can open.
func isWebAddress(s string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(s), ":")
	return isOrigin(s) && !strings.HasSuffix(s, ":*") && (scheme == "http" || scheme == "https")
}

// Postgres reports whether the database is PostgreSQL.
func (s *Settings) Postgres() bool {
	return strings.HasPrefix(s.DatabaseURL, "postgres://") || strings.HasPrefix(s.DatabaseURL, "postgresql://")
}

// Rates are those of accounts.
func (s *Settings) Rates() ratelimit.Rates {
	return ratelimit.Rates{
		ratelimit.Messages: s.RateMessages, ratelimit.Conversations: s.RateConversations, ratelimit.Members: s.RateMembers,
		ratelimit.Edits: s.RateEdits, ratelimit.Reactions: s.RateReactions, ratelimit.Changes: s.RateChanges,
		ratelimit.State: s.RateState, ratelimit.Searches: s.RateSearches, ratelimit.Profile: s.RateProfile,
	}
}

// Exempt are the accounts that Rates do not limit.
func (s *Settings) Exempt() (ids []model.UserID, err error) {
	for _, text := range s.RateExempt {
		id, err := model.ParseID[model.UserID](text)
		if known := (*errs.Error)(nil); errors.As(err, &known) {
			// without the code, which is for clients of the API
			return nil, errors.New(known.Message)
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Unknown returns those of the variables, NAME=VALUE, that begin with PARLEY_ and name no setting,
// sorted: a misspelt one has no effect. It leaves out PARLEY_TEST_*, which are for tests, and what
// Kubernetes sets in containers for a service called parley.
func Unknown(environ []string, known func(name string) bool) (names []string) {
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		rest, ours := strings.CutPrefix(name, "PARLEY_")
		if !ours || known(name) || strings.HasPrefix(rest, "TEST_") ||
			rest == "SERVICE_HOST" || strings.HasPrefix(rest, "SERVICE_PORT") ||
			strings.HasPrefix(rest, "PORT_") || rest == "PORT" && strings.Contains(value, "://") {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SecretFile is where the signing secret is kept when none is set.
func (s *Settings) SecretFile() string { return filepath.Join(s.DataDir, "jwt.secret") }

// Proxies are the networks of TrustedProxies; a single address is a network too.
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

// Link makes the addresses in mails; publicURL serves where the setting is empty.
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

// Database names the database for people: without the password.
func (s *Settings) Database() string {
	u, err := url.Parse(s.DatabaseURL)
	if err != nil || !s.Postgres() {
		return s.DatabaseURL
	}
	return u.Redacted()
}

// NATS names the servers of NATS for people, without passwords and tokens; "off" without any.
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
