package migrations_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/uptrace/bun"

	"parley/migrations"
	"parley/store"
	"parley/store/storetest"
	"parley/wake"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// each runs fn with the URL of an empty SQLite database and of an empty PostgreSQL database, as
// parallel subtests.
func each(t *testing.T, fn func(t *testing.T, url string)) {
	t.Helper()
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		fn(t, storetest.SQLiteURL(t))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		fn(t, storetest.PostgresURL(t))
	})
}

func mustOpen(t *testing.T, url string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// The numbers of the oldest and the newest migration that every version of these tests has.
const (
	oldest = "20261122000001_accounts"
	newest = "20261130000005_records"
)

// version returns the files of a version: those up to the newest one, without some of them, and
// more, by the names of their migrations.
func version(t *testing.T, more map[string]string, without ...string) fs.FS {
	t.Helper()
	files := fstest.MapFS{}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name, _, _ := strings.Cut(entry.Name(), ".")
		if !strings.HasSuffix(entry.Name(), ".sql") || name > newest ||
			slices.Contains(without, name) {
			continue
		}
		text, err := os.ReadFile(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = &fstest.MapFile{Data: text}
	}
	for name, text := range more {
		files[name+".tx.up.sql"] = &fstest.MapFile{Data: []byte(text)}
		files[name+".tx.down.sql"] = &fstest.MapFile{Data: []byte("SELECT 1;")}
	}
	return files
}

func mustNew(t *testing.T, db *store.DB, opts migrations.Options) *migrations.Migrator {
	t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	m, err := migrations.New(db.DB, opts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustUp(t *testing.T, m *migrations.Migrator, want ...string) {
	t.Helper()
	applied, err := m.Up(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want != nil && !slices.Equal(applied, want) {
		t.Fatalf("applied %v, want %v", applied, want)
	}
}

// wantIncompatible checks that an error is Incompatible and says all of this.
func wantIncompatible(t *testing.T, err error, says ...string) {
	t.Helper()
	if _, ok := errors.AsType[*migrations.Incompatible](err); !ok {
		t.Fatalf("got the error %v, want Incompatible", err)
	}
	wantError(t, err, says...)
}

func wantError(t *testing.T, err error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", says)
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error %q does not say %q", err, text)
		}
	}
}

// lines collects a log. A test can wait for a line of it.
type lines struct {
	mu    sync.Mutex // guards text
	text  strings.Builder
	wrote wake.Notifier
}

func newLog() (*lines, *slog.Logger) {
	l := &lines{wrote: wake.NewNotifier()}
	return l, slog.New(slog.NewTextHandler(l, nil))
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote.Notify()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// mustHave waits until the log has a text.
func (l *lines) mustHave(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !strings.Contains(l.String(), text) {
		select {
		case <-l.wrote.C():
		case <-deadline:
			t.Fatalf("no %q in the log: %s", text, l)
		}
	}
}

func TestUpDownAndUpAgain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		m := mustNew(t, db, migrations.Options{})
		mustUp(t, m, []string{}...)
		list, err := m.List(t.Context())
		if err != nil || len(list) == 0 {
			t.Fatalf("got %v (%v)", list, err)
		}
		for _, status := range list {
			if status.State != migrations.Applied || !status.Recorded {
				t.Errorf("%+v is not applied and recorded", status)
			}
		}
		if err := m.CheckStart(t.Context()); err != nil {
			t.Error(err)
		}
		if reverted, err := m.Down(t.Context()); err != nil || len(reverted) != len(list) {
			t.Fatalf("reverted %v (%v)", reverted, err)
		}
		if n, err := db.NewSelect().Table("users").Count(t.Context()); err == nil {
			t.Fatalf("the tables are still there (%d users)", n)
		}
		wantIncompatible(t, m.Check(t.Context()), "the database has no tables yet")
		if applied, err := m.Up(t.Context()); err != nil || len(applied) != len(list) {
			t.Fatalf("applied %v (%v)", applied, err)
		}
	})
}

// A group is what was applied together, so a version that is undone takes nothing else with it.
func TestDownRevertsOneGroup(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		db := mustOpen(t, url)
		before := mustNew(t, db, migrations.Options{Files: version(t, nil)})
		mustUp(t, before)
		after := mustNew(t, db, migrations.Options{Files: version(t, map[string]string{
			"20270101000001_pins":  "CREATE TABLE pins (id bigint);",
			"20270101000002_drops": "SELECT 1;",
		})})
		mustUp(t, after, "20270101000001_pins", "20270101000002_drops")
		_, err := before.Down(t.Context())
		wantError(t, err, "does not know", "20270101000002_drops", "the version that applied them")
		reverted, err := after.Down(t.Context())
		if err != nil || !slices.Equal(reverted,
			[]string{"20270101000002_drops", "20270101000001_pins"}) {
			t.Errorf("reverted %v (%v)", reverted, err)
		}
		if err := before.CheckStart(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestManyNodesMayMigrateAtOnce(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		var mu sync.Mutex
		var all []string
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				db, err := store.Open(t.Context(), url, store.Options{})
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = db.Close() }()
				applied, err := migrations.Up(t.Context(), db.DB)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, applied...)
			})
		}
		wg.Wait()
		list, err := mustNew(t, mustOpen(t, url), migrations.Options{}).List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(all)
		if len(all) != len(list) || len(slices.Compact(all)) != len(list) {
			t.Errorf("applied %v, want each of %v once", all, list)
		}
	})
}

// A transaction holds the lock of a table that a migration needs. Others go on with the table while
// the migration tries again, and it is applied when the lock is free.
func TestUpTriesAgainWithoutHoldingOthersUp(t *testing.T) {
	t.Parallel()
	db := storetest.MustPostgres(t)
	holder, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback() }()
	if _, err := holder.ExecContext(t.Context(),
		"LOCK TABLE users IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	log, logger := newLog()
	m := mustNew(t, db, migrations.Options{
		Log: logger, LockTimeout: 20 * time.Millisecond, Files: withLater(t),
	})
	done := make(chan error, 1)
	go func() {
		_, err := m.Up(t.Context())
		done <- err
	}()
	log.mustHave(t, "migration=20990101000001_pins tries=1")
	if _, err := db.NewSelect().Table("users").Count(t.Context()); err != nil {
		t.Error(err)
	}
	log.mustHave(t, "migration=20990101000001_pins tries=2")
	if err := holder.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := db.NewSelect().Table("users").Column("pins").Exec(t.Context()); err != nil {
		t.Error(err)
	}
}

// withLater returns all files of this version and a later migration, which needs the lock of users.
func withLater(t *testing.T) fs.FS {
	t.Helper()
	files := fstest.MapFS{
		"20990101000001_pins.tx.up.sql": {
			Data: []byte("ALTER TABLE users ADD COLUMN pins bigint;"),
		},
		"20990101000001_pins.tx.down.sql": {Data: []byte("SELECT 1;")},
	}
	err := fs.WalkDir(os.DirFS("."), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".sql") {
			return err
		}
		text, err := os.ReadFile(path)
		files[path] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A request and the migration wait for each other. The migration gives way and is tried again.
func TestUpOutlivesADeadlock(t *testing.T) {
	t.Parallel()
	db := storetest.MustPostgres(t)
	holder, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback() }()
	// PostgreSQL ends the transaction whose deadlock_timeout is over first.
	if _, err := holder.ExecContext(t.Context(), "SET LOCAL deadlock_timeout = '1h'; "+
		"LOCK TABLE users IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	log, logger := newLog()
	m := mustNew(t, db, migrations.Options{
		Log: logger, LockTimeout: time.Hour,
		Files: version(t, map[string]string{"20990101000001_pins": `
			SET LOCAL deadlock_timeout = '10ms';
			--bun:split
			ALTER TABLE mails ADD COLUMN pins bigint;
			--bun:split
			SELECT pg_advisory_xact_lock(7);
			--bun:split
			ALTER TABLE users ADD COLUMN pins bigint;`}),
	})
	// The migration stops between its tables until the other transaction waits for the first.
	gate, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = gate.Rollback() }()
	if _, err := gate.ExecContext(t.Context(), "SELECT pg_advisory_xact_lock(7)"); err != nil {
		t.Fatal(err)
	}
	migrated, locked := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := m.Up(t.Context())
		migrated <- err
	}()
	mustWait(t, db, "advisory")
	go func() {
		_, err := holder.ExecContext(context.WithoutCancel(t.Context()),
			"LOCK TABLE mails IN ACCESS SHARE MODE")
		locked <- errors.Join(err, holder.Commit())
	}()
	mustWait(t, db, "relation")
	if err := gate.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Errorf("the request has failed: %v", err)
	}
	if err := <-migrated; err != nil {
		t.Error(err)
	}
	log.mustHave(t, "40P01")
}

// mustWait waits until a connection to the database waits for a lock of this type.
func mustWait(t *testing.T, db *store.DB, kind string) {
	t.Helper()
	for deadline := time.After(30 * time.Second); ; {
		n, err := db.NewSelect().TableExpr("pg_stat_activity").
			Where("datname = current_database()").Where("wait_event_type = 'Lock'").
			Where("wait_event = ?", kind).Count(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("nothing waits for a lock of type %s", kind)
		default:
		}
	}
}

// A migration that cannot get its lock, or fails, changes nothing. Those before it stay applied,
// and the next Up continues.
func TestUpThatFailsCanContinue(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		db := mustOpen(t, url)
		files := func(second string) fs.FS {
			return version(t, map[string]string{
				"20270101000001_pins": "CREATE TABLE pins (id bigint);",
				"20270101000002_tags": "CREATE TABLE tags (id bigint);\n--bun:split\n" + second,
				"20270101000003_last": "CREATE TABLE last (id bigint);",
			})
		}
		mustUp(t, mustNew(t, db, migrations.Options{Files: version(t, nil)}))
		failing := mustNew(t, db, migrations.Options{Files: files("SELECT nonsense;")})
		applied, err := failing.Up(t.Context())
		wantError(t, err, "migration 20270101000002_tags failed and changed nothing", "nonsense",
			"run parley migrate again", "what was applied before stays applied")
		if !slices.Equal(applied, []string{"20270101000001_pins"}) {
			t.Errorf("applied %v", applied)
		}
		if _, err := db.NewSelect().Table("tags").Count(t.Context()); err == nil {
			t.Error("the failed migration has left a table")
		}
		wantIncompatible(t, failing.Check(t.Context()), "half applied", "20270101000003",
			"20270101000002_tags", "run parley migrate again")
		whole := mustNew(t, db, migrations.Options{Files: files("SELECT 1;")})
		mustUp(t, whole, "20270101000002_tags", "20270101000003_last")
		if err := whole.CheckStart(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestUpGivesUpOnALock(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		holding, db := mustOpen(t, url), mustOpen(t, url)
		mustUp(t, mustNew(t, db, migrations.Options{Files: version(t, nil)}))
		lock := "LOCK TABLE users IN ACCESS SHARE MODE"
		if !db.Postgres() {
			lock = "SELECT 1" // a transaction has the lock of the file
			// instead of ten seconds, on the only connection that writes
			if _, err := db.ExecContext(t.Context(), "PRAGMA busy_timeout = 1"); err != nil {
				t.Fatal(err)
			}
		}
		holder, err := holding.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = holder.Rollback() }()
		if _, err := holder.ExecContext(t.Context(), lock); err != nil {
			t.Fatal(err)
		}
		m := mustNew(t, db, migrations.Options{
			Patience: time.Nanosecond, LockTimeout: time.Millisecond,
			Files: version(t, map[string]string{
				"20270101000001_pins": "ALTER TABLE users ADD COLUMN pins bigint;",
			}),
		})
		_, err = m.Up(t.Context())
		wantError(t, err, "migration 20270101000001_pins: others held locks", "in 1 tries",
			"pg_stat_activity", "run parley migrate again")
		if err := holder.Rollback(); err != nil {
			t.Fatal(err)
		}
		mustUp(t, m, "20270101000001_pins")
	})
}

// A migration and its record are stored together: the record fails here, so the table is not made.
func TestAMigrationIsRecordedWithWhatItMakes(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		db := mustOpen(t, url)
		mustUp(t, mustNew(t, db, migrations.Options{Files: version(t, nil)}))
		m := mustNew(t, db, migrations.Options{Files: version(t, map[string]string{
			"20270101000001_pins": `CREATE TABLE pins (id bigint);
				--bun:split
				INSERT INTO migration_records (name, comment, goal)
				VALUES ('20270101000001', 'in the way', '');`,
		})})
		if _, err := m.Up(t.Context()); err == nil {
			t.Fatal("the migration was recorded twice")
		}
		if _, err := db.NewSelect().Table("pins").Count(t.Context()); err == nil {
			t.Error("the table is there without a record")
		}
		list, err := m.List(t.Context())
		if err != nil || list[len(list)-1].State != migrations.Missing {
			t.Errorf("got %+v (%v)", list, err)
		}
	})
}

// A version of before migration_records that was killed left a table and did not record it.
func TestWhatIsThereWithoutARecord(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, storetest.PostgresURL(t))
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE users (id bigint)"); err != nil {
		t.Fatal(err)
	}
	_, err := migrations.Up(t.Context(), db.DB)
	wantError(t, err, oldest, "not recorded as applied")
}

func TestTooOld(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		db := mustOpen(t, url)
		now := mustNew(t, db, migrations.Options{Files: version(t, nil)})
		wantIncompatible(t, now.Check(t.Context()), "no tables yet", "run parley migrate")
		before := version(t, nil, "20261130000002_removal", newest)
		mustUp(t, mustNew(t, db, migrations.Options{Files: before}))
		wantIncompatible(t, now.Check(t.Context()), "too old",
			"20261130000002_removal, "+newest, "run parley migrate")
		mustUp(t, now, "20261130000002_removal", newest)
		if err := now.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Migrations that were applied before there were records have no checksum, and are accepted.
func TestMigrationsWithoutARecord(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		db := mustOpen(t, url)
		mustUp(t, mustNew(t, db, migrations.Options{Files: version(t, nil, newest)}))
		now := mustNew(t, db, migrations.Options{Files: version(t, nil)})
		mustUp(t, now, newest)
		if err := now.CheckStart(t.Context()); err != nil {
			t.Error(err)
		}
		list, err := now.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, status := range list {
			if status.State != migrations.Applied || status.Recorded != (status.Name == newest) {
				t.Errorf("%+v", status)
			}
		}
	})
}

func TestUnknownMigrations(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		db := mustOpen(t, url)
		log, logger := newLog()
		now := mustNew(t, db, migrations.Options{Files: version(t, nil), Log: logger})
		mustUp(t, now)
		if err := now.Check(t.Context()); err != nil {
			t.Error(err)
		}
		adds := map[string]string{"20270101000001_pins": "CREATE TABLE pins (id bigint);"}
		mustUp(t, mustNew(t, db, migrations.Options{Files: version(t, adds)}))
		for range 3 {
			if err := now.CheckStart(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if n := strings.Count(log.String(), "migrations=20270101000001_pins"); n != 1 {
			t.Errorf("logged %d times, want once: %s", n, log)
		}
		mustUp(t, now, []string{}...)

		// A removal that needs nothing that is new in its own version is for all that know the
		// version before it.
		adds["20270201000001_drop"] = "-- requires: 20270101000001\nDROP TABLE pins;"
		after := mustNew(t, db, migrations.Options{Files: version(t, adds)})
		mustUp(t, after, "20270201000001_drop")
		wantIncompatible(t, now.Check(t.Context()), "too new", "20270201000001_drop",
			"know migration 20270101000001")
		wantIncompatible(t, now.CheckStart(t.Context()), "too new")
		_, err := now.Up(t.Context())
		wantIncompatible(t, err, "too new")
		delete(adds, "20270201000001_drop")
		between := mustNew(t, db, migrations.Options{Files: version(t, adds)})
		if err := between.CheckStart(t.Context()); err != nil {
			t.Error(err)
		}
		list, err := now.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := migrations.Status{
			Name: "20270201000001_drop", State: migrations.Unknown, Requires: "20270101000001",
			Recorded: true,
		}
		if got := list[len(list)-1]; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// A version that is too new for the database applies nothing before it refuses.
func TestUpRefusesBeforeItApplies(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		db := mustOpen(t, url)
		mustUp(t, mustNew(t, db, migrations.Options{Files: version(t, map[string]string{
			"20270101000002_drop": "-- requires: 20270101000002\nSELECT 1;",
		})}))
		other := mustNew(t, db, migrations.Options{Files: version(t, map[string]string{
			"20270101000001_pins": "CREATE TABLE pins (id bigint);",
		})})
		applied, err := other.Up(t.Context())
		wantIncompatible(t, err, "too new")
		if len(applied) > 0 {
			t.Errorf("applied %v", applied)
		}
	})
}

func TestChangedFiles(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		db := mustOpen(t, url)
		with := func(pins string) *migrations.Migrator {
			return mustNew(t, db, migrations.Options{Files: version(t, map[string]string{
				"20270101000001_pins": pins, "20270101000002_more": "SELECT 1;",
			})})
		}
		mustUp(t, mustNew(t, db, migrations.Options{Files: version(t, map[string]string{
			"20270101000001_pins": "CREATE TABLE pins (id bigint);",
		})}))
		changed := with("CREATE TABLE pins (id text);")
		applied, err := changed.Up(t.Context())
		wantIncompatible(t, err, "20270101000001_pins was applied from another file",
			"parley migrate accept")
		if len(applied) > 0 {
			t.Errorf("applied %v", applied)
		}
		wantIncompatible(t, changed.CheckStart(t.Context()), "another file")
		list, err := changed.List(t.Context())
		if err != nil || list[len(list)-2].State != migrations.Changed {
			t.Errorf("got %+v (%v)", list, err)
		}
		accepted, err := changed.Accept(t.Context())
		if err != nil || !slices.Equal(accepted, []string{"20270101000001_pins"}) {
			t.Errorf("accepted %v (%v)", accepted, err)
		}
		mustUp(t, changed, "20270101000002_more")
		// A node that runs with the other file goes on.
		other := with("CREATE TABLE pins (id bigint);")
		if err := other.Check(t.Context()); err != nil {
			t.Error(err)
		}
		wantIncompatible(t, other.CheckStart(t.Context()), "another file")
	})
}

func TestFilesHaveToRunInTransactions(t *testing.T) {
	t.Parallel()
	_, err := migrations.New((*bun.DB)(nil), migrations.Options{Files: fstest.MapFS{
		"20270101000001_pins.up.sql": {Data: []byte("SELECT 1;")},
	}})
	wantError(t, err, "20270101000001_pins", ".tx.up.sql")
}

// Check and List write nothing, so a database that cannot be written answers them.
func TestCheckingWritesNothing(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, storetest.PostgresURL(t))
	m := mustNew(t, db, migrations.Options{})
	_, err := m.List(t.Context())
	if err != nil {
		t.Error(err)
	}
	wantIncompatible(t, m.CheckStart(t.Context()), "no tables yet")
	n, err := db.NewSelect().TableExpr("pg_class").Where("relname LIKE 'bun%'").Count(t.Context())
	if err != nil || n > 0 {
		t.Errorf("%d tables of migrations (%v)", n, err)
	}
}
