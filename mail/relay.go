package mail

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
)

// relay is the mail server that the outbox hands mails over to.
type relay struct {
	host, port     string
	user, password string
	tls            *tls.Config
	implicitTLS    bool // smtps: TLS from the first byte, RFC 8314
	startTLS       gomail.TLSPolicy

	connectTimeout, answerTimeout, stopGrace time.Duration
}

func newRelay(opts Options) (*relay, error) {
	refuse := func(format string, args ...any) (*relay, error) {
		return nil, fmt.Errorf("the SMTP URL "+format, args...)
	}
	u, err := url.Parse(opts.SMTPURL)
	if err != nil {
		return refuse("is not a URL") // the cause would quote the password
	}
	r := &relay{
		host: u.Hostname(), port: u.Port(), user: u.User.Username(), startTLS: gomail.TLSMandatory,
		connectTimeout: opts.ConnectTimeout, answerTimeout: opts.AnswerTimeout,
		stopGrace: opts.StopGrace,
	}
	r.tls = &tls.Config{ServerName: r.host, MinVersion: tls.VersionTLS12}
	var hasPassword bool
	r.password, hasPassword = u.User.Password()
	if r.host == "" || u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return refuse("must have the form smtp://user:password@host:587 or smtps://host:465")
	}
	if (r.user != "") != hasPassword {
		return refuse("needs both a user and a password, or neither")
	}
	fallback := "587"
	switch u.Scheme {
	case "smtp":
	case "smtps":
		r.implicitTLS, fallback = true, "465"
	default:
		return refuse("must begin with smtp:// or smtps://, not %q", u.Scheme+":")
	}
	if r.port == "" {
		r.port = fallback
	}
	if n, err := strconv.ParseUint(r.port, 10, 16); err != nil || n == 0 {
		return refuse("has the port %s; ports are from 1 to 65535", r.port)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return refuse("has a malformed query, after the question mark")
	}
	for name, values := range query {
		if name != "tls" || len(values) != 1 || r.implicitTLS {
			return refuse("has ?%s; only one ?tls, and only with smtp://, is allowed", name)
		}
		switch values[0] {
		case "required":
		case "opportunistic":
			r.startTLS = gomail.TLSOpportunistic
		case "none":
			r.startTLS = gomail.NoTLS
		default:
			return refuse("has ?tls=%s; allowed are required, opportunistic and none", values[0])
		}
	}
	if r.user != "" && r.startTLS == gomail.NoTLS &&
		!slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, r.host) {
		return refuse("has a password and tls=none: the password would be sent unencrypted")
	}
	return r, nil
}

// connection is a connection to the relay, signed in.
type connection struct {
	*smtp.Client
	conn net.Conn // below TLS
	// detach prevents the end of the context from closing the connection. It returns false if the
	// context has ended.
	detach func() bool
}

// dial opens a connection, which is closed when ctx ends, because reading and writing do not take a
// context.
func (r *relay) dial(ctx context.Context) (*connection, error) {
	c := new(connection)
	// go-mail leaves a connection open if the greeting fails, and ignores the context after
	// dialling.
	open := func(dialCtx context.Context, network, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(dialCtx, network, net.JoinHostPort(r.host, r.port))
		if err != nil {
			return nil, err
		}
		c.conn = conn
		c.detach = context.AfterFunc(ctx, func() { _ = conn.Close() })
		if !r.implicitTLS {
			return conn, nil
		}
		over := tls.Client(conn, r.tls.Clone())
		return over, over.HandshakeContext(dialCtx)
	}
	options := []gomail.Option{
		gomail.WithTimeout(r.connectTimeout), gomail.WithDialContextFunc(open),
		gomail.WithTLSConfig(r.tls.Clone()),
	}
	if r.implicitTLS {
		options = append(options, gomail.WithSSL())
	} else {
		options = append(options, gomail.WithTLSPolicy(r.startTLS))
	}
	if r.user != "" {
		// go-mail uses PLAIN and LOGIN only over TLS or to this machine.
		options = append(options, gomail.WithUsername(r.user), gomail.WithPassword(r.password),
			gomail.WithOpportunisticSMTPAuth(
				gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin,
				gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthCramMD5))
	}
	client, err := gomail.NewClient(r.host, options...)
	if err == nil {
		c.Client, err = client.DialToSMTPClientWithContext(ctx)
	}
	if err != nil {
		c.abort()
		return nil, err
	}
	return c, c.conn.SetDeadline(time.Time{}) // from here on, contexts close it
}

// abort closes the connection, if there is one.
func (c *connection) abort() {
	if c.conn != nil {
		c.detach()
		_ = c.conn.Close()
	}
}

// quit ends the SMTP session with QUIT (RFC 5321, section 4.1.1.10), waits up to a second for the
// answer, and closes the connection.
func (c *connection) quit() {
	_ = c.conn.SetDeadline(time.Now().Add(time.Second))
	_ = c.Quit()
	c.abort()
}
