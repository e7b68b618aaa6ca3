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
	// patience ends a test that waits for something that never happens. It does not measure speed.
	patience = 30 * time.Second

	password   = "correct horse battery staple"
	issuer     = "https://parley.test"
	accessTTL  = 15 * time.Minute
	refreshTTL = 30 * 24 * time.Hour
)

// fixture is a Service on a database whose clock the test moves.
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
			fn(t, &fixture{
				Service: mustService(t, mustMigrate(t, mustOpen(t, url, c.Now))), t: t,
				clock: c, url: url,
			})
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

// mustSQLite opens an empty database, for a Service that runs no statements.
func mustSQLite(t *testing.T, now func() time.Time) *store.DB {
	t.Helper()
	return mustOpen(t, storetest.SQLiteURL(t), now)
}

// secretKey returns a key whose secret is a repeated letter, so that a test can sign with it.
func secretKey(letter string) Key {
	key, err := SecretKey(secretOf(letter))
	if err != nil {
		panic(err)
	}
	return key
}

func secretOf(letter string) []byte { return bytes.Repeat([]byte(letter), MinKeyLen) }

// testOptions hash passwords at almost no cost.
func testOptions() Options {
	return Options{
		Keys: []Key{secretKey("k")}, Issuer: issuer, AccessTTL: accessTTL, RefreshTTL: refreshTTL,
		Argon2: &argon2id.Params{
			Memory: 64, Iterations: 1, Parallelism: 1, SaltLength: 16,
			KeyLength: 32,
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

func mustService(t *testing.T, db *store.DB, change ...func(*Options)) *Service {
	t.Helper()
	opts := testOptions()
	// It stores mails, and sends none without Run.
	outbox, err := mail.New(db, mail.Options{Log: opts.Log})
	if err != nil {
		t.Fatal(err)
	}
	opts.Mail, opts.Link = outbox,
		func(action, token string) string { return issuer + "/" + action + "#token=" + token }
	for _, fn := range change {
		fn(&opts)
	}
	s, err := New(db, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// node returns another Service on the same database, as on another machine: with its own
// connections, memory and clock.
func (f *fixture) node(c *storetest.Clock, change ...func(*Options)) *fixture {
	f.t.Helper()
	return &fixture{
		Service: mustService(f.t, mustOpen(f.t, f.url, c.Now), change...), t: f.t,
		clock: c, url: f.url,
	}
}

// register makes an account with the address NICKNAME@example.org.
func (f *fixture) register(nickname string) *SignedIn {
	f.t.Helper()
	in := Register{Email: nickname + "@example.org", Nickname: nickname, Password: password}
	signedIn, err := f.Register(f.t.Context(), in, Client{})
	if err != nil {
		f.t.Fatal(err)
	}
	return signedIn
}

// login starts another session of the account.
func (f *fixture) login(nickname string) *SignedIn {
	f.t.Helper()
	signedIn, err := f.Login(f.t.Context(),
		Login{Email: nickname + "@example.org", Password: password}, Client{})
	if err != nil {
		f.t.Fatal(err)
	}
	return signedIn
}

// refresh trades a refresh token, which has to work.
func (f *fixture) refresh(token string) *SignedIn {
	f.t.Helper()
	signedIn, err := f.Refresh(f.t.Context(), token, nil, Client{})
	if err != nil {
		f.t.Fatal(err)
	}
	return signedIn
}

func (f *fixture) logout(s *SignedIn) {
	f.t.Helper()
	if err := f.Logout(f.t.Context(), s.Actor(), Client{}); err != nil {
		f.t.Fatal(err)
	}
}

// grant returns the grant of the access token, which has to work.
func (f *fixture) grant(s *SignedIn) Grant {
	f.t.Helper()
	grant, err := f.Authenticate(f.t.Context(), s.Tokens.AccessToken)
	if err != nil {
		f.t.Fatalf("the access token does not work: %v", err)
	}
	if grant.Actor != s.Actor() {
		f.t.Fatalf("the access token is of %v, want %v", grant.Actor, s.Actor())
	}
	return grant
}

// wantUnauthenticated checks that the access token is refused.
func (f *fixture) wantUnauthenticated(name, accessToken string) {
	f.t.Helper()
	grant, err := f.Authenticate(f.t.Context(), accessToken)
	if !errs.Is(err, errs.Unauthenticated) || grant != (Grant{}) {
		f.t.Errorf("%s: got %v (%v), want UNAUTHENTICATED", name, grant, err)
	}
}

// wantTokenExpired checks that the refresh token is refused.
func (f *fixture) wantTokenExpired(name, refreshToken string) {
	f.t.Helper()
	signedIn, err := f.Refresh(f.t.Context(), refreshToken, nil, Client{})
	if signedIn != nil || problems(err) != "TOKEN_EXPIRED refreshToken" {
		f.t.Errorf("%s: got %v (%v), want TOKEN_EXPIRED", name, signedIn, err)
	}
}

// wantEnded checks that the tokens of the session no longer work.
func (f *fixture) wantEnded(name string, s *SignedIn) {
	f.t.Helper()
	f.wantUnauthenticated(name, s.Tokens.AccessToken)
	f.wantTokenExpired(name, s.Tokens.RefreshToken)
}

// secrets returns the row of a session.
func (f *fixture) secrets(id model.SessionID) *model.SessionSecrets {
	f.t.Helper()
	row := new(model.SessionSecrets)
	if err := f.db.NewSelect().Model(row).Where("s.id = ?", id).Scan(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return row
}

// rows counts the rows of every table that registering and signing in write to, except the audit
// log, which also has refusals.
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

// readIssued reads a refresh token that was issued here, or returns false.
func readIssued(t tokens, s string) (refreshToken, bool) {
	r, ok := readRefresh(s)
	return r, ok && t.issuedHere(r)
}

// problems lists the errors in the input, each as "CODE path", in the order of the input. It
// returns "" for an error of another kind.
func problems(err error) string {
	var found []string
	for _, e := range errs.Correctable(err) {
		found = append(found, string(e.Code)+" "+strings.Join(e.Path, "."))
	}
	return strings.Join(found, ", ")
}

// concurrently calls fn n times at once, and waits.
func concurrently(n int, fn func(i int)) {
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
