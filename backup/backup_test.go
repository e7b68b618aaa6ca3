package backup_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"parley/backup"
	"parley/chat"
	"parley/chat/chattest"
	"parley/store"
	"parley/store/storetest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// eachURL runs fn with the URL of a new database of each kind.
func eachURL(t *testing.T, fn func(t *testing.T, url string)) {
	t.Helper()
	for name, url := range map[string]func(testing.TB) string{
		"SQLite": storetest.SQLiteURL, "PostgreSQL": storetest.PostgresURL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fn(t, url(t))
		})
	}
}

func mustCreate(t *testing.T, url string) (file string, c backup.Created) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "backup")
	c, err := backup.Create(t.Context(), url, file)
	if err != nil {
		t.Fatal(err)
	}
	return file, c
}

func mustVerify(t *testing.T, file, url string) *backup.Report {
	t.Helper()
	if _, ok := store.SQLitePath(url); ok {
		url = ""
	}
	r, err := backup.Verify(t.Context(), file, url, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// namesIn returns the names of the files in a folder.
func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A backup that is made while others send has every message that was acknowledged before, and is
// the database at one moment.
func TestBackupWhileSendersSend(t *testing.T) {
	t.Parallel()
	eachURL(t, func(t *testing.T, url string) {
		w := chattest.New(t, storetest.MustOpen(t, url), "ann", "ben")
		c := chattest.MustConversation(t, w, "ann", "ben")
		ctx, stop := context.WithCancel(t.Context())
		var acknowledged atomic.Int64
		var senders sync.WaitGroup
		begun := make(chan struct{})
		for _, name := range []string{"ann", "ben"} {
			senders.Go(func() {
				for ctx.Err() == nil {
					_, err := w.SendMessage(ctx, w.Actor(name),
						chat.SendMessage{ConversationID: c.ID, Content: "one more"})
					if err == nil && acknowledged.Add(1) == 20 {
						close(begun)
					}
				}
			})
		}
		<-begun
		before := acknowledged.Load()
		file, created := mustCreate(t, url)
		sentMeanwhile := acknowledged.Load() - before
		stop()
		senders.Wait()
		r := mustVerify(t, file, url)
		if !r.Sound() {
			t.Errorf("found %v", r.Findings)
		}
		// The messages are a part of the log from its beginning, because the log has no gaps.
		if r.Messages < before {
			t.Errorf("%d of %d messages that were acknowledged before are in it", r.Messages,
				before)
		}
		if diff := cmp.Diff(created.Figures, r.Figures); diff != "" {
			t.Errorf("figures of the backup (-made +verified):\n%s", diff)
		}
		if sentMeanwhile == 0 {
			t.Log("no message was sent while the backup was made")
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode() != 0o600 || info.Size() != created.Bytes {
			t.Errorf("the file is %v, %v", info.Mode(), err)
		}
		if names := namesIn(t, filepath.Dir(file)); len(names) != 1 {
			t.Errorf("left behind: %v", names)
		}
	})
}

func TestBackupReplacesNoFile(t *testing.T) {
	t.Parallel()
	eachURL(t, func(t *testing.T, url string) {
		storetest.MustOpen(t, url)
		file := filepath.Join(t.TempDir(), "there")
		if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := backup.Create(t.Context(), url, file)
		if err == nil || !strings.Contains(err.Error(), "exists already") {
			t.Errorf("got %v", err)
		}
		if got, _ := os.ReadFile(file); string(got) != "mine" {
			t.Errorf("the file has %q", got)
		}
	})
}

// A backup that fails leaves nothing behind, and makes no database.
func TestBackupFails(t *testing.T) {
	t.Parallel()
	missing := storetest.SQLiteURL(t)
	empty := storetest.SQLiteURL(t)
	path, _ := store.SQLitePath(empty)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	there := storetest.SQLiteURL(t)
	storetest.MustOpen(t, there)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		url, want string
		canceled  bool
	}{
		{missing, "no database to back up", false},
		{empty, "no tables of Parley", false},
		{there, "context canceled", true},
	} {
		dir, ctx := t.TempDir(), t.Context()
		if test.canceled {
			ctx = canceled
		}
		_, err := backup.Create(ctx, test.url, filepath.Join(dir, "backup"))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
		if names := namesIn(t, dir); len(names) > 0 {
			t.Errorf("left behind: %v", names)
		}
	}
	path, _ = store.SQLitePath(missing)
	if names := namesIn(t, filepath.Dir(path)); len(names) > 0 {
		t.Errorf("made: %v", names)
	}
}

// A copy of the file alone, without its -wal file, lacks what is in there. It cannot be told from a
// complete one, so it is refused, with the way out.
func TestVerifyRefusesCopiesOfLiveFiles(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	mustStory(t, storetest.MustOpen(t, url))
	path, _ := store.SQLitePath(url)
	dir := t.TempDir()
	cp := filepath.Join(dir, "cp.db")
	mustCopy(t, path, cp)
	_, err := backup.Verify(t.Context(), cp, "", quiet())
	if err == nil || !strings.Contains(err.Error(), "is a copy of a database file, not a backup") {
		t.Errorf("got %v", err)
	}
	// The way out, with the -wal file. Nobody writes, so the two belong together.
	mustCopy(t, path+"-wal", cp+"-wal")
	file, _ := mustCreate(t, "sqlite:"+cp)
	if r := mustVerify(t, file, ""); !r.Sound() || r.Messages == 0 {
		t.Errorf("with the -wal file: %s, %v", r.Figures, r.Findings)
	}
}

func mustCopy(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Files that are damaged, or no backups, are found.
func TestVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	eachURL(t, func(t *testing.T, url string) {
		mustStory(t, storetest.MustOpen(t, url))
		file, _ := mustCreate(t, url)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{
			"empty": {}, "another file": []byte("PK\x03\x04 and so on"),
			"its header": whole[:50], "half of it": whole[:len(whole)/2],
			"zeros in the middle": zeroed(whole, len(whole)/3, len(whole)/3+20_000),
		} {
			damaged := filepath.Join(t.TempDir(), "damaged")
			if err := os.WriteFile(damaged, data, 0o600); err != nil {
				t.Fatal(err)
			}
			server := ""
			if strings.HasPrefix(url, "postgres") {
				server = url
			}
			r, err := backup.Verify(t.Context(), damaged, server, quiet())
			if err == nil && r.Sound() {
				t.Errorf("%s: found nothing", name)
			}
		}
	})
	if _, err := backup.Verify(t.Context(), t.TempDir(), "", quiet()); err == nil {
		t.Error("a folder is a backup")
	}
}

func zeroed(data []byte, from, to int) []byte {
	data = append([]byte(nil), data...)
	clear(data[from:to])
	return data
}

// A backup of an earlier version is brought up to date in its temporary place, and only there.
func TestVerifyMigratesOlderBackups(t *testing.T) {
	t.Parallel()
	eachURL(t, func(t *testing.T, url string) {
		db := storetest.MustOpen(t, url)
		w := mustStory(t, db)
		// The newest migration is reverted, as before an update.
		for _, statement := range []string{
			"DROP INDEX conversations_ended", "ALTER TABLE conversations DROP COLUMN ended_at",
			"DROP INDEX users_removed", "ALTER TABLE users DROP COLUMN removed_at",
			"DELETE FROM bun_migrations WHERE name = '20261130000002'",
			"DELETE FROM migration_records WHERE name = '20261130000002'",
		} {
			w.Exec(statement)
		}
		file, _ := mustCreate(t, url)
		if r := mustVerify(t, file, url); !r.Sound() {
			t.Errorf("found %v", r.Findings)
		}
		var n int
		err := db.NewSelect().Table("bun_migrations").ColumnExpr("count(*)").
			Where("name = '20261130000002'").Scan(t.Context(), &n)
		if err != nil || n != 0 {
			t.Errorf("the database itself was migrated: %d, %v", n, err)
		}
	})
}

// A finding in a backup is reported, and Restore then changes nothing.
func TestRestoreRefusesWhatIsNotSound(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	db := storetest.MustOpen(t, url)
	w := mustStory(t, db)
	w.Exec("UPDATE conversation_members SET last_read_seq = 1000 WHERE conversation_id = ?",
		w.group)
	file, _ := mustCreate(t, url)
	target := storetest.SQLiteURL(t)
	if err := storetest.MustOpen(t, target).Close(); err != nil {
		t.Fatal(err)
	}
	path, _ := store.SQLitePath(target)
	before, _ := os.ReadFile(path)
	done, err := backup.Restore(t.Context(), file, target, time.Now(), quiet())
	if err != nil || done.Report.Sound() || done.Kept != "" {
		t.Errorf("got %+v, %v", done, err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the database was changed")
	}
	if diff := cmp.Diff([]string{"parley.db", "parley.db.lock"},
		namesIn(t, filepath.Dir(path))); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
}

// A round trip: what was backed up is what is served afterwards, and the database that was there is
// kept, and can be restored in turn.
func TestRestore(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	path, _ := store.SQLitePath(url)
	db := storetest.MustOpen(t, url)
	w := mustStory(t, db)
	file, created := mustCreate(t, url)
	w.Send("ann", w.group, "after the backup")

	// Not while it is open, by a server or by anything else.
	if _, err := backup.Restore(t.Context(), file, url, time.Now(), quiet()); !errors.Is(err,
		backup.ErrServed) {
		t.Errorf("while it is served: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	shell, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := shell.QueryRowContext(t.Context(), "SELECT count(*) FROM users").
		Scan(&n); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), file, url, time.Now(), quiet()); !errors.Is(err,
		backup.ErrServed) {
		t.Errorf("while another program has it open: %v", err)
	}
	if err := shell.Close(); err != nil {
		t.Fatal(err)
	}

	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	done, err := backup.Restore(t.Context(), file, url, at, quiet())
	if err != nil || !done.Report.Sound() {
		t.Fatalf("got %+v, %v", done, err)
	}
	if done.Kept != path+".before-restore-20261130T120000Z" {
		t.Errorf("kept as %s", done.Kept)
	}
	for _, name := range []string{path, done.Kept} {
		if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	r := mustBeSound(t, storetest.MustOpen(t, url))
	if diff := cmp.Diff(created.Figures, r.Figures); diff != "" {
		t.Errorf("(-backed up +restored):\n%s", diff)
	}
	if r := mustVerify(t, done.Kept, ""); r.Messages != created.Messages+1 || !r.Sound() {
		t.Errorf("kept: %s, %v", r.Figures, r.Findings)
	}
}

// A killed server leaves a -wal file. Its content is kept with the database, and is not applied to
// the one that is put in place.
func TestRestoreAfterAKill(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	path, _ := store.SQLitePath(url)
	w := mustStory(t, storetest.MustOpen(t, url))
	file, created := mustCreate(t, url)
	w.Send("ann", w.group, "in the -wal file")
	// The state of the files after a kill: no process has them open.
	killed := filepath.Join(t.TempDir(), "parley.db")
	mustCopy(t, path, killed)
	mustCopy(t, path+"-wal", killed+"-wal")
	done, err := backup.Restore(t.Context(), file, "sqlite:"+killed, time.Now(), quiet())
	if err != nil || !done.Report.Sound() {
		t.Fatalf("got %+v, %v", done, err)
	}
	if r := mustVerify(t, done.Kept, ""); r.Messages != created.Messages+1 {
		t.Errorf("kept: %s", r.Figures)
	}
	if r := mustBeSound(t, storetest.MustOpen(t,
		"sqlite:"+killed)); r.Messages != created.Messages {
		t.Errorf("restored: %s", r.Figures)
	}
}

// A database that cannot be read is replaced all the same, and kept as it is.
func TestRestoreOverADamagedDatabase(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	mustStory(t, storetest.MustOpen(t, url))
	file, created := mustCreate(t, url)
	damaged := filepath.Join(t.TempDir(), "parley.db")
	for name, data := range map[string]string{damaged: "nothing of use", damaged + "-wal": "wal"} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done, err := backup.Restore(t.Context(), file, "sqlite:"+damaged, time.Now(), quiet())
	if err != nil || !done.Report.Sound() {
		t.Fatalf("got %+v, %v", done, err)
	}
	for name, want := range map[string]string{
		done.Kept: "nothing of use", done.Kept + "-wal": "wal",
	} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", name, got, err)
		}
	}
	r := mustBeSound(t, storetest.MustOpen(t, "sqlite:"+damaged))
	if r.Messages != created.Messages {
		t.Errorf("restored: %s", r.Figures)
	}
}

// Where there is no database, one is made, without a -wal file that is left of another one.
func TestRestoreIntoAnEmptyFolder(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	mustStory(t, storetest.MustOpen(t, url))
	file, created := mustCreate(t, url)
	fresh := filepath.Join(t.TempDir(), "data", "parley.db")
	done, err := backup.Restore(t.Context(), file, "sqlite:"+fresh, time.Now(), quiet())
	if err != nil || done.Kept != "" {
		t.Fatalf("got %+v, %v", done, err)
	}
	if r := mustBeSound(t, storetest.MustOpen(t, "sqlite:"+fresh)); r.Messages != created.Messages {
		t.Errorf("restored: %s", r.Figures)
	}
}

// libpq gets the address in variables, so that nothing of it is on a command line.
func TestAddressesOfPostgreSQL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string][]string{
		"postgres://parley:s%40c:ret@db.internal:5432/parley": {
			"PGUSER=parley", "PGPASSWORD=s@c:ret", "PGHOST=db.internal", "PGPORT=5432",
			"PGDATABASE=parley",
		},
		"postgresql://a,b:5433,[::1]:5434/x?target_session_attrs=read-write&sslmode=require" +
			"&default_query_exec_mode=exec": {
			"PGHOST=a,b,::1", "PGPORT=,5433,5434", "PGDATABASE=x",
			"PGTARGETSESSIONATTRS=read-write", "PGSSLMODE=require",
		},
		"postgres://%2Fvar%2Frun/x?password=p": {"PGHOST=/var/run", "PGDATABASE=x", "PGPASSWORD=p"},
		"postgres:///":                         nil,
	} {
		env, other, err := backup.Environment(url, "other")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, variable := range env {
			if strings.HasPrefix(variable, "PG") {
				got = append(got, variable)
			}
		}
		if diff := cmp.Diff(want, got,
			cmpopts.SortSlices(strings.Compare), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", url, diff)
		}
		before, err1 := pgx.ParseConfig(url)
		after, err2 := pgx.ParseConfig(other)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if after.Database != "other" || before.Host != after.Host || before.Port != after.Port ||
			before.User != after.User || before.Password != after.Password ||
			len(before.Fallbacks) != len(after.Fallbacks) {
			t.Errorf("%s became %s", url, other)
		}
	}
	for _, url := range []string{"postgres:/x", "postgres://%zz/x", "postgres://a/x?%zz"} {
		if _, _, err := backup.Environment(url, "x"); err == nil ||
			strings.Contains(err.Error(), "zz") {
			t.Errorf("%s: got %v", url, err)
		}
	}
}

// fakeProgram puts a script first in the PATH.
func fakeProgram(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name),
		[]byte("#!/bin/sh\n"+script), //nolint:gosec // it has to be executable
		0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestBackupNeedsPgDump(t *testing.T) {
	url := storetest.PostgresURL(t)
	storetest.MustOpen(t, url)
	file := filepath.Join(t.TempDir(), "backup")
	for version, want := range map[string]string{
		"pg_dump (PostgreSQL) 9.6.24":  "pg_dump is of PostgreSQL 9, and the server of version",
		"pg_dump of somebody else 100": "is not that of a program of PostgreSQL",
	} {
		fakeProgram(t, "pg_dump", "echo '"+version+"'")
		_, err := backup.Create(t.Context(), url, file)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", version, err)
		}
	}
	fakeProgram(t, "pg_dump", `[ "$1" = --version ] && echo 'pg_dump (PostgreSQL) 99.1' && exit
echo "it says why $*" >&2; exit 3`)
	_, err := backup.Create(t.Context(), url, file)
	if err == nil || !strings.Contains(err.Error(), "it says why --format=custom --no-password") {
		t.Errorf("pg_dump fails: got %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	_, err = backup.Create(t.Context(), url, file)
	if err == nil || !strings.Contains(err.Error(), "pg_dump is not installed") {
		t.Errorf("without pg_dump: got %v", err)
	}
	if names := namesIn(t, filepath.Dir(file)); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

// The temporary database is dropped, also after an interrupt in the middle of the restoring.
func TestVerifyDropsItsDatabase(t *testing.T) {
	url := storetest.PostgresURL(t)
	db := storetest.MustOpen(t, url)
	file, _ := mustCreate(t, url)
	left := func() (n int) {
		t.Helper()
		err := db.NewSelect().Table("pg_database").ColumnExpr("count(*)").
			Where("datname LIKE 'parley\\_verify\\_%'").Scan(t.Context(), &n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	mustVerify(t, file, url)
	if n := left(); n != 0 {
		t.Errorf("%d databases are left", n)
	}
	fifo := filepath.Join(t.TempDir(), "started")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	fakeProgram(t, "pg_restore", fmt.Sprintf(
		"[ \"$1\" = --version ] && echo 'pg_restore (PostgreSQL) 99.1' && exit\n"+
			"echo started >%s; exec tail -f /dev/null", fifo))
	ctx, cancel := context.WithCancel(t.Context())
	var during int
	var watching sync.WaitGroup
	watching.Go(func() {
		_, _ = os.ReadFile(fifo) // returns when pg_restore runs
		during = left()
		cancel()
	})
	_, err := backup.Verify(ctx, file, url, quiet())
	watching.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if during != 1 || left() != 0 {
		t.Errorf("%d databases while it ran, and %d afterwards", during, left())
	}
}

func TestVerifyOfAnArchiveNeedsAServer(t *testing.T) {
	t.Parallel()
	url := storetest.PostgresURL(t)
	storetest.MustOpen(t, url)
	file, _ := mustCreate(t, url)
	if _, err := backup.Verify(t.Context(), file, "", quiet()); err == nil ||
		!strings.Contains(err.Error(), "name a server") {
		t.Errorf("got %v", err)
	}
}
