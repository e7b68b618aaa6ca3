// Package mail has the outbox of mails about accounts (a transactional outbox): a mail is stored in
// the transaction that causes it, and sent after the commit.
//
// # Sent once
//
// A mail is sent at most once for one key. Each attempt claims the row for a while and increments
// its count of attempts: a node that finds a higher count has lost the mail to another node.
//
// Before the content is handed over, started_at is stored. Until then the mail cannot have arrived,
// so it is retried after any failure, also after a crash. From then on the server's answer decides.
// After a temporary failure (4xx) the mail is retried. Without an answer, because the connection or
// the process broke, the mail may have arrived, and it is not retried. Users can ask for another
// one, and would learn to ignore mails that come twice.
//
// # Personal data
//
// The row holds the address, the nickname, and in the link a secret. All three are wiped as soon as
// the mail is sent or given up. Logs and last_error do not contain the recipient: if the server's
// answer may quote the address, only its codes are kept.
//
// # Concurrency
//
// An Outbox may be used by any number of goroutines. It has no locks. Run sends up to four mails at
// a time, in no particular order, each over its own connection and on its own goroutine. When Run's
// context ends, those goroutines have StopGrace to finish, and then a few seconds to store the
// outcome; Run returns after them. On PostgreSQL any number of nodes may run an outbox.
//
// Enqueue waits for the database, and never for a mail server: its commit wakes Run, which looks
// for mails that are due.
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
	"parley/wake"
)

// Kind is the subject of a mail. It determines the templates.
type Kind string

// The kinds of mails. Each is also the file name of its templates.
const (
	// with a link
	VerifyEmail   Kind = "verify_email"
	ChangeEmail   Kind = "change_email" // goes to the new address
	PasswordReset Kind = "password_reset"

	// notices, without a link
	EmailChanging       Kind = "email_changing" // goes to the old address
	PasswordChanged     Kind = "password_changed"
	RegistrationAttempt Kind = "registration_attempt" // someone tried to use the address
)

func kinds() []Kind {
	return []Kind{
		VerifyEmail, ChangeEmail, PasswordReset, EmailChanging, PasswordChanged,
		RegistrationAttempt,
	}
}

func (k Kind) hasLink() bool { return k == VerifyEmail || k == ChangeEmail || k == PasswordReset }

// Message is a mail to be sent.
type Message struct {
	Kind     Kind
	To       string // one address without a name: ann@example.org
	Nickname string // for the greeting; may be empty
	Link     string // http or https; empty for notices
	// Key identifies the mail: only the first mail with a key is sent. It stays in the database for
	// 30 days, so it must not be a secret: for a mail with a token it is the token's hash.
	Key string
	// Decoy makes Enqueue do the same work without storing the mail, so that the time of an answer
	// does not reveal whether there is a mail.
	Decoy bool
}

// validate finds mistakes of the caller, which has validated the input of users already. Its errors
// do not contain the address.
func (m Message) validate() error {
	if !slices.Contains(kinds(), m.Kind) {
		return fmt.Errorf("%q is not a kind of mail", m.Kind)
	}
	if to, err := netmail.ParseAddress(m.To); err != nil || to.Address != m.To {
		return errors.New("the recipient is not one address without a name")
	}
	if m.Key == "" {
		return errors.New("the mail has no key")
	}
	if m.Kind.hasLink() != (m.Link != "") {
		return fmt.Errorf("%s has a link: %t, want %t", m.Kind, m.Link != "", m.Kind.hasLink())
	}
	if link, err := url.Parse(m.Link); m.Link != "" &&
		(err != nil || link.Host == "" || link.Scheme != "http" && link.Scheme != "https") {
		return errors.New("the link is not an http or https URL")
	}
	for name, s := range map[string]string{
		"recipient": m.To, "nickname": m.Nickname,
		"link": m.Link, "key": m.Key,
	} {
		if problem := text.Problem(s, false); problem != "" {
			return fmt.Errorf("the %s %s", name, problem)
		}
	}
	return nil
}

// Options are the settings of an Outbox. A zero duration means the default.
type Options struct {
	// SMTPURL is the mail server: smtp://user:password@host:587 or smtps://host:465. These ports
	// are the defaults. smtp requires STARTTLS, unless ?tls=opportunistic or ?tls=none is given. If
	// it is empty, no mail is sent, and links are written to the log.
	SMTPURL string
	// From is the sender: parley@example.org, or Parley <parley@example.org>. It is required with
	// SMTPURL.
	From   string
	Server string       // the name of this server in mails; default "Parley"
	Log    *slog.Logger // default: slog.Default()

	// PollEvery is how often Run looks for due mails without being woken; default 5 s.
	PollEvery time.Duration
	// ConnectTimeout limits the time from dialling until the server has accepted the recipient;
	// default 30 s.
	ConnectTimeout time.Duration
	// AnswerTimeout limits the time to send the content and to receive the answer; default 10 min
	// (RFC 5321, section 4.5.3.2.6).
	AnswerTimeout time.Duration
	// MinBackoff is the pause after the first failure. Each further failure doubles it, up to
	// MaxBackoff. The jitter is a fifth. Default 30 s.
	MinBackoff  time.Duration
	MaxBackoff  time.Duration // default 1 h
	GiveUpAfter time.Duration // the age of a mail after which it is not retried; default 24 h
	// StopGrace is how long Run waits for answers to content that was handed over, after its
	// context has ended; default 5 s.
	StopGrace time.Duration
}

func (o Options) withDefaults() Options {
	o.Server = cmp.Or(o.Server, "Parley")
	o.Log = cmp.Or(o.Log, slog.Default())
	o.PollEvery = cmp.Or(o.PollEvery, 5*time.Second)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 30*time.Second)
	o.AnswerTimeout = cmp.Or(o.AnswerTimeout, 10*time.Minute)
	o.MinBackoff = cmp.Or(o.MinBackoff, 30*time.Second)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, time.Hour)
	o.GiveUpAfter = cmp.Or(o.GiveUpAfter, 24*time.Hour)
	o.StopGrace = cmp.Or(o.StopGrace, 5*time.Second)
	return o
}

// Outbox stores and sends the mails of one database.
type Outbox struct {
	db        *store.DB
	opts      Options
	relay     *relay // nil without SMTPURL
	templates map[Kind]templates
	due       wake.Notifier // wakes Run when a mail was enqueued
}

// New returns an outbox. It validates the settings, and does not connect to the mail server: Run
// does.
func New(db *store.DB, opts Options) (*Outbox, error) {
	o := &Outbox{db: db, opts: opts.withDefaults(), due: wake.NewNotifier()}
	var err error
	if o.templates, err = parseTemplates(); err != nil {
		return nil, err
	}
	if opts.SMTPURL != "" || opts.From != "" {
		if _, err := netmail.ParseAddress(opts.From); err != nil {
			return nil, fmt.Errorf(
				"the sender %q is not an address like parley@example.org or Parley "+
					"<parley@example.org>", opts.From)
		}
	}
	if opts.SMTPURL != "" {
		if o.relay, err = newRelay(o.opts); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Enqueue stores a mail in the caller's transaction. Run sends it after the commit. A second mail
// with the same key is ignored.
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
	tx.AfterCommit(o.due.Notify)
	return nil
}

// Discard deletes, in the caller's transaction, the mails that wait for an address, and those with
// these keys.
func (o *Outbox) Discard(ctx context.Context, tx *store.Tx, to string, keys ...string) error {
	_, err := tx.NewDelete().Model((*row)(nil)).
		Where("recipient = ? OR key IN (?)", to, bun.List(append(keys, ""))).Exec(ctx)
	return err
}

// Withdraw deletes, in the caller's transaction, the mails with these keys.
func (o *Outbox) Withdraw(ctx context.Context, tx *store.Tx, keys ...string) error {
	_, err := tx.NewDelete().Model((*row)(nil)).Where("key IN (?)", bun.List(append(keys, ""))).
		Exec(ctx)
	return err
}
