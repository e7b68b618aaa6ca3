package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
)

// relay is the server that takes the mails.
type relay struct {
	host, port     string
	user, password string
	tls            *tls.Config
	implicitTLS    bool // smtps: TLS from the first byte, RFC 8314
	startTLS       gomail.TLSPolicy

	connectTimeout, answerTimeout, stopGrace time.Duration
}

func newRelay(opts Options) (*relay, error) {
	u, err := url.Parse(opts.SMTPURL)
	if err != nil {
		return nil, errors.New("the SMTP URL cannot be read") // the cause would print the password
	}
	r := &relay{
		host: u.Hostname(), port: u.Port(), user: u.User.Username(), startTLS: gomail.TLSMandatory,
		connectTimeout: opts.ConnectTimeout, answerTimeout: opts.AnswerTimeout, stopGrace: opts.StopGrace,
	}
	r.tls = &tls.Config{ServerName: r.host, MinVersion: tls.VersionTLS12}
	var hasPassword bool
	r.password, hasPassword = u.User.Password()
	if r.host == "" || u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return nil, errors.New("the SMTP URL has to be like smtp://user:password@host:587 or smtps://host:465")
	}
	if (r.user != "") != hasPassword {
		return nil, errors.New("the SMTP URL needs a user and a password, or neither")
	}
	fallback := "587"
	switch u.Scheme {
	case "smtp":
	case "smtps":
		r.implicitTLS, fallback = true, "465"
	default:
		return nil, fmt.Errorf("the SMTP URL has to begin with smtp:// or smtps://, not %q", u.Scheme+":")
	}
	if r.port == "" {
		r.port = fallback
	}
	if n, err := strconv.ParseUint(r.port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("the SMTP URL has the port %s, which is none", r.port)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("the end of the SMTP URL, from the question mark on, cannot be read")
	}
	for name, values := range query {
		if name != "tls" || len(values) != 1 || r.implicitTLS {
			return nil, fmt.Errorf("the SMTP URL has ?%s, which says nothing there", name)
		}
		switch values[0] {
		case "required":
		case "opportunistic":
			r.startTLS = gomail.TLSOpportunistic
		case "none":
			r.startTLS = gomail.NoTLS
		default:
			return nil, fmt.Errorf("the SMTP URL has ?tls=%s, and may have required, opportunistic or none", values[0])
		}
	}
	if r.user != "" && r.startTLS == gomail.NoTLS && !slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, r.host) {
		return nil, errors.New("the SMTP URL has a password and tls=none: it would travel in the clear")
	}
	return r, nil
}

// line is a connection to the relay, signed in.
type line struct {
	*smtp.Client
	conn net.Conn // below TLS
	// stops the end of the context it was opened with from cutting it; false when that has happened
	hold func() bool
}

// dial opens a line, which is cut when ctx ends: reading and writing know no context.
func (r *relay) dial(ctx context.Context) (*line, error) {
	l := new(line)
	// go-mail leaves a connection open that fails in its greeting, and asks for no context after
	// dialling.
	open := func(dialCtx context.Context, network, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(dialCtx, network, net.JoinHostPort(r.host, r.port))
		if err != nil {
			return nil, err
		}
		l.conn = conn
		l.hold = context.AfterFunc(ctx, func() { _ = conn.Close() })
		if !r.implicitTLS {
			return conn, nil
		}
		over := tls.Client(conn, r.tls.Clone())
		return over, over.HandshakeContext(dialCtx)
	}
	options := []gomail.Option{
		gomail.WithTimeout(r.connectTimeout), gomail.WithDialContextFunc(open), gomail.WithTLSConfig(r.tls.Clone()),
	}
	if r.implicitTLS {
		options = append(options, gomail.WithSSL())
	} else {
		options = append(options, gomail.WithTLSPolicy(r.startTLS))
	}
	if r.user != "" {
		// PLAIN and LOGIN go only over TLS or to this machine: go-mail sees to it.
		options = append(options, gomail.WithUsername(r.user), gomail.WithPassword(r.password), gomail.WithOpportunisticSMTPAuth(
			gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthCramMD5))
	}
	client, err := gomail.NewClient(r.host, options...)
	if err == nil {
		l.Client, err = client.DialToSMTPClientWithContext(ctx)
	}
	if err != nil {
		l.cut()
		return nil, err
	}
	return l, l.conn.SetDeadline(time.Time{}) // from here on contexts cut it
}

func (l *line) cut() {
	if l.conn != nil {
		l.hold()
		_ = l.conn.Close()
	}
}

// hangUp says goodbye, as a server may expect, but does not wait long for the answer.
func (l *line) hangUp() {
	_ = l.conn.SetDeadline(time.Now().Add(time.Second))
	_ = l.Quit()
	l.cut()
}
