package auth

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"

	"parley/errs"
	"parley/mail"
	"parley/migrations"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	// patience ends a test that waits for what never comes. It is no measure of speed.
	patience = 30 * time.Second

	password   = "correct horse battery staple"
	issuer     = "https://parley.test"
	accessTTL  = 15 * time.Minute
	refreshTTL = 30 * 24 * time.Hour
)

// world is a Service on a database whose clock the test moves.
type fixture struct {
	*Service
	t     *testing.T
	clock *storetest.Clock
	url   string
}

// each runs fn on a fresh SQLite and on a fresh PostgreSQL, as storetest.Each does, but with a
// clock that the test moves.
func each(t *testing.T, fn func(t *testing.T, f *fixture)) {
	t.Helper()
	for _, kind := range []struct {
		name string
		url  func(testing.TB) string
	}{{"SQLite", storetest.SQLiteURL}, {"PostgreSQL", storetest.PostgresURL}} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			c, url := storetest.NewClock(), kind.url(t)
			fn(t, &fixture{Service: mustService(t, mustMigrate(t, mustOpen(t, url, c.Now))), t: t, clock: c, url: url})
		})
	}
}

// mustOpen opens a database; it is closed when the test ends.
func mustOpen(t *testing.T, url string, now func() time.Time) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), url, store.Options{Now: now, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// mustMigrate gives a new database its tables.
func mustMigrate(t *testing.T, db *store.DB) *store.DB {
	t.Helper()
	if _, err := migrations.Up(t.Context(), db.DB); err != nil {
		t.Fatal(err)
	}
	return db
}

// mustSQLite is an empty database, for a Service that is asked nothing that is stored.
func mustSQLite(t *testing.T, now func() time.Time) *store.DB {
	t.Helper()
	return mustOpen(t, storetest.SQLiteURL(t), now)
}

// secretKey is a key whose secret is one letter again and again, so that a test can sign with it
// too.
func secretKey(letter string) Key {
	key, err := SecretKey(secretOf(letter))
	if err != nil {
		panic(err)
	}
	return key
}

func secretOf(letter string) []byte { return bytes.Repeat([]byte(letter), MinKeyLen) }

// testOptions hash passwords at next to no cost, because what is tested is hardly ever the cost.
func testOptions() Options {
	return Options{
		Keys: []Key{secretKey("k")}, Issuer: issuer, AccessTTL: accessTTL, RefreshTTL: refreshTTL,
		Argon2: &argon2id.Params{Memory: 64, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32},
		Log:    slog.New(slog.DiscardHandler),
	}
}

func mustService(t *testing.T, db *store.DB, change ...func(*Options)) *Service {
	t.Helper()
	opts := testOptions()
	// keeps mails, and sends none without Run
	outbox, err := mail.New(db, mail.Options{Log: opts.Log})
	if err != nil {
		t.Fatal(err)
	}
	opts.Mail, opts.Link = outbox, func(action, token string) string { return issuer + "/" + action + "#token=" + token }
	for _, fn := range change {
		fn(&opts)
	}
	s, err := New(db, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// node is another Service over the same database, as on another machine: with connections, a memory
// and a clock of its own.
func (f *fixture) node(c *storetest.Clock, change ...func(*Options)) *fixture {
	f.t.Helper()
	return &fixture{Service: mustService(f.t, mustOpen(f.t, f.url, c.Now), change...), t: f.t, clock: c, url: f.url}
}

// register makes an account whose address is the nickname's.
func (f *fixture) register(nickname string) *SignedIn {
	f.t.Helper()
	in := Register{Email: nickname + "@example.org", Nickname: nickname, Password: password}
	signedIn, err := f.Register(f.t.Context(), in, Client{})
	if err != nil {
		f.t.Fatal(err)
	}
	return signedIn
}

// login starts another session of who registered as nickname.
func (f *fixture) login(nickname string) *SignedIn {
	f.t.Helper()
	signedIn, err := f.Login(f.t.Context(), Login{Email: nickname + "@example.org", Password: password}, Client{})
	if err != nil {
		f.t.Fatal(err)
	}
	return signedIn
}

// refresh trades a token that has to work.
func (f *fixture) refresh(token string) *SignedIn {
	f.t.Helper()
	signedIn, err := f.Refresh(f.t.Context(), token, nil, Client{})
	if err != nil {
		f.t.Fatal(err)
	}
	return signedIn
}

func (f *fixture) logout(who *SignedIn) {
	f.t.Helper()
	if err := f.Logout(f.t.Context(), who.Actor(), Client{}); err != nil {
		f.t.Fatal(err)
	}
}

// grant is what the access token stands for, which has to work.
func (f *fixture) grant(who *SignedIn) Grant {
	f.t.Helper()
	grant, err := f.Authenticate(f.t.Context(), who.Tokens.AccessToken)
	if err != nil {
		f.t.Fatalf("the access token does not work: %v", err)
	}
	if grant.Actor != who.Actor() {
		f.t.Fatalf("the access token is of %v, want %v", grant.Actor, who.Actor())
	}
	return grant
}

// wantUnauthenticated makes sure that the access token is refused, and how.
func (f *fixture) wantUnauthenticated(name, accessToken string) {
	f.t.Helper()
	grant, err := f.Authenticate(f.t.Context(), accessToken)
	if !errs.Is(err, errs.Unauthenticated) || grant != (Grant{}) {
		f.t.Errorf("%s: got %v (%v), want nobody and UNAUTHENTICATED", name, grant, err)
	}
}

// wantTokenExpired makes sure that the refresh token is refused, and how.
func (f *fixture) wantTokenExpired(name, refreshToken string) {
	f.t.Helper()
	signedIn, err := f.Refresh(f.t.Context(), refreshToken, nil, Client{})
	if signedIn != nil || problems(err) != "TOKEN_EXPIRED refreshToken" {
		f.t.Errorf("%s: got %v (%v), want nobody and TOKEN_EXPIRED", name, signedIn, err)
	}
}

// wantEnded makes sure that nothing works any more that the session was given.
func (f *fixture) wantEnded(name string, who *SignedIn) {
	f.t.Helper()
	f.wantUnauthenticated(name, who.Tokens.AccessToken)
	f.wantTokenExpired(name, who.Tokens.RefreshToken)
}

// secrets is the row of a session.
func (f *fixture) secrets(id model.SessionID) *model.SessionSecrets {
	f.t.Helper()
	row := new(model.SessionSecrets)
	if err := f.db.NewSelect().Model(row).Where("s.id = ?", id).Scan(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return row
}

// rows counts the rows of every table that signing up and in write, but for the audit log, which
// keeps refusals too.
func (f *fixture) rows() map[string]int64 {
	f.t.Helper()
	counts := map[string]int64{}
	for _, table := range []string{"users", "credentials", "sessions", "one_time_tokens", "mails"} {
		n, err := f.db.NewSelect().Table(table).Count(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		counts[table] = n
	}
	return counts
}

// readOurs reads a refresh token that the server has made; false for any other.
func readIssued(t tokens, s string) (refreshToken, bool) {
	r, ok := readRefresh(s)
	return r, ok && t.issuedHere(r)
}

// problems is what a person can correct, as "CODE path", in the order of the input; "" where err is
// of another kind.
func problems(err error) string {
	var found []string
	for _, e := range errs.Correctable(err) {
		found = append(found, string(e.Code)+" "+strings.Join(e.Path, "."))
	}
	return strings.Join(found, ", ")
}

// together runs fn n times at once, and waits.
func together(n int, fn func(i int)) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	wg.Wait()
}
