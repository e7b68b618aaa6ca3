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
	// patience ends a test that waits for what never comes. It is no measure of speed.
	patience = 30 * time.Second

	sender = "Parley Test <parley@parley.test>"
	link   = "https://parley.test/verify?token=s3cret&next=/"
)

// world is a database whose clock the test moves, and what its outboxes log.
type world struct {
	t     *testing.T
	db    *store.DB
	clock *storetest.Clock
	url   string
	log   *logLines
}

// each runs fn on a fresh SQLite and on a fresh PostgreSQL, as storetest.Each does, but with a
// clock that the test moves.
func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	onSQLite(t, fn)
	onPostgres(t, fn)
}

// onSQLite is for what the database has no part in.
func onSQLite(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	on(t, "SQLite", storetest.SQLiteURL, fn)
}

func onPostgres(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	on(t, "PostgreSQL", storetest.PostgresURL, fn)
}

func on(t *testing.T, name string, url func(testing.TB) string, fn func(t *testing.T, w *world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		w := &world{t: t, clock: storetest.NewClock(), url: url(t), log: newLogLines(t)}
		w.db = w.open()
		if _, err := migrations.Up(t.Context(), w.db.DB); err != nil {
			t.Fatal(err)
		}
		fn(t, w)
	})
}

// open opens the world's database once more, as another node does.
func (w *world) open() *store.DB {
	w.t.Helper()
	db, err := store.Open(w.t.Context(), w.url, store.Options{Now: w.clock.Now, MaxConns: 8})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return db
}

// outbox is one that looks often, because what waits for the clock hears no bell.
func (w *world) outbox(smtpURL string, change ...func(*Options)) *Outbox {
	w.t.Helper()
	opts := Options{SMTPURL: smtpURL, From: sender, Server: "Our <Place>", Log: w.log.logger(), PollEvery: 5 * time.Millisecond}
	for _, fn := range change {
		fn(&opts)
	}
	o, err := New(w.db, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// run runs the outbox until stop is called, or the test ends; stop returns when Run has.
func (w *world) run(o *Outbox) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() { o.Run(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	w.t.Cleanup(stop)
	return stop
}

func verify(key string) Message {
	return Message{Kind: VerifyEmail, To: key + "@example.org", Nickname: "Ann", Link: link, Key: key}
}

func (w *world) enqueue(o *Outbox, messages ...Message) {
	w.t.Helper()
	err := w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		for _, m := range messages {
			if err := o.Enqueue(ctx, tx, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) row(key string) *row {
	w.t.Helper()
	r := new(row)
	if err := w.db.NewSelect().Model(r).Where("m.key = ?", key).Scan(w.t.Context()); err != nil {
		w.t.Fatalf("%s: %v", key, err)
	}
	return r
}

// insert stores a mail in the state that a node left it in.
func (w *world) insert(m Message, change func(*row)) {
	w.t.Helper()
	o := w.outbox("")
	w.enqueue(o, m)
	r := w.row(m.Key)
	change(r)
	if _, err := w.db.NewUpdate().Model(r).WherePK().Exec(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantSent(key string) {
	w.t.Helper()
	if r := w.row(key); r.SentAt == nil || r.FailedAt != nil || r.LastError != nil {
		w.t.Errorf("%s is not sent: %+v", key, r)
	}
	w.wantWiped(key)
}

func (w *world) wantFailed(key, reason string) {
	w.t.Helper()
	if r := w.row(key); r.FailedAt == nil || r.SentAt != nil || r.LastError == nil || !strings.Contains(*r.LastError, reason) {
		w.t.Errorf("%s has not failed with %q: %+v", key, reason, r)
	}
	w.wantWiped(key)
}

func (w *world) wantWiped(key string) {
	w.t.Helper()
	if r := w.row(key); r.Recipient+r.Nickname+r.Link != "" || r.ClaimedUntil != nil {
		w.t.Errorf("%s still has what should be wiped: %+v", key, r)
	}
}

// wantWaiting makes sure that the mail is due then, and that nobody works at it.
func (w *world) wantWaiting(key string, from, to time.Duration, reason string) {
	w.t.Helper()
	r := w.row(key)
	if r.SentAt != nil || r.FailedAt != nil || r.StartedAt != nil || r.ClaimedUntil != nil || r.Link == "" {
		w.t.Errorf("%s does not wait: %+v", key, r)
	}
	if r.LastError == nil || !strings.Contains(*r.LastError, reason) {
		w.t.Errorf("%s waits for another reason than %q: %+v", key, reason, r)
	}
	if pause := r.NextAttemptAt.Sub(w.clock.Now()); pause < from || pause > to {
		w.t.Errorf("%s waits for %v, want %v to %v", key, pause, from, to)
	}
}

// logLines is a log that can be waited for.
type logLines struct {
	t       *testing.T
	mu      sync.Mutex
	lines   []string
	changed chan struct{} // closed by the next line
}

// newLogLines makes sure, too, that nobody is named in the log.
func newLogLines(t *testing.T) *logLines {
	l := &logLines{t: t, changed: make(chan struct{})}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, line := range l.lines {
			if strings.Contains(line, "@") || strings.Contains(line, "Ann") {
				t.Errorf("the log names a person: %s", line)
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

// What the outbox logs when a mail has changed, in the database too.
const (
	sent      = "a mail is sent"
	tryAgain  = "will be tried again"
	wasLost   = "may or may not have arrived"
	wasRefuse = "a mail was refused"
	gaveUp    = "is given up"
	noSMTP    = "no SMTP is set"
)

// received is a mail that the server has answered with 250, or should have.
type received struct {
	from, to string
	whole    string
}

// mailServer is a real SMTP server, which may be told to misbehave.
type mailServer struct {
	t     *testing.T
	smtp  *gosmtp.Server
	onTo  func(to string) error
	onEnd func(to string, conn net.Conn, content io.Reader) error // nil: takes it

	mails chan received // those it took

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

// withTLS lets it speak TLS, and returns a pool that trusts it.
func (s *mailServer) withTLS() *x509.CertPool {
	web := httptest.NewTLSServer(nil) // has a certificate for 127.0.0.1
	defer web.Close()
	s.smtp.TLSConfig = &tls.Config{Certificates: web.TLS.Certificates}
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	return pool
}

// serve returns its address.
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

// reserve returns an address where nobody listens until up is called.
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

// next waits for a mail that the server took.
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

// want makes sure how often a command came.
func (s *mailServer) want(n int, command string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.commands[command]; got != n {
		s.t.Errorf("%s came %d times, want %d", command, got, n)
	}
}

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
	if s.server.onTo != nil {
		return s.server.onTo(to)
	}
	return nil
}

func (s *session) Data(content io.Reader) error {
	s.server.count("DATA " + s.to)
	if s.server.onEnd != nil {
		if err := s.server.onEnd(s.to, s.conn.Conn(), content); err != nil {
			if errors.Is(err, errTaken) {
				return nil
			}
			return err
		}
	}
	whole, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	s.server.mails <- received{from: s.from, to: s.to, whole: string(whole)}
	return nil
}

var errTaken = errors.New("onEnd has done everything")
