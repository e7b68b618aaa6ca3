package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"parley/pubsub/natsbus/natstest"
	"parley/store"
	"parley/store/privatepg"
	"parley/store/storetest"
	"parley/wake"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// output collects the output of a program. A test can wait for a line of it.
type output struct {
	mu    sync.Mutex // guards text
	text  bytes.Buffer
	wrote wake.Notifier
}

func newOutput() *output { return &output{wrote: wake.NewNotifier()} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wrote.Notify()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) mustMatch(t *testing.T, pattern string) []string {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		if found := regexp.MustCompile(pattern).FindStringSubmatch(o.String()); found != nil {
			return found
		}
		select {
		case <-o.wrote.C():
		case <-deadline:
			t.Fatalf("no %s in %s", pattern, o)
		}
	}
}

// mustStart runs the whole program on a free port. stop ends it, and returns its exit code.
func mustStart(t *testing.T, args ...string) (url string, log *output, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log = newOutput()
	exited := make(chan int, 1)
	args = append([]string{"--addr=127.0.0.1:0"}, args...)
	go func() { exited <- run(ctx, args, io.Discard, log) }()
	stop = sync.OnceValue(func() int {
		cancel()
		return <-exited
	})
	t.Cleanup(func() { stop() })
	url = log.mustMatch(t, `playground=(\S+)/`)[1]
	return url, log, stop
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestServeAndStop(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{
		"SQLite": storetest.SQLiteURL, "PostgreSQL": storetest.PostgresURL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, database := t.TempDir(), url(t)
			base, log, stop := mustStart(t, "--data-dir="+dir, "--database-url="+database)
			for path, want := range map[string]string{
				"/livez": "ok", "/readyz": "ok", "/": "<!doctype html>",
				"/graphql?query={__typename}": "Query",
			} {
				if status, body := get(t, base+path); status != 200 ||
					!strings.Contains(strings.ToLower(body), strings.ToLower(want)) {
					t.Errorf("%s: %d %.80s", path, status, body)
				}
			}
			if status, _ := get(t, base+"/nothing"); status != 404 {
				t.Errorf("/nothing: %d", status)
			}
			if code := stop(); code != 0 {
				t.Errorf("exit code %d: %s", code, log)
			}
			log.mustMatch(t, "parley has stopped")
			if strings.Contains(log.String(), "level=ERROR") ||
				strings.Contains(log.String(), "level=WARN") {
				t.Error(log)
			}
			// It starts again on the same data.
			base, _, _ = mustStart(t, "--data-dir="+dir, "--database-url="+database)
			if status, _ := get(t, base+"/readyz"); status != 200 {
				t.Errorf("started again: %d", status)
			}
		})
	}
}

func TestNotReadyWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	server, err := privatepg.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stopDatabase := sync.OnceFunc(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stopDatabase)
	base, log, _ := mustStart(t, "--data-dir="+t.TempDir(),
		"--database-url="+server.URL("postgres"))
	stopDatabase()
	if status, body := get(t, base+"/readyz"); status != 503 ||
		!strings.Contains(body, "database") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, _ := get(t, base+"/livez"); status != 200 {
		t.Errorf("/livez: %d", status)
	}
	log.mustMatch(t, "not ready")
}

func TestRunReportsErrors(t *testing.T) {
	t.Parallel()
	other, _, _ := mustStart(t, "--data-dir="+t.TempDir())
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no such command": {[]string{"nonsense"}, 2, "nonsense"},
		"no such flag":    {[]string{"--nonsense"}, 2, "nonsense"},
		"a bad setting":   {[]string{"--jwt-secret=short"}, 2, "PARLEY_JWT_SECRET"},
		"no database": {[]string{
			"--database-url=postgres://127.0.0.1:1/x",
			"--data-dir=" + t.TempDir(),
		}, 1, "the database does not answer"},
		"no tables": {
			[]string{"--no-migrate", "--data-dir=" + t.TempDir()},
			1,
			"run parley migrate",
		},
		"NATS for SQLite": {
			[]string{"--nats-url=nats://127.0.0.1:4222"},
			2,
			"NATS joins nodes that share a PostgreSQL database",
		},
		"a port in use": {[]string{
			"--addr=" + strings.TrimPrefix(other, "http://"),
			"--data-dir=" + t.TempDir(),
		}, 1, "address already in use"},
	} {
		out := newOutput()
		if code := run(t.Context(), c.args, io.Discard, out); code != c.code ||
			!strings.Contains(out.String(), c.says) {
			t.Errorf("%s: %d %s", name, code, out)
		}
	}
}

// Each command warns of a misspelt setting, which has no effect, and not of existing ones.
func TestAMisspeltSettingIsNamed(t *testing.T) {
	t.Setenv("PARLEY_MAX_DEPHT", "3")
	t.Setenv("PARLEY_ACESS_TTL", "secret")
	for _, name := range []string{"PARLEY_MAX_DEPTH", "PARLEY_MAX_SOCKETS"} {
		t.Setenv(name, "3")
	}
	log := newOutput()
	if code := run(t.Context(), []string{"version"}, io.Discard, log); code != 0 {
		t.Errorf("exit code %d", code)
	}
	const want = `level=WARN msg="environment variables that name no setting are ignored" names=PARLEY_ACESS_TTL,PARLEY_MAX_DEPHT` + "\n"
	if got := log.String(); !strings.HasSuffix(got, want) || strings.Count(got, "\n") != 1 {
		t.Errorf("got %s", got)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	url := "--database-url=" + storetest.SQLiteURL(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"help"}, "PARLEY_DATABASE_URL"},
		{[]string{"help"}, `--addr="localhost:8080"`},
		{[]string{"version"}, "parley "},
		{[]string{"migrate", "status", url}, "missing 20261122000001_accounts"},
		{[]string{"migrate", url}, "msg=applied migration=20261122000001_accounts"},
		{[]string{"migrate", "status", url}, "applied 20261122000002_conversations"},
		{[]string{"migrate", "down", url}, `msg=reverted migration=20261122000002_conversations`},
		{[]string{"migrate", "status", url}, "missing 20261122000002_conversations"},
	} {
		out := newOutput()
		if code := run(t.Context(), c.args, out, out); code != 0 ||
			!strings.Contains(out.String(), c.says) {
			t.Errorf("%v: %d %s", c.args, code, out)
		}
	}
}

// mustExec runs statements on a database, past the server.
func mustExec(t *testing.T, url string, statements ...string) {
	t.Helper()
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

// What the database says about migrations of a later version.
const (
	laterApplied = `INSERT INTO bun_migrations (name, group_id) VALUES ('20990101000001', 99)`
	laterAdds    = `INSERT INTO migration_records (name, comment, goal)
		VALUES ('20990101000001', 'pins', '20990101000001')`
	laterRemoves = `UPDATE migration_records SET requires = '20990101000001'
		WHERE name = '20990101000001'`
)

// A node stays ready beside a later version that only adds, and starts on its tables. It is not
// ready on tables that it cannot use, and does not start.
func TestTablesOfAnotherVersion(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{
		"SQLite": storetest.SQLiteURL, "PostgreSQL": storetest.PostgresURL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := url(t)
			args := []string{"--data-dir=" + t.TempDir(), "--database-url=" + database}
			refused := func(says string, more ...string) {
				t.Helper()
				log := newOutput()
				all := append(append([]string{"--addr=127.0.0.1:0"}, args...), more...)
				if code := run(t.Context(), all, io.Discard, log); code != 1 ||
					!strings.Contains(log.String(), says) {
					t.Errorf("started with %v: %d %s", more, code, log)
				}
			}
			status := func(says string) {
				t.Helper()
				out := newOutput()
				if code := run(t.Context(), append([]string{"migrate", "status"}, args...), out,
					out); code != 0 || !strings.Contains(out.String(), says) {
					t.Errorf("status: %d %s", code, out)
				}
			}
			base, log, _ := mustStart(t, args...)
			wantReady := func(status int, says string) {
				t.Helper()
				if got, body := get(t, base+"/readyz"); got != status ||
					!strings.Contains(body, says) {
					t.Errorf("/readyz: %d %s", got, body)
				}
			}
			wantReady(200, "ok")
			status("This version can use the database.")

			mustExec(t, database, laterApplied, laterAdds)
			for range 3 {
				wantReady(200, "ok")
			}
			if n := strings.Count(log.String(), "migrations=20990101000001_pins"); n != 1 {
				t.Errorf("logged %d times, want once: %s", n, log)
			}
			again, log, _ := mustStart(t, args...)
			log.mustMatch(t, "migrations=20990101000001_pins")
			if status, body := get(t, again+"/readyz"); status != 200 {
				t.Errorf("started beside it: %d %s", status, body)
			}
			status("unknown 20990101000001_pins\n")

			mustExec(t, database, laterRemoves)
			wantReady(503, "the database is too new for this version: after migration "+
				"20990101000001_pins")
			refused("too new for this version")
			refused("too new for this version", "--no-migrate")
			status("unknown 20990101000001_pins (requires a version that knows 20990101000001)\n" +
				"This version cannot use the database: the database is too new")
			mustExec(t, database, "DELETE FROM migration_records WHERE comment = 'pins'")
			wantReady(200, "ok")

			mustExec(t, database,
				"UPDATE migration_records SET checksum = 'other' WHERE comment = 'accounts'")
			wantReady(200, "ok")
			refused("20261122000001_accounts was applied from another file")
			status("changed 20261122000001_accounts\n")
			if code := run(t.Context(), append([]string{"migrate", "accept"}, args...), io.Discard,
				log); code != 0 {
				t.Errorf("accept: %d %s", code, log)
			}
			log.mustMatch(t, "msg=accepted migration=20261122000001_accounts")

			mustExec(t, database, "DELETE FROM bun_migrations WHERE name = '20261130000005'")
			wantReady(503, "20261130000005_records is missing")
			refused("20261130000005_records is missing", "--no-migrate")
			status("missing 20261130000005_records")
		})
	}
}

// A node that starts without NATS is ready. It reports the state of NATS in /readyz, and logs each
// change.
func TestReadyWithoutNATS(t *testing.T) {
	t.Parallel()
	nats := natstest.MustStartWith(t, natsserver.Options{Username: "ann", Password: "natspassword"})
	nats.Stop()
	base, log, stop := mustStart(t, "--data-dir="+t.TempDir(),
		"--database-url="+storetest.PostgresURL(t), "--reconcile-every=7s",
		"--nats-url=nats://ann:natspassword@"+nats.Addr(), "--nats-subject=other.parley",
		"--log-level=debug",
		"--jwt-secret=the same on all nodes, and long enough")
	ready := func(want string) {
		t.Helper()
		if status, body := get(t, base+"/readyz"); status != 200 || body != want+"\n" {
			t.Errorf("/readyz: %d %q", status, body)
		}
	}
	log.mustMatch(t, "level=WARN msg=\"NATS is away")
	ready("ok, but NATS is away: what other nodes store is up to 7s late")
	nats.Start()
	log.mustMatch(t, "level=INFO msg=\"NATS is connected")
	ready("ok")
	nats.Stop()
	log.mustMatch(t, "(?s)NATS is away.*NATS is connected.*NATS is away")
	ready("ok, but NATS is away: what other nodes store is up to 7s late")
	nats.Start()
	log.mustMatch(t, "(?s)NATS is away.*NATS is connected.*NATS is away.*NATS is connected")
	// The subscriptions follow after that, and nothing reports when.
	deadline := time.After(30 * time.Second)
	for tick := time.Tick(time.Millisecond); len(nats.Subscriptions("other.parley.")) == 0; {
		select {
		case <-tick:
		case <-deadline:
			t.Fatal("nothing is subscribed below the subject of the setting")
		}
	}
	if code := stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if text := log.String(); strings.Contains(text, "natspassword") ||
		strings.Count(text, "NATS is away") != 2 {
		t.Error(text)
	}
}

func TestWarnsWhenOthersCanReachIt(t *testing.T) {
	t.Parallel()
	_, log, _ := mustStart(t, "--data-dir="+t.TempDir(), "--addr=:0")
	log.mustMatch(t, "others can reach this server")
}
