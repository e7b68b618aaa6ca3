package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/internal/client"
	"parley/store/privatepg"
	"parley/store/storetest"
)

// app is an application that was made of the files of docs/accounts.md.
type app struct {
	*script
	*person
	events []appEvent
	shown  []message // on the screen
	stored []message // in the local store
	sent   []message // answers to what it has sent
}

// appEvent is an event of app.js.
type appEvent struct {
	Type     string // item, notice, sent, shown or stored
	Stream   string // messageAdded or events
	Message  *message
	Messages []message
	Errors   []client.Error
}

// open starts an application of p, with a library of its own, and waits until it has loaded.
func (p *person) open(library, conversation string) *app {
	p.t.Helper()
	a := &app{person: p, script: mustRun(p.t, "app.js", map[string]any{
		"api": p.api, "client": library, "conversationId": conversation,
		"tokens": map[string]any{
			"accessToken": p.tokens.AccessToken, "expiresAt": p.tokens.ExpiresAt,
			"refreshToken": p.tokens.RefreshToken,
		},
	})}
	a.until(func() bool { return a.shown != nil && a.stored != nil })
	return a
}

// until takes events until something is true.
func (a *app) until(isTrue func() bool) {
	a.t.Helper()
	for !isTrue() {
		var e appEvent
		a.next(&e)
		a.events = append(a.events, e)
		switch e.Type {
		case "shown":
			a.shown = e.Messages
		case "stored":
			a.stored = e.Messages
		case "sent":
			a.sent = append(a.sent, *e.Message)
		}
	}
}

// wantAll waits until the application has these messages, and no others.
func (a *app) wantAll(want []message) {
	a.t.Helper()
	a.until(func() bool { return cmp.Equal(want, a.shown) && cmp.Equal(want, a.stored) })
}

// sends lets the application send a message, whose content is its idempotency key too.
func (a *app) sends(content string) message {
	a.t.Helper()
	a.instruct(map[string]string{"content": content, "idempotencyKey": content})
	before := len(a.sent)
	a.until(func() bool { return len(a.sent) > before })
	return a.sent[before]
}

// wantNoticeFirst checks that each stream has reported the other history before it gave any message
// that was not there before the restore. The stream of events may report it more than once.
func (a *app) wantNoticeFirst(before map[string]bool) {
	a.t.Helper()
	notices := map[string]int{}
	for _, e := range a.events {
		switch {
		case e.Type == "notice":
			notices[e.Stream]++
			if e.Stream == "messageAdded" && codeOf(e.Errors) != "HISTORY_CHANGED" {
				a.t.Errorf("%s: the subscription has ended with %+v", a.Nickname, e.Errors)
			}
		case e.Type == "item" && e.Message != nil && !before[e.Message.ID] &&
			notices[e.Stream] == 0:
			a.t.Errorf("%s: %s gives %+v without a notice", a.Nickname, e.Stream, e.Message)
		}
	}
	if notices["messageAdded"] != 1 || notices["events"] == 0 {
		a.t.Errorf("%s: notices of %v", a.Nickname, notices)
	}
}

// sendServed is send, and tries again while the database is away.
func (p *person) sendServed(conversation, content string) (m message) {
	p.t.Helper()
	eventually(p.t, "the message is sent", func() bool {
		var err error
		m, err = p.trySend(p.t.Context(), conversation, content, content)
		return err == nil
	})
	return m
}

// TestRestore goes back to a copy of the database while applications with graphql-ws, Apollo Client
// and urql are connected. What was written after the copy is lost, and new messages have the
// numbers of lost ones before any stream goes on. Each application is told before it gets one of
// them, does what docs/guide.md says, and shows in the end exactly what the database has. Their own
// lost messages are stored again.
func TestRestore(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "parley.db")
		srv := mustServe(t, on("sqlite:"+file))
		copied := filepath.Join(t.TempDir(), "copy.db")
		testRestore(t, srv, func(ctx context.Context) error {
			return vacuumInto(ctx, file, copied)
		}, func(_ context.Context, write func(*server)) error {
			srv.stop()
			first := srv.api
			for _, suffix := range []string{"-wal", "-shm"} {
				if err := os.Remove(file + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
			if err := os.Rename(copied, file); err != nil {
				return err
			}
			srv.start() // at another address
			write(srv)
			srv.stop()
			address, err := url.Parse(first)
			if err != nil {
				return err
			}
			srv.env = append(srv.env, "PARLEY_ADDR="+address.Host)
			srv.start()
			return nil
		})
	})
	// The process of the node sleeps meanwhile, and its connections stay. Another node writes.
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		pg := mustStartPostgres(t)
		settings := []string{
			on(pg.URL("postgres")), "PARLEY_JWT_SECRET=the secret of both servers of this test",
		}
		srv := mustServe(t, settings...)
		copied := filepath.Join(t.TempDir(), "copy")
		testRestore(t, srv, func(ctx context.Context) error {
			return pg.Save(ctx, copied)
		}, func(ctx context.Context, write func(*server)) (err error) {
			if err := srv.Signal(syscall.SIGSTOP); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, srv.Signal(syscall.SIGCONT)) }()
			if err := pg.RestoreFrom(ctx, copied); err != nil {
				return err
			}
			write(mustServe(t, settings...))
			return nil
		})
	})
}

func testRestore(
	t *testing.T, srv *server, save func(context.Context) error,
	restore func(_ context.Context, write func(*server)) error,
) {
	ada := srv.register("ada")
	people := srv.registerAll("grace", "linus", "barbara")
	conversation := ada.converse(people...)
	var apps []*app
	for i, library := range []string{"graphql-ws", apollo, urql} {
		apps = append(apps, people[i].open(library, conversation))
	}
	write := func(what string) (written []message) {
		written = append(written, ada.send(conversation, what+" by ada"))
		for _, a := range apps {
			written = append(written, a.sends(what+" by "+a.Nickname))
		}
		return written
	}
	kept := write("kept")
	if err := save(t.Context()); err != nil {
		t.Fatal(err)
	}
	lost := write("lost")
	before := map[string]bool{}
	for _, m := range append(kept, lost...) {
		before[m.ID] = true
	}
	for _, a := range apps {
		a.wantAll(ada.listed(conversation))
		for _, e := range a.events {
			if e.Type == "notice" {
				t.Errorf("%s: %+v before the restore", a.Nickname, e)
			}
		}
	}

	if err := restore(t.Context(), func(node *server) {
		there := ada.at(node)
		for i := range len(lost) + 1 {
			there.sendServed(conversation, fmt.Sprintf("new %d by ada", i))
		}
	}); err != nil {
		t.Fatal(err)
	}
	// An idempotency key works again, and once.
	again := ada.sendServed(conversation, lost[0].Content)
	if m := ada.sendServed(conversation, lost[0].Content); m.ID != again.ID || before[m.ID] {
		t.Errorf("a lost message was stored as %+v, and then as %+v", again, m)
	}
	for _, a := range apps { // each sends again what was kept, and what was lost
		a.until(func() bool { return len(a.sent) == 4 })
	}
	all := ada.listed(conversation)
	for _, a := range apps {
		a.wantAll(all)
		a.wantNoticeFirst(before)
		for i, m := range a.sent[2:] {
			if m.Content != a.sent[i].Content || before[m.ID] != (i == 0) {
				t.Errorf("%s has sent again %+v, and before %+v", a.Nickname, m, a.sent[i])
			}
		}
	}
	contents, numbers := map[string]int{}, map[int64]bool{}
	for _, m := range all {
		contents[m.Content]++
		numbers[m.Seq] = !before[m.ID]
	}
	if len(contents) != len(all) || len(all) != len(kept)+len(lost)+len(lost)+1 {
		t.Errorf("the database has %+v", all)
	}
	for _, m := range lost {
		if !numbers[m.Seq] {
			t.Errorf("no new message has the number of %+v", m)
		}
	}
	// Live again.
	last := ada.send(conversation, "the last one")
	for _, a := range apps {
		a.wantAll(append(all, last))
	}
}

// vacuumInto copies a database on SQLite that is in use.
func vacuumInto(ctx context.Context, file, copied string) (err error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", copied)
	return err
}

// mustStartPostgres starts a server on PostgreSQL for this test alone.
func mustStartPostgres(t *testing.T) *privatepg.Server {
	t.Helper()
	if storetest.Skipped("postgres") {
		t.Skipf("%s names postgres", storetest.Skip)
	}
	pg, err := privatepg.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	return pg
}
