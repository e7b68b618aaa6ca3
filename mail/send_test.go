package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"
)

func plain(address string) string { return "smtp://" + address + "?tls=none" }

func TestAMailIsDelivered(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		server := newMailServer(t)
		// only the commit wakes Run
		o := f.outbox(plain(server.start()), func(opts *Options) { opts.PollEvery = time.Hour })
		f.run(o)
		f.enqueue(o, verify("ann"))
		got := server.next()
		f.log.wait(1, sent)
		f.wantSent("ann")
		if got.from != "parley@parley.test" || got.to != "ann@example.org" {
			t.Errorf("the envelope is from %s to %s", got.from, got.to)
		}
		m, err := netmail.ReadMessage(strings.NewReader(got.raw))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"From": `"Parley Test" <parley@parley.test>`, "To": "<ann@example.org>",
			"Subject":        "Please confirm your address",
			"Message-Id":     "<" + f.row("ann").ID.String() + "@parley.test>",
			"Auto-Submitted": "auto-generated",
			"Date":           "Sun, 22 Nov 2026 10:15:30 +0000", "Mime-Version": "1.0",
		} {
			if header := m.Header.Get(name); header != want {
				t.Errorf("%s is %q, want %q", name, header, want)
			}
		}
		text, html := bodies(t, m)
		for _, want := range []string{"Hello Ann,", "Our <Place>", link} {
			if !strings.Contains(text, want) {
				t.Errorf("the text lacks %q:\n%s", want, text)
			}
		}
		escaped := strings.ReplaceAll(link, "&", "&amp;")
		for _, want := range []string{
			"Hello Ann,", "Our &lt;Place&gt;",
			`<a href="` + escaped + `"`, ">" + escaped + "</a>",
		} {
			if !strings.Contains(html, want) {
				t.Errorf("the HTML lacks %q:\n%s", want, html)
			}
		}
	})
}

func bodies(t *testing.T, m *netmail.Message) (text, html string) {
	t.Helper()
	_, boundary, _ := strings.Cut(m.Header.Get("Content-Type"), "boundary=")
	parts := multipart.NewReader(m.Body, strings.Trim(boundary, `"`))
	for _, part := range []struct {
		kind string
		into *string
	}{{"text/plain", &text}, {"text/html", &html}} {
		p, err := parts.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		if kind := p.Header.Get("Content-Type"); !strings.HasPrefix(kind, part.kind) {
			t.Fatalf("a part is %s, want %s", kind, part.kind)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		*part.into = string(body)
	}
	if _, err := parts.NextPart(); !errors.Is(err, io.EOF) {
		t.Errorf("there is another part (%v)", err)
	}
	return text, html
}

func TestAServerThatWasDownIsTriedAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		address, up := reserve(t)
		o := f.outbox(plain(address))
		f.run(o)
		f.enqueue(o, verify("ann"))
		f.log.wait(1, retrying)
		f.wantWaiting("ann", 24*time.Second, 36*time.Second, "connect: ")
		f.clock.Forward(36 * time.Second)
		f.log.wait(2, retrying)
		f.wantWaiting("ann", 48*time.Second, 72*time.Second, "refused")
		server := newMailServer(t)
		server.serve(up())
		f.clock.Forward(72 * time.Second)
		server.next()
		f.log.wait(1, sent)
		f.wantSent("ann")
	})
}

func TestAMailIsGivenUpAfterADay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		address, _ := reserve(t)
		o := f.outbox(plain(address))
		f.run(o)
		f.enqueue(o, verify("ann"))
		f.log.wait(1, retrying)
		f.clock.Forward(24*time.Hour + time.Second)
		f.log.wait(1, gaveUp)
		f.wantFailed("ann", "connect: ")
	})
}

// Everything that a server can answer, or fail to answer, and the outcome for the mail.
func TestAnswers(t *testing.T) {
	t.Parallel()
	answer := func(code int, enhanced ...int) error {
		return &gosmtp.SMTPError{
			Code: code, EnhancedCode: gosmtp.EnhancedCode(enhanced),
			Message: "<ann@example.org>: not now, Ann",
		}
	}
	for _, test := range []struct {
		name    string
		onRcpt  error
		onData  func(to string, conn net.Conn, content io.Reader) error
		logged  string
		reason  string
		retried bool // after a while, when the server behaves
		started int  // how often content began to be handed over, in all
	}{
		{
			name: "recipient refused for now", onRcpt: answer(450, 4, 2, 1), logged: retrying,
			reason: "RCPT: 450 4.2.1", retried: true, started: 1,
		},
		{
			name: "recipient refused", onRcpt: answer(550, 5, 1, 1), logged: wasRefused,
			reason: "RCPT: 550 5.1.1",
		},
		{
			name: "content refused for now", logged: retrying, reason: "content: 451 4.7.1",
			retried: true, started: 2,
			onData: func(_ string, _ net.Conn, content io.Reader) error {
				_, _ = io.Copy(io.Discard, content)
				return answer(451, 4, 7, 1)
			},
		},
		{
			name: "content refused", logged: wasRefused, reason: "content: 554 5.7.1", started: 1,
			onData: func(string, net.Conn, io.Reader) error { return answer(554, 5, 7, 1) },
		},
		{
			name: "connection cut within the content", logged: hasUnknown, reason: "content: ",
			started: 1,
			onData: func(_ string, conn net.Conn, content io.Reader) error {
				_, _ = io.ReadFull(content, make([]byte, 100))
				_ = conn.Close()
				return errHandled
			},
		},
		{
			name: "connection cut after the content", logged: hasUnknown, reason: "content: ",
			started: 1,
			onData: func(_ string, conn net.Conn, content io.Reader) error {
				_, _ = io.Copy(io.Discard, content)
				_ = conn.Close()
				return errHandled
			},
		},
		{
			name: "nonsense after the content", logged: hasUnknown,
			reason: "content: the answer is not SMTP", started: 1,
			onData: func(_ string, conn net.Conn, content io.Reader) error {
				_, _ = io.Copy(io.Discard, content)
				_, _ = io.WriteString(conn, "ann@example.org?\r\n")
				_ = conn.Close()
				return errHandled
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, f *fixture) {
				server := newMailServer(t)
				var behave atomic.Bool
				server.onRcpt = func(to string) error {
					if to == "ann@example.org" && !behave.Load() {
						return test.onRcpt
					}
					return nil
				}
				server.onData = func(to string, conn net.Conn, content io.Reader) error {
					if to == "ann@example.org" && !behave.Load() && test.onData != nil {
						return test.onData(to, conn, content)
					}
					return nil
				}
				o := f.outbox(plain(server.start()))
				f.run(o)
				f.enqueue(o, verify("ann"))
				f.log.wait(1, test.logged)
				behave.Store(true)
				if test.retried {
					f.wantWaiting("ann", 24*time.Second, 36*time.Second, test.reason)
				} else {
					f.wantFailed("ann", test.reason)
				}
				f.clock.Forward(time.Hour)
				if test.retried {
					if got := server.next(); got.to != "ann@example.org" {
						t.Errorf("a mail to %s came", got.to)
					}
					f.log.wait(1, sent)
					f.wantSent("ann")
				}
				f.clock.Forward(10 * time.Hour)
				f.enqueue(o, verify("bob"))
				if got := server.next(); got.to != "bob@example.org" {
					t.Errorf("a mail to %s came", got.to)
				}
				server.want(test.started, "DATA ann@example.org")
			})
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	signIn := "parley:pass%20word@"
	for _, test := range []struct {
		name   string
		url    func(address string) string
		offers bool // STARTTLS
		wraps  bool // TLS from the first byte
		trusts bool
		reason string // why it fails; empty: it is sent
	}{
		{
			name: "STARTTLS", url: func(a string) string { return "smtp://" + signIn + a },
			offers: true, trusts: true,
		},
		{
			name: "STARTTLS, required but not offered",
			url:  func(a string) string { return "smtp://" + a }, trusts: true, reason: "STARTTLS",
		},
		{
			name: "STARTTLS, certificate not trusted",
			url:  func(a string) string { return "smtp://" + a }, offers: true,
			reason: "certificate",
		},
		{
			name:   "opportunistic, offered",
			url:    func(a string) string { return "smtp://" + signIn + a + "?tls=opportunistic" },
			offers: true, trusts: true,
		},
		{
			name: "opportunistic, not offered",
			url:  func(a string) string { return "smtp://" + a + "?tls=opportunistic" },
		},
		{
			name: "smtps", url: func(a string) string { return "smtps://" + signIn + a },
			wraps:  true,
			trusts: true,
		},
		{
			name: "smtps, certificate not trusted",
			url:  func(a string) string { return "smtps://" + a }, wraps: true,
			reason: "certificate",
		},
		{
			name: "wrong password", url: func(a string) string {
				return "smtp://parley:wrong@" +
					a
			},
			offers: true, trusts: true, reason: "535",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			onSQLite(t, func(t *testing.T, f *fixture) {
				server := newMailServer(t)
				pool := server.withTLS()
				listener := listen(t)
				if test.wraps {
					listener = tls.NewListener(listener, server.smtp.TLSConfig)
				}
				if !test.offers {
					server.smtp.TLSConfig = nil
				}
				url := test.url(server.serve(listener))
				o := f.outbox(url)
				if test.trusts {
					o.relay.tls.RootCAs = pool
				}
				f.run(o)
				f.enqueue(o, verify("ann"))
				if test.reason != "" {
					f.log.wait(1, retrying)
					f.wantWaiting("ann", 24*time.Second, 36*time.Second, test.reason)
					server.want(0, "MAIL")
					return
				}
				server.next()
				f.log.wait(1, sent)
				if strings.Contains(url, "parley:") {
					server.want(1, "AUTH")
				}
			})
		})
	}
}

// The connection to a server that never sends its greeting ends after ConnectTimeout.
func TestASilentServer(t *testing.T) {
	t.Parallel()
	onSQLite(t, func(t *testing.T, f *fixture) {
		listener := listen(t)
		defer func() { _ = listener.Close() }()
		o := f.outbox(plain(listener.Addr().String()),
			func(opts *Options) { opts.ConnectTimeout = 10 * time.Millisecond })
		f.run(o)
		f.enqueue(o, verify("ann"))
		f.log.wait(1, retrying)
		f.wantWaiting("ann", 24*time.Second, 36*time.Second, "connect: ")
	})
}

func TestStopping(t *testing.T) {
	t.Parallel()
	// slow returns a server that closes started when the content of a mail begins, and that answers
	// once answer is closed.
	slow := func(t *testing.T) (server *mailServer, started chan struct{}, answer chan struct{}) {
		started, answer = make(chan struct{}), make(chan struct{})
		server = newMailServer(t)
		server.onData = func(string, net.Conn, io.Reader) error {
			close(started)
			<-answer
			return nil
		}
		return server, started, answer
	}
	t.Run("before the content: it stays due", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, f *fixture) {
			listener := listen(t) // never sends a greeting
			defer func() { _ = listener.Close() }()
			o := f.outbox(plain(listener.Addr().String()),
				func(opts *Options) { opts.ConnectTimeout = time.Hour })
			stop := f.run(o)
			f.enqueue(o, verify("ann"))
			conn, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			stop()
			f.wantWaiting("ann", 0, 0, "connect: "+context.Canceled.Error())
		})
	})
	t.Run("within the content: the answer is waited for", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, f *fixture) {
			server, started, answer := slow(t)
			o := f.outbox(plain(server.start()), func(opts *Options) { opts.StopGrace = patience })
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				o.Run(ctx)
			}()
			f.enqueue(o, verify("ann"))
			<-started
			cancel()
			close(answer)
			<-ended
			f.wantSent("ann")
		})
	})
	t.Run("within the content: the answer never comes", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, f *fixture) {
			server, started, answer := slow(t)
			defer close(answer)
			o := f.outbox(plain(server.start()),
				func(opts *Options) { opts.StopGrace = time.Millisecond })
			stop := f.run(o)
			f.enqueue(o, verify("ann"))
			<-started
			stop()
			f.wantFailed("ann", "content: "+context.Canceled.Error())
		})
	})
}
