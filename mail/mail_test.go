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
	each(t, func(t *testing.T, w *world) {
		server := newMailServer(t)
		o := w.outbox(plain(server.start()))
		w.run(o)
		changedMind := errors.New("changed my mind")
		err := w.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(o.Enqueue(ctx, tx, verify("ann")), changedMind)
		})
		if !errors.Is(err, changedMind) {
			t.Fatal(err)
		}
		w.enqueue(o, verify("bob"))
		if got := server.next(); got.to != "bob@example.org" {
			t.Errorf("a mail to %s came", got.to)
		}
		w.log.wait(1, sent)
		if n, err := w.db.NewSelect().Model((*row)(nil)).Count(t.Context()); n != 1 {
			t.Errorf("there are %d mails (%v)", n, err)
		}
	})
}

func TestTheCommitRingsTheBell(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		server := newMailServer(t)
		o := w.outbox(plain(server.start()), func(opts *Options) { opts.PollEvery = time.Hour })
		err := w.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			if err := o.Enqueue(ctx, tx, verify("ann")); err != nil {
				return err
			}
			if len(o.bell) != 0 {
				t.Error("it rings before there is anything to find")
			}
			return nil
		})
		if err != nil || len(o.bell) != 1 {
			t.Fatalf("it rings %d times (%v)", len(o.bell), err)
		}
		w.run(o)
		server.next()
		w.until("Run waits for the bell", func() bool { return len(o.bell) == 0 })
		// any of which a look could find that was under way
		for _, key := range []string{"bob", "cy", "dee"} {
			w.enqueue(o, verify(key))
			server.next()
		}
	})
}

func TestTheSameKeyOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		server := newMailServer(t)
		o := w.outbox(plain(server.start()))
		w.run(o)
		w.enqueue(o, verify("ann"), verify("ann")) // while it waits
		server.next()
		w.log.wait(1, sent)
		w.enqueue(o, verify("ann")) // when it is gone
		w.enqueue(o, verify("bob"))
		if got := server.next(); got.to != "bob@example.org" {
			t.Errorf("a mail to %s came", got.to)
		}
		w.log.wait(2, sent)
		w.wantSent("ann")
		server.want(1, "DATA ann@example.org")
	})
}

func TestCrashes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		server := newMailServer(t)
		now := w.clock.Now()
		past, later := now.Add(-time.Second), now.Add(time.Minute)
		w.insert(verify("before"), func(r *row) { r.Attempts, r.ClaimedUntil = 1, &past })
		w.insert(verify("within"), func(r *row) { r.Attempts, r.ClaimedUntil, r.StartedAt = 1, &past, &past })
		w.insert(verify("alive"), func(r *row) { r.Attempts, r.ClaimedUntil = 1, &later })
		o := w.outbox(plain(server.start()))
		w.run(o)
		if got := server.next(); got.to != "before@example.org" {
			t.Errorf("a mail to %s came", got.to)
		}
		w.log.wait(1, sent)
		w.wantSent("before")
		w.log.wait(1, wasLost)
		w.wantFailed("within", "content: whoever sent it ended")
		if r := w.row("alive"); r.Attempts != 1 || r.SentAt != nil {
			t.Errorf("another works at it, and it was taken: %+v", r)
		}
		w.clock.Forward(time.Minute) // the other has died
		if got := server.next(); got.to != "alive@example.org" {
			t.Errorf("a mail to %s came", got.to)
		}
		w.log.wait(2, sent)
		server.want(0, "DATA within@example.org")
	})
}

// A node that slept through its claim finds, before it hands anything over, that the mail is
// another's.
func TestAClaimThatExpiredHandsOverNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		server := newMailServer(t)
		o := w.outbox(plain(server.start()))
		w.enqueue(o, verify("ann"))
		slow, err := o.claim(t.Context())
		if err != nil || slow == nil {
			t.Fatalf("claimed %v (%v)", slow, err)
		}
		if again, err := o.claim(t.Context()); err != nil || again != nil {
			t.Fatalf("claimed twice: %v (%v)", again, err)
		}
		w.clock.Forward(o.opts.ConnectTimeout + claimMargin)
		quick, err := o.claim(t.Context())
		if err != nil || quick == nil || quick.ID != slow.ID {
			t.Fatalf("claimed %v (%v)", quick, err)
		}
		o.deliver(t.Context(), slow)
		w.log.wait(1, "another node has it now")
		server.want(0, "DATA ann@example.org")
		o.deliver(t.Context(), quick)
		server.next()
		w.wantSent("ann")
		server.want(1, "DATA ann@example.org")
	})
}

func TestNodesShareTheWork(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, w *world) { // SQLite has one node
		const mails = 200
		server := newMailServer(t)
		url := plain(server.start())
		one := w.outbox(url)
		var messages []Message
		for i := range mails {
			messages = append(messages, verify(fmt.Sprint("ann", i)))
		}
		w.enqueue(one, messages...)
		w.run(one)
		other := *w
		other.db = w.open()
		other.run(other.outbox(url))
		w.log.wait(mails, sent)
		seen := map[string]int{}
		for range mails {
			seen[server.next().to]++
		}
		if len(seen) != mails || len(server.mails) != 0 {
			t.Errorf("%d of %d got a mail, and %d mails are too many", len(seen), mails, len(server.mails))
		}
	})
}

func TestWithoutSMTPTheLogHasTheLink(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		o := w.outbox("", func(opts *Options) { opts.From = "" })
		w.run(o)
		w.enqueue(o, verify("ann"), Message{Kind: PasswordChanged, To: "ann@example.org", Nickname: "Ann", Key: "notice"})
		lines := strings.Join(w.log.wait(2, noSMTP), "")
		for _, want := range []string{"level=INFO", "kind=verify_email", link, "kind=password_changed"} {
			if !strings.Contains(lines, want) {
				t.Errorf("the log lacks %q:\n%s", want, lines)
			}
		}
		w.until("both are sent", func() bool { return w.row("ann").SentAt != nil && w.row("notice").SentAt != nil })
		w.wantSent("ann")
		w.wantSent("notice")
	})
}

// until looks again and again at what says nothing when it changes.
func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	enough := time.After(patience)
	for !is() {
		select {
		case <-tick.C:
		case <-enough:
			w.t.Fatalf("it never came to be: %s", what)
		}
	}
}

func TestOldRowsAreRemoved(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		o := w.outbox("")
		w.enqueue(o, verify("old"))
		w.clock.Forward(keepFor)
		w.enqueue(o, verify("young"))
		w.clock.Forward(time.Second)
		w.run(o)
		count := func() int64 {
			n, err := w.db.NewSelect().Model((*row)(nil)).Count(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		w.until("the old one is gone", func() bool { return count() == 1 })
		w.row("young")
		w.clock.Forward(keepFor) // while it runs
		w.until("all are gone", func() bool { return count() == 0 })
	})
}

func TestAnOutageOfTheDatabaseDoesNotEndRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		server := newMailServer(t)
		rename := func(from, to string) {
			if _, err := w.db.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
				t.Error(err)
			}
		}
		o := w.outbox(plain(server.start()))
		w.run(o)
		rename("mails", "gone")
		w.log.wait(1, "the database gives no mails")
		rename("gone", "mails")
		w.log.wait(1, "the database gives mails again")
		w.enqueue(o, verify("ann"))
		server.next()
		w.log.wait(1, sent)
		w.wantSent("ann")
	})
}

// The outcome of a mail is stored even when the database is away just then.
func TestAnOutcomeIsStoredAfterAnOutage(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		rename := func(from, to string) {
			if _, err := w.db.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
				t.Error(err)
			}
		}
		o := w.outbox("smtp://127.0.0.1:1")
		w.enqueue(o, verify("ann"))
		m, err := o.claim(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rename("mails", "gone")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			o.settle(t.Context(), m, nil)
		}()
		w.log.wait(1, "could not be stored")
		rename("gone", "mails")
		<-ended
		w.wantSent("ann")
	})
}

func TestEnqueueRefuses(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		o := w.outbox("")
		for name, change := range map[string]func(*Message){
			"kind":              func(m *Message) { m.Kind = "greeting" },
			"no recipient":      func(m *Message) { m.To = "" },
			"recipient":         func(m *Message) { m.To = "Ann <ann@example.org>" },
			"two recipients":    func(m *Message) { m.To = "ann@example.org, bob@example.org" },
			"header":            func(m *Message) { m.To = "ann@example.org\r\nBcc: bob@example.org" },
			"no key":            func(m *Message) { m.Key = "" },
			"NUL":               func(m *Message) { m.Nickname = "A\x00nn" },
			"no link":           func(m *Message) { m.Link = "" },
			"link of a script":  func(m *Message) { m.Link = "javascript:alert(1)" },
			"link of a notice":  func(m *Message) { m.Kind = PasswordChanged },
			"link without host": func(m *Message) { m.Link = "/verify" },
		} {
			m := verify("ann")
			change(&m)
			err := w.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error { return o.Enqueue(ctx, tx, m) })
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
		{SMTPURL: "smtp://host", From: "nobody"},
		{From: "nobody"},
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
		"smtp://host": "host:587", "smtps://u:p@host": "host:465", "smtp://[::1]:2525?tls=opportunistic": "::1:2525",
		"smtp://host/?tls=required": "host:587", "smtp://u:p@127.0.0.1:25?tls=none": "127.0.0.1:25",
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
		r := &row{Kind: kind, Recipient: "ann@example.org", Nickname: "Ann", CreatedAt: storetest.NewClock().Now()}
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
			has := strings.Contains(string(body), "token=s3cret")
			if has != kind.hasLink() || !strings.Contains(string(body), "Hello Ann,") || !strings.Contains(string(body), "Parley") {
				t.Errorf("%s:\n%s", kind, body)
			}
		}
	}
}

func TestGreetable(t *testing.T) {
	t.Parallel()
	for nickname, want := range map[string]string{
		"Ann": "Ann", "Ann-Marie O'Neil 2": "Ann-Marie O'Neil 2", "全角": "全角", "": "",
		"evil.example": "", "https://evil.example": "", "ann@example.org": "", "evil。example": "", "<b>": "",
	} {
		if got := greetable(nickname); got != want {
			t.Errorf("%q: got %q, want %q", nickname, got, want)
		}
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	o, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for attempts, want := range map[int]time.Duration{
		1: 30 * time.Second, 2: time.Minute, 3: 2 * time.Minute, 8: time.Hour, 1 << 20: time.Hour,
	} {
		if got := o.pause(attempts); got < want*8/10 || got > want*12/10 {
			t.Errorf("after %d attempts: %v, want about %v", attempts, got, want)
		}
	}
}
