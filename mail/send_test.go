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
	each(t, func(t *testing.T, w *world) {
		server := newMailServer(t)
		// the bell alone
		o := w.outbox(plain(server.start()), func(opts *Options) { opts.PollEvery = time.Hour })
		w.run(o)
		w.enqueue(o, verify("ann"))
		got := server.next()
		w.log.wait(1, sent)
		w.wantSent("ann")
		if got.from != "parley@parley.test" || got.to != "ann@example.org" {
			t.Errorf("the envelope is from %s to %s", got.from, got.to)
		}
		m, err := netmail.ReadMessage(strings.NewReader(got.whole))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"From": `"Parley Test" <parley@parley.test>`, "To": "<ann@example.org>", "Subject": "Please confirm your address",
			"Message-Id": "<" + w.row("ann").ID.String() + "@parley.test>", "Auto-Submitted": "auto-generated",
			"Date": "Sun, 22 Nov 2026 10:15:30 +0000", "Mime-Version": "1.0",
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
		for _, want := range []string{"Hello Ann,", "Our &lt;Place&gt;", `<a href="` + escaped + `"`, ">" + escaped + "</a>"} {
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
	each(t, func(t *testing.T, w *world) {
		address, up := reserve(t)
		o := w.outbox(plain(address))
		w.run(o)
		w.enqueue(o, verify("ann"))
		w.log.wait(1, tryAgain)
		w.wantWaiting("ann", 24*time.Second, 36*time.Second, "connect: ")
		w.clock.Forward(36 * time.Second)
		w.log.wait(2, tryAgain)
		w.wantWaiting("ann", 48*time.Second, 72*time.Second, "refused")
		server := newMailServer(t)
		server.serve(up())
		w.clock.Forward(72 * time.Second)
		server.next()
		w.log.wait(1, sent)
		w.wantSent("ann")
	})
}

func TestAMailIsGivenUpAfterADay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		address, _ := reserve(t)
		o := w.outbox(plain(address))
		w.run(o)
		w.enqueue(o, verify("ann"))
		w.log.wait(1, tryAgain)
		w.clock.Forward(24*time.Hour + time.Second)
		w.log.wait(1, gaveUp)
		w.wantFailed("ann", "connect: ")
	})
}

// Everything that a server can answer, or fail to, and what becomes of the mail.
func TestAnswers(t *testing.T) {
	t.Parallel()
	answer := func(code int, enhanced ...int) error {
		return &gosmtp.SMTPError{
			Code: code, EnhancedCode: gosmtp.EnhancedCode(enhanced), Message: "<ann@example.org>: not now, Ann",
		}
	}
	for _, test := range []struct {
		name    string
		onTo    error
		onEnd   func(to string, conn net.Conn, content io.Reader) error
		said    string
		reason  string
		goesOut bool // after a while, when the server behaves
		begun   int  // how often content began to be handed over, in all
	}{
		{name: "recipient refused for now", onTo: answer(450, 4, 2, 1), said: tryAgain, reason: "RCPT: 450 4.2.1", goesOut: true, begun: 1},
		{name: "recipient refused", onTo: answer(550, 5, 1, 1), said: wasRefuse, reason: "RCPT: 550 5.1.1"},
		{
			name: "content refused for now", said: tryAgain, reason: "content: 451 4.7.1", goesOut: true, begun: 2,
			onEnd: func(_ string, _ net.Conn, content io.Reader) error {
				_, _ = io.Copy(io.Discard, content)
				return answer(451, 4, 7, 1)
			},
		},
		{
			name: "content refused", said: wasRefuse, reason: "content: 554 5.7.1", begun: 1,
			onEnd: func(string, net.Conn, io.Reader) error { return answer(554, 5, 7, 1) },
		},
		{
			name: "connection cut within the content", said: wasLost, reason: "content: ", begun: 1,
			onEnd: func(_ string, conn net.Conn, content io.Reader) error {
				_, _ = io.ReadFull(content, make([]byte, 100))
				_ = conn.Close()
				return errTaken
			},
		},
		{
			name: "connection cut after the content", said: wasLost, reason: "content: ", begun: 1,
			onEnd: func(_ string, conn net.Conn, content io.Reader) error {
				_, _ = io.Copy(io.Discard, content)
				_ = conn.Close()
				return errTaken
			},
		},
		{
			name: "nonsense after the content", said: wasLost, reason: "content: the answer is not SMTP", begun: 1,
			onEnd: func(_ string, conn net.Conn, content io.Reader) error {
				_, _ = io.Copy(io.Discard, content)
				_, _ = io.WriteString(conn, "ann@example.org?\r\n")
				_ = conn.Close()
				return errTaken
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				server := newMailServer(t)
				var behave atomic.Bool
				server.onTo = func(to string) error {
					if to == "ann@example.org" && !behave.Load() {
						return test.onTo
					}
					return nil
				}
				server.onEnd = func(to string, conn net.Conn, content io.Reader) error {
					if to == "ann@example.org" && !behave.Load() && test.onEnd != nil {
						return test.onEnd(to, conn, content)
					}
					return nil
				}
				o := w.outbox(plain(server.start()))
				w.run(o)
				w.enqueue(o, verify("ann"))
				w.log.wait(1, test.said)
				behave.Store(true)
				if test.goesOut {
					w.wantWaiting("ann", 24*time.Second, 36*time.Second, test.reason)
				} else {
					w.wantFailed("ann", test.reason)
				}
				w.clock.Forward(time.Hour)
				if test.goesOut {
					if got := server.next(); got.to != "ann@example.org" {
						t.Errorf("a mail to %s came", got.to)
					}
					w.log.wait(1, sent)
					w.wantSent("ann")
				}
				w.clock.Forward(10 * time.Hour)
				w.enqueue(o, verify("bob"))
				if got := server.next(); got.to != "bob@example.org" {
					t.Errorf("a mail to %s came", got.to)
				}
				server.want(test.begun, "DATA ann@example.org")
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
		{name: "STARTTLS", url: func(a string) string { return "smtp://" + signIn + a }, offers: true, trusts: true},
		{name: "STARTTLS, required but not offered", url: func(a string) string { return "smtp://" + a }, trusts: true, reason: "STARTTLS"},
		{name: "STARTTLS, certificate of nobody known", url: func(a string) string { return "smtp://" + a }, offers: true, reason: "certificate"},
		{name: "opportunistic, offered", url: func(a string) string { return "smtp://" + signIn + a + "?tls=opportunistic" }, offers: true, trusts: true},
		{name: "opportunistic, not offered", url: func(a string) string { return "smtp://" + a + "?tls=opportunistic" }},
		{name: "smtps", url: func(a string) string { return "smtps://" + signIn + a }, wraps: true, trusts: true},
		{name: "smtps, certificate of nobody known", url: func(a string) string { return "smtps://" + a }, wraps: true, reason: "certificate"},
		{name: "wrong password", url: func(a string) string { return "smtp://parley:wrong@" + a }, offers: true, trusts: true, reason: "535"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			onSQLite(t, func(t *testing.T, w *world) {
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
				o := w.outbox(url)
				if test.trusts {
					o.relay.tls.RootCAs = pool
				}
				w.run(o)
				w.enqueue(o, verify("ann"))
				if test.reason != "" {
					w.log.wait(1, tryAgain)
					w.wantWaiting("ann", 24*time.Second, 36*time.Second, test.reason)
					server.want(0, "MAIL")
					return
				}
				server.next()
				w.log.wait(1, sent)
				if strings.Contains(url, "parley:") {
					server.want(1, "AUTH")
				}
			})
		})
	}
}

// A server that greets nobody is given up after ConnectTimeout.
func TestASilentServer(t *testing.T) {
	t.Parallel()
	onSQLite(t, func(t *testing.T, w *world) {
		listener := listen(t)
		defer func() { _ = listener.Close() }()
		o := w.outbox(plain(listener.Addr().String()), func(opts *Options) { opts.ConnectTimeout = 10 * time.Millisecond })
		w.run(o)
		w.enqueue(o, verify("ann"))
		w.log.wait(1, tryAgain)
		w.wantWaiting("ann", 24*time.Second, 36*time.Second, "connect: ")
	})
}

func TestStopping(t *testing.T) {
	t.Parallel()
	// slow is a server that has the content of a mail, and answers when told to.
	slow := func(t *testing.T) (server *mailServer, has chan struct{}, answer chan struct{}) {
		has, answer = make(chan struct{}), make(chan struct{})
		server = newMailServer(t)
		server.onEnd = func(string, net.Conn, io.Reader) error {
			close(has)
			<-answer
			return nil
		}
		return server, has, answer
	}
	t.Run("before the content: it stays due", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, w *world) {
			listener := listen(t) // greets nobody
			defer func() { _ = listener.Close() }()
			o := w.outbox(plain(listener.Addr().String()), func(opts *Options) { opts.ConnectTimeout = time.Hour })
			stop := w.run(o)
			w.enqueue(o, verify("ann"))
			conn, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			stop()
			w.wantWaiting("ann", 0, 0, "connect: "+context.Canceled.Error())
		})
	})
	t.Run("within the content: the answer is waited for", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, w *world) {
			server, has, answer := slow(t)
			o := w.outbox(plain(server.start()), func(opts *Options) { opts.StopGrace = patience })
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				o.Run(ctx)
			}()
			w.enqueue(o, verify("ann"))
			<-has
			cancel()
			close(answer)
			<-ended
			w.wantSent("ann")
		})
	})
	t.Run("within the content: the answer never comes", func(t *testing.T) {
		t.Parallel()
		each(t, func(t *testing.T, w *world) {
			server, has, answer := slow(t)
			defer close(answer)
			o := w.outbox(plain(server.start()), func(opts *Options) { opts.StopGrace = time.Millisecond })
			stop := w.run(o)
			w.enqueue(o, verify("ann"))
			<-has
			stop()
			w.wantFailed("ann", "content: "+context.Canceled.Error())
		})
	})
}
