package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"parley/migrations"
	"parley/store"
	"parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	// patience ends a test that waits for something that never happens. It does not measure speed.
	patience = 30 * time.Second

	sender = "Parley Test <parley@parley.test>"
	link   = "https://parley.test/verify?token=s3cret&next=/"
)

// fixture is a database whose clock the test moves, and the log of its outboxes.
type fixture struct {
	t     *testing.T
	db    *store.DB
	clock *storetest.Clock
	url   string
	log   *logLines
}

// each runs fn on a fresh SQLite and on a fresh PostgreSQL, as storetest.Each does, but with a
// clock that the test moves.
func each(t *testing.T, fn func(t *testing.T, f *fixture)) {
	t.Helper()
	onSQLite(t, fn)
	onPostgres(t, fn)
}

// onSQLite is for tests that do not depend on the database.
func onSQLite(t *testing.T, fn func(t *testing.T, f *fixture)) {
	t.Helper()
	on(t, "SQLite", storetest.SQLiteURL, fn)
}

func onPostgres(t *testing.T, fn func(t *testing.T, f *fixture)) {
	t.Helper()
	on(t, "PostgreSQL", storetest.PostgresURL, fn)
}

func on(t *testing.T, name string, url func(testing.TB) string, fn func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		f := &fixture{t: t, clock: storetest.NewClock(), url: url(t), log: newLogLines(t)}
		f.db = f.open()
		if _, err := migrations.Up(t.Context(), f.db.DB); err != nil {
			t.Fatal(err)
		}
		fn(t, f)
	})
}

// open opens the fixture's database, as another node does.
func (f *fixture) open() *store.DB {
	f.t.Helper()
	db, err := store.Open(f.t.Context(), f.url, store.Options{Now: f.clock.Now, MaxConns: 8})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			f.t.Error(err)
		}
	})
	return db
}

// outbox returns one that polls often, because no commit wakes it when the test moves the clock.
func (f *fixture) outbox(smtpURL string, change ...func(*Options)) *Outbox {
	f.t.Helper()
	opts := Options{
		SMTPURL: smtpURL, From: sender, Server: "Our <Place>", Log: f.log.logger(),
		PollEvery: 5 * time.Millisecond,
	}
	for _, fn := range change {
		fn(&opts)
	}
	o, err := New(f.db, opts)
	if err != nil {
		f.t.Fatal(err)
	}
	return o
}

// run runs the outbox until stop is called, or the test ends; stop returns when Run has.
func (f *fixture) run(o *Outbox) (stop func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	var running sync.WaitGroup
	running.Go(func() { o.Run(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	f.t.Cleanup(stop)
	return stop
}

func verify(key string) Message {
	return Message{
		Kind: VerifyEmail, To: key + "@example.org", Nickname: "Ann", Link: link,
		Key: key,
	}
}

func (f *fixture) enqueue(o *Outbox, messages ...Message) {
	f.t.Helper()
	err := f.db.InTx(f.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		for _, m := range messages {
			if err := o.Enqueue(ctx, tx, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) row(key string) *row {
	f.t.Helper()
	r := new(row)
	if err := f.db.NewSelect().Model(r).Where("m.key = ?", key).Scan(f.t.Context()); err != nil {
		f.t.Fatalf("%s: %v", key, err)
	}
	return r
}

// insert stores a mail in the state that a node left it in.
func (f *fixture) insert(m Message, change func(*row)) {
	f.t.Helper()
	o := f.outbox("")
	f.enqueue(o, m)
	r := f.row(m.Key)
	change(r)
	if _, err := f.db.NewUpdate().Model(r).WherePK().Exec(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) wantSent(key string) {
	f.t.Helper()
	if r := f.row(key); r.SentAt == nil || r.FailedAt != nil || r.LastError != nil {
		f.t.Errorf("%s is not sent: %+v", key, r)
	}
	f.wantWiped(key)
}

func (f *fixture) wantFailed(key, reason string) {
	f.t.Helper()
	if r := f.row(key); r.FailedAt == nil || r.SentAt != nil || r.LastError == nil ||
		!strings.Contains(*r.LastError, reason) {
		f.t.Errorf("%s has not failed with %q: %+v", key, reason, r)
	}
	f.wantWiped(key)
}

func (f *fixture) wantWiped(key string) {
	f.t.Helper()
	if r := f.row(key); r.Recipient+r.Nickname+r.Link != "" || r.ClaimedUntil != nil {
		f.t.Errorf("%s still has what should be wiped: %+v", key, r)
	}
}

// wantWaiting checks that the mail is due between from and to, and that no node has claimed it.
func (f *fixture) wantWaiting(key string, from, to time.Duration, reason string) {
	f.t.Helper()
	r := f.row(key)
	if r.SentAt != nil || r.FailedAt != nil || r.StartedAt != nil || r.ClaimedUntil != nil ||
		r.Link == "" {
		f.t.Errorf("%s does not wait: %+v", key, r)
	}
	if r.LastError == nil || !strings.Contains(*r.LastError, reason) {
		f.t.Errorf("%s waits for another reason than %q: %+v", key, reason, r)
	}
	if wait := r.NextAttemptAt.Sub(f.clock.Now()); wait < from || wait > to {
		f.t.Errorf("%s waits for %v, want %v to %v", key, wait, from, to)
	}
}

// logLines is a log that can be waited for.
type logLines struct {
	t       *testing.T
	mu      sync.Mutex
	lines   []string
	changed chan struct{} // closed by the next line
}

// newLogLines returns a log that fails the test if it contains a recipient.
func newLogLines(t *testing.T) *logLines {
	l := &logLines{t: t, changed: make(chan struct{})}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, line := range l.lines {
			if strings.Contains(line, "@") || strings.Contains(line, "Ann") {
				t.Errorf("the log contains the recipient: %s", line)
			}
		}
		if t.Failed() {
			t.Logf("the log:\n%s", strings.Join(l.lines, ""))
		}
	})
	return l
}

func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logLines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(line))
	close(l.changed)
	l.changed = make(chan struct{})
	return len(line), nil
}

// wait waits until n lines have the words, and returns them.
func (l *logLines) wait(n int, words string) []string {
	l.t.Helper()
	enough := time.After(patience)
	for {
		l.mu.Lock()
		var found []string
		for _, line := range l.lines {
			if strings.Contains(line, words) {
				found = append(found, line)
			}
		}
		changed := l.changed
		l.mu.Unlock()
		if len(found) >= n {
			return found
		}
		select {
		case <-changed:
		case <-enough:
			l.t.Fatalf("%d of %d times in the log: %s", len(found), n, words)
		}
	}
}

// What the outbox logs when it has stored the outcome of a mail.
const (
	sent       = "mail sent"
	retrying   = "retrying later"
	hasUnknown = "may or may not have arrived"
	wasRefused = "refused a mail"
	gaveUp     = "giving up"
	noSMTP     = "no mail server is set"
)

// received is a mail that the server accepts.
type received struct {
	from, to string
	raw      string
}

// mailServer is a real SMTP server, which a test can make misbehave.
type mailServer struct {
	t      *testing.T
	smtp   *gosmtp.Server
	onRcpt func(to string) error
	onData func(to string, conn net.Conn, content io.Reader) error // nil: accepts the mail

	mails chan received // those it accepted

	mu       sync.Mutex
	commands map[string]int // AUTH that succeeded, MAIL, and "DATA to"
}

func newMailServer(t *testing.T) *mailServer {
	s := &mailServer{t: t, mails: make(chan received, 1000), commands: map[string]int{}}
	s.smtp = gosmtp.NewServer(gosmtp.BackendFunc(func(c *gosmtp.Conn) (gosmtp.Session, error) {
		return &session{server: s, conn: c}, nil
	}))
	s.smtp.Domain = "mail.test"
	s.smtp.ErrorLog = stdlog.New(io.Discard, "", 0)
	return s
}

// withTLS makes the server offer STARTTLS, and returns a pool with its certificate.
func (s *mailServer) withTLS() *x509.CertPool {
	web := httptest.NewTLSServer(nil) // has a certificate for 127.0.0.1
	defer web.Close()
	s.smtp.TLSConfig = &tls.Config{Certificates: web.TLS.Certificates}
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	return pool
}

// serve starts the server and returns its address.
func (s *mailServer) serve(listener net.Listener) string {
	s.t.Helper()
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.smtp.Serve(listener) })
	s.t.Cleanup(func() {
		_ = s.smtp.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

func (s *mailServer) start() string {
	s.t.Helper()
	return s.serve(listen(s.t))
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// reserve returns an address on which nothing listens until up is called.
func reserve(t *testing.T) (address string, up func() net.Listener) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "reserved")
	t.Cleanup(func() { _ = file.Close() })
	err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	own := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}
	return own.String(), func() net.Listener {
		t.Helper()
		err := syscall.Listen(fd, 16)
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.FileListener(file)
		if err != nil {
			t.Fatal(err)
		}
		return listener
	}
}

// next waits for a mail that the server accepts.
func (s *mailServer) next() received {
	s.t.Helper()
	select {
	case m := <-s.mails:
		return m
	case <-time.After(patience):
		s.t.Fatal("no mail came")
		return received{}
	}
}

func (s *mailServer) count(command string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands[command]++
}

// want checks how often a command came.
func (s *mailServer) want(n int, command string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.commands[command]; got != n {
		s.t.Errorf("%s came %d times, want %d", command, got, n)
	}
}

// session is an SMTP session of a mailServer.
type session struct {
	server   *mailServer
	conn     *gosmtp.Conn
	from, to string
}

func (*session) Reset()        {}
func (*session) Logout() error { return nil }

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "parley" || password != "pass word" {
			return gosmtp.ErrAuthFailed
		}
		s.server.count("AUTH")
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *gosmtp.MailOptions) error {
	s.server.count("MAIL")
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	s.to = to
	if s.server.onRcpt != nil {
		return s.server.onRcpt(to)
	}
	return nil
}

func (s *session) Data(content io.Reader) error {
	s.server.count("DATA " + s.to)
	if s.server.onData != nil {
		if err := s.server.onData(s.to, s.conn.Conn(), content); err != nil {
			if errors.Is(err, errHandled) {
				return nil
			}
			return err
		}
	}
	raw, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	s.server.mails <- received{from: s.from, to: s.to, raw: string(raw)}
	return nil
}

var errHandled = errors.New("onData has handled the mail")
