// Package mail is the outbox of mails about accounts: a mail is stored in the transaction that is
// the reason for it, and sent after the commit.
//
// # Sent once
//
// A mail is sent at most once for one key. Each attempt claims the row for a while, and counts it:
// whoever finds another count than its own has lost the mail to another node. Before the content is
// handed over, started_at is written; until then nothing can have arrived, so any failure, a crash
// included, may be followed by another attempt. From then on only the server's answer tells: a
// refusal for now (4xx) is followed by another attempt, and where there is no answer, because the
// connection or the process broke, the mail may have arrived and is given up. A person can ask for
// another one; a mail that cannot be trusted to come once teaches people to ignore it.
//
// # Personal data
//
// The row holds the address, the nickname, and in the link a secret. All three are wiped as soon as
// the mail is sent or given up. Logs and last_error name no recipient: where the server's words may
// quote the address, only its codes are kept.
//
// # Concurrency
//
// An Outbox may be used by any number of goroutines. Run sends up to four mails at a time, in no
// certain order, each over a connection of its own, on goroutines that end before Run does. On
// PostgreSQL any number of nodes may Run. Enqueue never waits for a mail server: its commit rings a
// bell that holds one ring, and Run looks for whatever is due.
package mail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	netmail "net/mail"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"parley/store"
	"parley/text"
)

// Kind says what a mail is about, and so which templates it is made from.
type Kind string

// The kinds of mails. They are the names of the templates, too.
const (
	VerifyEmail Kind = "verify_email" // with a link that confirms the address of a new account
	// with a link that confirms a new address; goes to the new one
	ChangeEmail   Kind = "change_email"
	PasswordReset Kind = "password_reset" // with a link that leads to a new password

	// a notice to the old address: it is about to be replaced
	EmailChanging   Kind = "email_changing"
	PasswordChanged Kind = "password_changed" // a notice
	// a notice: somebody tried to register with an address that has an account
	RegistrationAttempt Kind = "registration_attempt"
)

func kinds() []Kind {
	return []Kind{VerifyEmail, ChangeEmail, PasswordReset, EmailChanging, PasswordChanged, RegistrationAttempt}
}

func (k Kind) hasLink() bool { return k == VerifyEmail || k == ChangeEmail || k == PasswordReset }

// Message is a mail to be sent.
type Message struct {
	Kind     Kind
	To       string // one address without a name: ann@example.org
	Nickname string // whom the mail greets; may be empty
	Link     string // http or https; empty for notices
	// Key names the mail: of several with one key, only the first is sent. It stays readable in the
	// database for 30 days, so it is made from the hash of a token, never from the token.
	Key string
	// Decoy does the work of storing the mail, and stores nothing: for an answer that must not
	// tell, by the time it takes, whether there is a mail.
	Decoy bool
}

// validate finds what only a mistake in the program brings here: the caller has checked what people
// type. Its errors do not quote the address.
func (m Message) validate() error {
	if !slices.Contains(kinds(), m.Kind) {
		return fmt.Errorf("there is no kind of mail called %q", m.Kind)
	}
	if to, err := netmail.ParseAddress(m.To); err != nil || to.Address != m.To {
		return errors.New("the recipient is not one address without a name")
	}
	if m.Key == "" {
		return errors.New("the mail has no key")
	}
	if m.Kind.hasLink() != (m.Link != "") {
		return fmt.Errorf("%s has a link: %t, and should have one: %t", m.Kind, m.Link != "", m.Kind.hasLink())
	}
	if link, err := url.Parse(m.Link); m.Link != "" && (err != nil || link.Host == "" || link.Scheme != "http" && link.Scheme != "https") {
		return errors.New("the link is not an http or https URL")
	}
	for name, s := range map[string]string{"recipient": m.To, "nickname": m.Nickname, "link": m.Link, "key": m.Key} {
		if problem := text.Problem(s, false); problem != "" {
			return fmt.Errorf("the %s %s", name, problem)
		}
	}
	return nil
}

// Options are the settings of an Outbox. The durations have defaults that serve: zero means the
// default.
type Options struct {
	// SMTPURL is the server that takes the mails: smtp://user:password@host:587 or
	// smtps://host:465, the ports being the defaults. smtp requires STARTTLS, unless
	// ?tls=opportunistic or ?tls=none says otherwise. Empty: nothing is sent, and links are written
	// to the log.
	SMTPURL string
	// the sender: parley@example.org, or Parley <parley@example.org>; needed with SMTPURL
	From   string
	Server string       // what the mails call this server; default "Parley"
	Log    *slog.Logger // default: slog.Default()

	// how often to look for mails that are due without a ring of the bell; default 5 s
	PollEvery time.Duration
	// from dialling until the server has accepted the recipient; default 30 s
	ConnectTimeout time.Duration
	// for the content and the server's answer to it; default 10 min (RFC 5321, section 4.5.3.2.6)
	AnswerTimeout time.Duration
	// pause after the first failure, doubled with every further one, give or take a fifth; default
	// 30 s
	RetryAfter  time.Duration
	RetryAtMost time.Duration // the longest such pause; default 1 h
	GiveUpAfter time.Duration // age of a mail after which it is not tried again; default 24 h
	// how long Run, when it ends, waits for an answer to content handed over; default 5 s
	StopGrace time.Duration
}

func (o Options) withDefaults() Options {
	o.Server = cmp.Or(o.Server, "Parley")
	o.Log = cmp.Or(o.Log, slog.Default())
	o.PollEvery = cmp.Or(o.PollEvery, 5*time.Second)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 30*time.Second)
	o.AnswerTimeout = cmp.Or(o.AnswerTimeout, 10*time.Minute)
	o.RetryAfter = cmp.Or(o.RetryAfter, 30*time.Second)
	o.RetryAtMost = cmp.Or(o.RetryAtMost, time.Hour)
	o.GiveUpAfter = cmp.Or(o.GiveUpAfter, 24*time.Hour)
	o.StopGrace = cmp.Or(o.StopGrace, 5*time.Second)
	return o
}

// Outbox is the mails of one database.
type Outbox struct {
	db        *store.DB
	opts      Options
	relay     *relay // nil: no SMTP is set
	templates map[Kind]templates
	// holds one ring: that something is due counts, not how often it was said
	bell chan struct{}
}

// New makes an outbox. It connects to nothing and starts nothing; it refuses settings that cannot
// work.
func New(db *store.DB, opts Options) (*Outbox, error) {
	o := &Outbox{db: db, opts: opts.withDefaults(), bell: make(chan struct{}, 1)}
	var err error
	if o.templates, err = parseTemplates(); err != nil {
		return nil, err
	}
	if opts.SMTPURL != "" || opts.From != "" {
		if _, err := netmail.ParseAddress(opts.From); err != nil {
			return nil, fmt.Errorf("the sender %q is not an address like parley@example.org or Parley <parley@example.org>", opts.From)
		}
	}
	if opts.SMTPURL != "" {
		if o.relay, err = newRelay(o.opts); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Enqueue stores a mail in the caller's transaction, to be sent once that is in. A second mail with
// the same key is ignored.
func (o *Outbox) Enqueue(ctx context.Context, tx *store.Tx, m Message) error {
	if err := m.validate(); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	r := &row{
		ID: id, Key: m.Key, Kind: m.Kind, Recipient: m.To, Nickname: m.Nickname, Link: m.Link,
		CreatedAt: tx.Now, NextAttemptAt: tx.Now,
	}
	if err := tx.InsertWhen(ctx, !m.Decoy, r, "ON CONFLICT (key) DO NOTHING"); err != nil {
		return err
	}
	tx.AfterCommit(o.ring)
	return nil
}

// Discard takes back, in the caller's transaction, what still waits for an address, and the mails
// with these keys.
func (o *Outbox) Discard(ctx context.Context, tx *store.Tx, to string, keys ...string) error {
	_, err := tx.NewDelete().Model((*row)(nil)).Where("recipient = ? OR key IN (?)", to, bun.List(append(keys, ""))).Exec(ctx)
	return err
}

// Withdraw takes back, in the caller's transaction, the mails with these keys that still wait.
func (o *Outbox) Withdraw(ctx context.Context, tx *store.Tx, keys ...string) error {
	_, err := tx.NewDelete().Model((*row)(nil)).Where("key IN (?)", bun.List(append(keys, ""))).Exec(ctx)
	return err
}

func (o *Outbox) ring() {
	select {
	case o.bell <- struct{}{}:
	default: // it rings already
	}
}
