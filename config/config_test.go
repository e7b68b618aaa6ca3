package config_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"parley/config"
	"parley/model"
	"parley/ratelimit"
)

// parse parses and validates a command line, as the program does.
func parse(t *testing.T, args ...string) (*config.Settings, error) {
	t.Helper()
	s := new(config.Settings)
	parser, err := kong.New(s, config.Defaults())
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return s, err
}

func TestTheDefaultsAreValid(t *testing.T) {
	t.Parallel()
	s, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.DatabaseURL, "sqlite:") ||
		!strings.HasSuffix(s.DatabaseURL, "/data/parley.db") || s.Postgres() {
		t.Errorf("the database is %s", s.DatabaseURL)
	}
}

func TestValidateNamesTheSetting(t *testing.T) {
	t.Parallel()
	for flag, variable := range map[string]string{
		"--database-url=mysql://x":              "PARLEY_DATABASE_URL",
		"--jwt-secret=short":                    "PARLEY_JWT_SECRET",
		"--access-ttl=0s":                       "PARLEY_ACCESS_TTL",
		"--access-ttl=800h":                     "PARLEY_ACCESS_TTL",
		"--stop-timeout=-1s":                    "PARLEY_STOP_TIMEOUT",
		"--stop-delay=-1s":                      "PARLEY_STOP_DELAY",
		"--drain-spread=-1s":                    "PARLEY_DRAIN_SPREAD",
		"--issuer=":                             "PARLEY_ISSUER",
		"--max-depth=0":                         "PARLEY_MAX_DEPTH",
		"--max-operations=0":                    "PARLEY_MAX_OPERATIONS",
		"--max-conversations=0":                 "PARLEY_MAX_CONVERSATIONS",
		"--max-event-complexity=0":              "PARLEY_MAX_EVENT_COMPLEXITY",
		"--max-answer-bytes=0":                  "PARLEY_MAX_ANSWER_BYTES",
		"--max-conns-per-address=0":             "PARLEY_MAX_CONNS_PER_ADDRESS",
		"--max-queue-items=0":                   "PARLEY_MAX_QUEUE_ITEMS",
		"--max-queue-bytes=0":                   "PARLEY_MAX_QUEUE_BYTES",
		"--max-replayed=0":                      "PARLEY_MAX_REPLAYED",
		"--max-streams=0":                       "PARLEY_MAX_STREAMS",
		"--max-db-conns=1":                      "PARLEY_MAX_DB_CONNS",
		"--db-conn-lifetime=0s":                 "PARLEY_DB_CONN_LIFETIME",
		"--allowed-origins=app.example.org":     "PARLEY_ALLOWED_ORIGINS",
		"--allowed-origins=https://a.example/x": "PARLEY_ALLOWED_ORIGINS",
		"--allowed-origins=https://u@a.example": "PARLEY_ALLOWED_ORIGINS",
		// browsers send xn--bcher-kva.example
		"--allowed-origins=https://bücher.example":   "PARLEY_ALLOWED_ORIGINS",
		"--allowed-origins=null":                     "PARLEY_ALLOWED_ORIGINS",
		"--allowed-origins=https://*.example.org":    "PARLEY_ALLOWED_ORIGINS",
		"--allowed-origins=localhost:3000":           "PARLEY_ALLOWED_ORIGINS",
		"--public-url=ftp://chat.example.org":        "PARLEY_PUBLIC_URL",
		"--public-url=https://chat.example.org/chat": "PARLEY_PUBLIC_URL",
		"--public-url=http://localhost:*":            "PARLEY_PUBLIC_URL",
		// it goes with PostgreSQL only
		"--nats-url=nats://h:4222": "PARLEY_NATS_URL",
		"--nats-subject=a b":       "PARLEY_NATS_SUBJECT",
		"--nats-subject=":          "PARLEY_NATS_SUBJECT",
		"--nats-subject=>":         "PARLEY_NATS_SUBJECT",
	} {
		if _, err := parse(t, flag); err == nil || !strings.Contains(err.Error(), variable+":") {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for _, flag := range []string{
		"--public-url=HTTPS://chat.example.org:8443/", "--allowed-origins=capacitor://localhost",
		"--allowed-origins=*", "--allowed-origins=https://a.example,http://localhost:*",
		"--database-url=postgres://h/x",
	} {
		if _, err := parse(t, flag); err != nil {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestDatabaseHidesThePassword(t *testing.T) {
	t.Parallel()
	for url, shown := range map[string]string{
		"postgres://ann:secret@db.example/parley":              "db.example/parley",
		"postgres://ann:secret@a.example:1,b.example:2/parley": "a.example:1,b.example:2/parley",
		"postgres://db.example/parley?password=secret&x=y":     "x=y",
		"postgres://db.example/parley?sslpassword=secret":      "db.example/parley",
		"postgres://ann:secret@db.example:port/parley":         "cannot be read",
	} {
		s, err := parse(t, "--database-url="+url)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Database(); strings.Contains(got, "secret") || !strings.Contains(got, shown) {
			t.Errorf("%s: got %s", url, got)
		}
	}
}

func TestNATS(t *testing.T) {
	t.Parallel()
	const postgres = "--database-url=postgres://h/x"
	s, err := parse(t, postgres,
		"--nats-url=nats://ann:secret@a.example:4222,tls://t0ken@b.example",
		"--nats-subject=chat.parley-2")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.NATS(); got != "nats://a.example:4222,tls://b.example" {
		t.Errorf("got %s", got)
	}
	if s, err := parse(t, postgres); err != nil || s.NATS() != "off" || s.NATSSubject != "parley" {
		t.Errorf("without: %s, %v", s.NATS(), err)
	}
	for _, address := range []string{
		"http://ann:secret@h", "ann:secret@h:4222",
		"nats://ann:sec/ret@h", "nats://ann:secret%@h", "nats://",
	} {
		_, err := parse(t, postgres, "--nats-url=nats://fine:4222,"+address)
		if err == nil || !strings.Contains(err.Error(), "PARLEY_NATS_URL: address 2:") ||
			strings.Contains(err.Error(), "sec") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := parse(t, "--nats-url=nats://h"); err == nil ||
		!strings.Contains(err.Error(), "SQLite file has one node") {
		t.Errorf("with SQLite: %v", err)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	s, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range ratelimit.Buckets() {
		if s.Rates()[b] == (ratelimit.Rate{}) {
			t.Errorf("%s has no default", b)
		}
		flag := "--rate-" + b.String() + "="
		if other, err := parse(t, flag+"7/70s"); err != nil ||
			other.Rates()[b] != (ratelimit.Rate{Burst: 7, Every: 10 * time.Second}) {
			t.Errorf("%s7/70s: %v, %v", flag, other.Rates()[b], err)
		}
		if other, err := parse(t, flag+"off"); err != nil ||
			other.Rates()[b] != (ratelimit.Rate{}) {
			t.Errorf("%soff: %v, %v", flag, other.Rates()[b], err)
		}
		if _, err := parse(t, flag+"7"); err == nil || !strings.Contains(err.Error(), "600/1m") {
			t.Errorf("%s7: %v", flag, err)
		}
	}
	one, other := model.NewUserID(), model.NewUserID()
	s, err = parse(t, "--rate-exempt="+one.String()+","+other.String())
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := s.Exempt(); err != nil || !slices.Equal(ids, []model.UserID{one, other}) {
		t.Errorf("exempt are %v, %v", ids, err)
	}
	for _, id := range []string{"bob", model.NewConversationID().String()} {
		_, err := parse(t, "--rate-exempt="+one.String()+","+id)
		if err == nil || !strings.Contains(err.Error(),
			"PARLEY_RATE_EXEMPT: Expected a user id (user_…), got ") {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	environ := []string{
		"PARLEY_MAX_DEPHT=3", "PARLEY_MAX_DEPTH=3", "PARLEY_=", "parley_addr=:1", "PATH=/bin",
		"XPARLEY_ADDR=:1", "PARLEY_AD_DR=:1",
		"PARLEY_TEST_SKIP=postgres",
		"PARLEY_SERVICE_HOST=10.0.0.7", "PARLEY_SERVICE_PORT=8080", "PARLEY_SERVICE_PORT_HTTP=8080",
		"PARLEY_PORT=tcp://10.0.0.7:8080", "PARLEY_PORT_8080_TCP_ADDR=10.0.0.7",
	}
	got := config.Unknown(environ, func(name string) bool { return name == "PARLEY_MAX_DEPTH" })
	if want := []string{"PARLEY_", "PARLEY_AD_DR", "PARLEY_MAX_DEPHT"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got = config.Unknown([]string{"PARLEY_PORT=8080"}, func(string) bool { return false })
	if want := []string{"PARLEY_PORT"}; !slices.Equal(got, want) { // it is not one of Kubernetes
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSettingsThatDependOnOthers(t *testing.T) {
	t.Parallel()
	s, err := parse(t, "--stop-timeout=2s", "--drain-spread=5s",
		"--trusted-documents=documents.json")
	if err != nil {
		t.Fatal(err)
	}
	if s.DrainSpread != s.StopTimeout/2 {
		t.Errorf("connections are closed over %v of %v", s.DrainSpread, s.StopTimeout)
	}
	if s.Playground {
		t.Error("the playground is on, and every request of it would be refused")
	}
	if s, err = parse(t, "--introspection=false", "--playground"); err != nil || s.Playground {
		t.Errorf("the playground is on, and could not read the schema: %v", err)
	}
	if s, err = parse(t); err != nil || !s.Playground {
		t.Errorf("the playground is off: %v", err)
	}
}
