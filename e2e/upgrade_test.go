package e2e

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"parley/internal/process"
	"parley/store/storetest"
)

// TestUpgradeBesideTheVersionBefore runs a node of the version before, with its own tables, and
// sends all the time. Meanwhile this version migrates the database. Every send is acknowledged, no
// message is missing, and the node before is ready and serves afterwards.
func TestUpgradeBesideTheVersionBefore(t *testing.T) {
	t.Parallel()
	before := mustBuildBefore(t)
	type upgrade struct {
		url func(testing.TB) string
		run func(t *testing.T, u upgraded)
	}
	upgrades := map[string]upgrade{
		"a new node":                       {storetest.PostgresURL, startNewNode},
		"parley migrate, and held locks":   {storetest.PostgresURL, migrateWhileLocked},
		"SQLite, parley migrate":           {storetest.SQLiteURL, migrate},
		"several parley migrate and nodes": {storetest.PostgresURL, migrateAtOnce},
	}
	for round := range 2 {
		upgrades[fmt.Sprintf("parley migrate %d", round+1)] = upgrade{
			storetest.PostgresURL, migrate,
		}
	}
	for name, c := range upgrades {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := c.url(t)
			node := mustServeWith(t, before, on(database), sameKey)
			if status := startCommand(t, database, "migrate", "status").
				wait(); !strings.Contains(status,
				"\nmissing ") {
				t.Fatalf("the version before has all tables of this one:\n%s", status)
			}
			people := node.registerAll("ada", "grace", "linus")
			ada := people[0]
			conversation := ada.converse(people[1:]...)
			follower := ada.follow(webSocket, followOptions{
				ConversationID: conversation, AfterSeq: new(int64(0)), byNumber: true,
			})
			follower.want("connected")
			senders := startSending(t, conversation, forever, people...)
			t.Cleanup(senders.stop) // before the cleanup of startSending, which waits
			follower.until(30)
			c.run(t, upgraded{database, follower})
			follower.until(follower.last() + 30)
			senders.stop()
			senders.finish()

			if status := startCommand(t, database, "migrate", "status").
				wait(); strings.Contains(status,
				"missing") || !strings.Contains(status, "This version can use the database.") {
				t.Errorf("after the upgrade:\n%s", status)
			}
			node.wantOK("readyz")
			listed := people[1].listed(conversation)
			senders.wantSent(listed)
			follower.wantAll(listed)
			follower.wantMessage(ada.send(conversation, "the version before serves"))

			after := mustServe(t, on(database), sameKey)
			node.wantOK("readyz")
			follower.wantMessage(ada.at(after).send(conversation, "this version serves"))
			follower.wantMessage(ada.send(conversation, "both do"))

			// The way back: the version before starts on the tables of this one.
			after.stop()
			node.stop()
			node.start()
			node.wantOK("readyz")
			ada.send(conversation, "the version before serves again")
		})
	}
}

const sameKey = "PARLEY_JWT_SECRET=the same on both nodes, and long enough"

// upgraded is a database that an upgrade changes, and a follower of its messages.
type upgraded struct {
	database string
	follower *follower
}

func migrate(t *testing.T, u upgraded) { startCommand(t, u.database, "migrate").wait() }

func startNewNode(t *testing.T, u upgraded) { mustServe(t, on(u.database), sameKey) }

func migrateAtOnce(t *testing.T, u upgraded) {
	var all []*command
	for range 3 {
		all = append(all, startCommand(t, u.database, "migrate"))
	}
	startNewNode(t, u)
	for _, c := range all {
		c.wait()
	}
}

// migrateWhileLocked migrates while another transaction reads all tables, as a backup does, and
// keeps the record of the migrations from being written. Messages are sent and followed meanwhile.
func migrateWhileLocked(t *testing.T, u upgraded) {
	db, err := sql.Open("pgx", u.database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	holder, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback() }()
	_, err = holder.ExecContext(t.Context(), `DO $$ DECLARE name text; BEGIN
		FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
			EXECUTE format('LOCK TABLE %I IN ACCESS SHARE MODE', name);
		END LOOP;
		LOCK TABLE bun_migrations IN SHARE MODE;
	END $$`)
	if err != nil {
		t.Fatal(err)
	}
	migration := startCommand(t, u.database, "migrate")
	for try := 1; try <= 3; try++ {
		migration.logs(fmt.Sprintf("tries=%d ", try))
		u.follower.until(u.follower.last() + 10)
	}
	if err := holder.Rollback(); err != nil {
		t.Fatal(err)
	}
	migration.wait()
}

// command is a running command of this version.
type command struct {
	t *testing.T
	*process.Process
	lines chan string // of its standard error
	out   *bytes.Buffer
}

// startCommand starts a command on a database.
func startCommand(t *testing.T, database string, args ...string) *command {
	t.Helper()
	c := &command{t: t, lines: make(chan string, 1000), out: &bytes.Buffer{}}
	cmd := exec.Command(os.Getenv(binaryEnv), args...)
	cmd.Env = process.Environment(on(database), "GORACE=atexit_sleep_ms=0")
	cmd.Stdout = c.out
	cmd.Stderr = &process.Lines{Each: func(line []byte) { c.lines <- string(line) }}
	var err error
	if c.Process, err = process.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Stop(syscall.SIGKILL, patience) })
	return c
}

// logs waits for a line that has this text.
func (c *command) logs(text string) {
	c.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line := <-c.lines:
			if strings.Contains(line, text) {
				return
			}
		case <-c.Ended():
			c.t.Fatalf("it has ended without %q in its log: %v", text, c.Err())
		case <-timeout:
			c.t.Fatalf("no %q in the log", text)
		}
	}
}

// wait waits until the command has ended, which has to succeed, and returns its standard output.
func (c *command) wait() string {
	c.t.Helper()
	if !c.EndsWithin(patience) || c.Err() != nil {
		close(c.lines)
		var log []string
		for line := range c.lines {
			log = append(log, line)
		}
		c.t.Fatalf("the command has failed: %v\n%s", c.Err(), strings.Join(log, "\n"))
	}
	return c.out.String()
}

// mustBuildBefore builds the program of the commit before the newest migration. It skips the test
// if there is no git history, as in an archive of the source or in a shallow clone.
func mustBuildBefore(t *testing.T) (binary string) {
	t.Helper()
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", ".."}, args...)...)
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	const newFiles = "migrations/*.up.sql"
	commit := "HEAD"
	if changes, err := git("status", "--porcelain", "--", newFiles); err != nil || changes == "" {
		newest, err2 := git("log", "-1", "--diff-filter=A", "--format=%H", "--", newFiles)
		commit = newest + "^"
		if _, err3 := git("cat-file", "-e", commit); err != nil || err2 != nil || err3 != nil {
			t.Skip("the version before cannot be built: there is no git history with the commit " +
				"before the newest migration")
		}
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "source.tar")
	if out, err := git("archive", "--format=tar", "--output="+archive, commit); err != nil {
		t.Fatalf("git archive %s: %v %s", commit, err, out)
	}
	unpack := exec.CommandContext(t.Context(), "tar", "-xf", archive)
	unpack.Dir = dir
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v %s", err, out)
	}
	binary = filepath.Join(dir, "parley-before")
	// the flags of TestMain's build, so that both share what they import
	build := exec.CommandContext(t.Context(), "go", "build", "-race", "-buildvcs=false", "-o",
		binary, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the version before (%s): %v\n%s", commit, err, out)
	}
	return binary
}
