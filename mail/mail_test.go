package mail

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"parley/store"
	"parley/store/storetest"
)

func TestARolledBackTransactionSendsNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		server := newMailServer(t)
		o := f.outbox(plain(server.start()))
		f.run(o)
		changedMind := errors.New("changed my mind")
		err := f.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(o.Enqueue(ctx, tx, verify("ann")), changedMind)
		})
		if !errors.Is(err, changedMind) {
			t.Fatal(err)
		}
		f.enqueue(o, verify("bob"))
		if got := server.next(); got.to != "bob@example.org" {
			t.Errorf("a mail to %s came", got.to)
		}
		f.log.wait(1, sent)
		if n, err := f.db.NewSelect().Model((*row)(nil)).Count(t.Context()); n != 1 {
			t.Errorf("there are %d mails (%v)", n, err)
		}
	})
}

func TestTheCommitWakesRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		server := newMailServer(t)
		o := f.outbox(plain(server.start()), func(opts *Options) { opts.PollEvery = time.Hour })
		err := f.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			if err := o.Enqueue(ctx, tx, verify("ann")); err != nil {
				return err
			}
			if len(o.due.C()) != 0 {
				t.Error("Run is woken before the commit")
			}
			return nil
		})
		if err != nil || len(o.due.C()) != 1 {
			t.Fatalf("%d notifications (%v), want 1", len(o.due.C()), err)
		}
		f.run(o)
		server.next()
		f.eventually("Run waits to be woken", func() bool { return len(o.due.C()) == 0 })
		// several, because a claim that is under way may find one without being woken
		for _, key := range []string{"bob", "cy", "dee"} {
			f.enqueue(o, verify(key))
			server.next()
		}
	})
}

func TestTheSameKeyOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		server := newMailServer(t)
		o := f.outbox(plain(server.start()))
		f.run(o)
		f.enqueue(o, verify("ann"), verify("ann")) // while it waits
		server.next()
		f.log.wait(1, sent)
		f.enqueue(o, verify("ann")) // after it was sent
		f.enqueue(o, verify("bob"))
		if got := server.next(); got.to != "bob@example.org" {
			t.Errorf("a mail to %s came", got.to)
		}
		f.log.wait(2, sent)
		f.wantSent("ann")
		server.want(1, "DATA ann@example.org")
	})
}

func TestCrashes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		server := newMailServer(t)
		now := f.clock.Now()
		past, later := now.Add(-time.Second), now.Add(time.Minute)
		f.insert(verify("before"), func(r *row) { r.Attempts, r.ClaimedUntil = 1, &past })
		f.insert(verify("during"), func(r *row) {
			r.Attempts, r.ClaimedUntil, r.StartedAt = 1, &past, &past
		})
		f.insert(verify("alive"), func(r *row) { r.Attempts, r.ClaimedUntil = 1, &later })
		o := f.outbox(plain(server.start()))
		f.run(o)
		if got := server.next(); got.to != "before@example.org" {
			t.Errorf("a mail to %s came", got.to)
		}
		f.log.wait(1, sent)
		f.wantSent("before")
		f.log.wait(1, hasUnknown)
		f.wantFailed("during", "content: the node that sent it stopped")
		if r := f.row("alive"); r.Attempts != 1 || r.SentAt != nil {
			t.Errorf("claimed although another node has it: %+v", r)
		}
		f.clock.Forward(time.Minute) // the other node has stopped
		if got := server.next(); got.to != "alive@example.org" {
			t.Errorf("a mail to %s came", got.to)
		}
		f.log.wait(2, sent)
		server.want(0, "DATA during@example.org")
	})
}

// A node whose claim has expired notices, before it hands over the content, that another node has
// the mail.
func TestAClaimThatExpiredHandsOverNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		server := newMailServer(t)
		o := f.outbox(plain(server.start()))
		f.enqueue(o, verify("ann"))
		slow, err := o.claim(t.Context())
		if err != nil || slow == nil {
			t.Fatalf("claimed %v (%v)", slow, err)
		}
		if again, err := o.claim(t.Context()); err != nil || again != nil {
			t.Fatalf("claimed twice: %v (%v)", again, err)
		}
		f.clock.Forward(o.opts.ConnectTimeout + claimMargin)
		quick, err := o.claim(t.Context())
		if err != nil || quick == nil || quick.ID != slow.ID {
			t.Fatalf("claimed %v (%v)", quick, err)
		}
		o.deliver(t.Context(), slow)
		f.log.wait(1, "another node has it")
		server.want(0, "DATA ann@example.org")
		o.deliver(t.Context(), quick)
		server.next()
		f.wantSent("ann")
		server.want(1, "DATA ann@example.org")
	})
}

func TestNodesShareTheWork(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, f *fixture) { // SQLite has one node
		const mails = 200
		server := newMailServer(t)
		url := plain(server.start())
		one := f.outbox(url)
		var messages []Message
		for i := range mails {
			messages = append(messages, verify(fmt.Sprint("ann", i)))
		}
		f.enqueue(one, messages...)
		f.run(one)
		other := *f
		other.db = f.open()
		other.run(other.outbox(url))
		f.log.wait(mails, sent)
		seen := map[string]int{}
		for range mails {
			seen[server.next().to]++
		}
		if len(seen) != mails || len(server.mails) != 0 {
			t.Errorf("%d of %d got a mail, and %d mails are too many", len(seen), mails,
				len(server.mails))
		}
	})
}

func TestWithoutSMTPTheLogHasTheLink(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		o := f.outbox("", func(opts *Options) { opts.From = "" })
		f.run(o)
		f.enqueue(o, verify("ann"), Message{
			Kind: PasswordChanged, To: "ann@example.org",
			Nickname: "Ann", Key: "notice",
		})
		lines := strings.Join(f.log.wait(2, noSMTP), "")
		for _, want := range []string{
			"level=INFO", "kind=verify_email", link,
			"kind=password_changed",
		} {
			if !strings.Contains(lines, want) {
				t.Errorf("the log lacks %q:\n%s", want, lines)
			}
		}
		f.eventually("both are sent", func() bool {
			return f.row("ann").SentAt != nil && f.row("notice").SentAt != nil
		})
		f.wantSent("ann")
		f.wantSent("notice")
	})
}

// eventually polls a condition until it is true.
func (f *fixture) eventually(name string, condition func() bool) {
	f.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	enough := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-enough:
			f.t.Fatalf("it never happened: %s", name)
		}
	}
}

func TestOldRowsAreRemoved(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		o := f.outbox("")
		f.enqueue(o, verify("old"))
		f.clock.Forward(keepFor)
		f.enqueue(o, verify("young"))
		f.clock.Forward(time.Second)
		f.run(o)
		count := func() int64 {
			n, err := f.db.NewSelect().Model((*row)(nil)).Count(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		f.eventually("the old one is gone", func() bool { return count() == 1 })
		f.row("young")
		f.clock.Forward(keepFor) // while it runs
		f.eventually("all are gone", func() bool { return count() == 0 })
	})
}

func TestAnOutageOfTheDatabaseDoesNotEndRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		server := newMailServer(t)
		o := f.outbox(plain(server.start()))
		f.run(o)
		f.rename("mails", "gone")
		f.log.wait(1, "cannot read the mail queue; retrying")
		f.rename("gone", "mails")
		f.log.wait(1, "the mail queue can be read again")
		f.enqueue(o, verify("ann"))
		server.next()
		f.log.wait(1, sent)
		f.wantSent("ann")
	})
}

// rename renames a table: without its table, a query fails as in an outage.
func (f *fixture) rename(from, to string) {
	f.t.Helper()
	if _, err := f.db.ExecContext(f.t.Context(), "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
		f.t.Error(err)
	}
}

// The outcome of a mail is stored even if the database is unavailable at that moment.
func TestAnOutcomeIsStoredAfterAnOutage(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		o := f.outbox("smtp://127.0.0.1:1")
		f.enqueue(o, verify("ann"))
		m, err := o.claim(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.rename("mails", "gone")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			o.handleOutcome(t.Context(), m, nil)
		}()
		f.log.wait(1, "cannot store the outcome")
		f.rename("gone", "mails")
		<-ended
		f.wantSent("ann")
	})
}

func TestEnqueueRefuses(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		o := f.outbox("")
		for name, change := range map[string]func(*Message){
			"kind":              func(m *Message) { m.Kind = "greeting" },
			"no recipient":      func(m *Message) { m.To = "" },
			"recipient":         func(m *Message) { m.To = "Ann <ann@example.org>" },
			"two recipients":    func(m *Message) { m.To = "ann@example.org, bob@example.org" },
			"header":            func(m *Message) { m.To = "ann@example.org\r\nBcc: b@x.org" },
			"no key":            func(m *Message) { m.Key = "" },
			"NUL":               func(m *Message) { m.Nickname = "A\x00nn" },
			"no link":           func(m *Message) { m.Link = "" },
			"link of a script":  func(m *Message) { m.Link = "javascript:alert(1)" },
			"link of a notice":  func(m *Message) { m.Kind = PasswordChanged },
			"link without host": func(m *Message) { m.Link = "/verify" },
		} {
			m := verify("ann")
			change(&m)
			err := f.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				return o.Enqueue(ctx, tx, m)
			})
			if err == nil || strings.Contains(err.Error(), "example.org") {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{
		{SMTPURL: "smtp://host"},
		{SMTPURL: "smtp://host", From: "parley"},
		{From: "parley"},
		{SMTPURL: "http://host", From: sender},
		{SMTPURL: "host:587", From: sender},
		{SMTPURL: "smtp://", From: sender},
		{SMTPURL: "smtp://host/path", From: sender},
		{SMTPURL: "smtp://host:0", From: sender},
		{SMTPURL: "smtp://host:99999", From: sender},
		{SMTPURL: "smtp://user:secret@host:port", From: sender},
		{SMTPURL: "smtp://user@host", From: sender},
		{SMTPURL: "smtp://:secret@host", From: sender},
		{SMTPURL: "smtp://user:secret@host?tls=none", From: sender},
		{SMTPURL: "smtp://host?tls=maybe", From: sender},
		{SMTPURL: "smtp://host?tls=none&tls=required", From: sender},
		{SMTPURL: "smtp://host?starttls=off", From: sender},
		{SMTPURL: "smtps://host?tls=none", From: sender},
	} {
		if _, err := New(nil, opts); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: got %v", opts, err)
		}
	}
	for url, want := range map[string]string{
		"smtp://host": "host:587", "smtps://u:p@host": "host:465",
		"smtp://[::1]:2525?tls=opportunistic": "::1:2525",
		"smtp://host/?tls=required":           "host:587",
		"smtp://u:p@127.0.0.1:25?tls=none":    "127.0.0.1:25",
	} {
		o, err := New(nil, Options{SMTPURL: url, From: sender})
		if err != nil {
			t.Errorf("%s: %v", url, err)
		} else if got := o.relay.host + ":" + o.relay.port; got != want {
			t.Errorf("%s leads to %s, want %s", url, got, want)
		}
	}
}

func TestEveryKindHasItsTemplates(t *testing.T) {
	t.Parallel()
	o, err := New(nil, Options{From: sender})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds() {
		r := &row{
			Kind: kind, Recipient: "ann@example.org", Nickname: "Ann",
			CreatedAt: storetest.NewClock().Now(),
		}
		if kind.hasLink() {
			r.Link = link
		}
		msg, err := o.compose(r)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		for _, part := range msg.GetParts() {
			body, err := part.GetContent()
			if err != nil {
				t.Fatal(err)
			}
			hasToken := strings.Contains(string(body), "token=s3cret")
			if hasToken != kind.hasLink() || !strings.Contains(string(body), "Hello Ann,") ||
				!strings.Contains(string(body), "Parley") {
				t.Errorf("%s:\n%s", kind, body)
			}
		}
	}
}

func TestGreetable(t *testing.T) {
	t.Parallel()
	for nickname, want := range map[string]string{
		"Ann": "Ann", "Ann-Marie O'Neil 2": "Ann-Marie O'Neil 2", "全角": "全角", "": "",
		"evil.example": "", "https://evil.example": "", "ann@example.org": "", "evil。example": "",
		"<b>": "",
	} {
		if got := greetable(nickname); got != want {
			t.Errorf("%q: got %q, want %q", nickname, got, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	o, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for attempts, want := range map[int]time.Duration{
		1: 30 * time.Second, 2: time.Minute, 3: 2 * time.Minute, 8: time.Hour, 1 << 20: time.Hour,
	} {
		if got := o.backoff(attempts); got < want*8/10 || got > want*12/10 {
			t.Errorf("after %d attempts: %v, want about %v", attempts, got, want)
		}
	}
}
