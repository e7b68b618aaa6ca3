package migrations

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/migrate"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// recordsMigration is the number of the migration that makes the table migration_records.
const recordsMigration = "20261130000005"

// Up applies the migrations of this version that are missing, oldest first, and returns their
// names. It applies none if this version cannot use the database (*Incompatible).
//
// If one fails, it changes nothing, those before it stay applied, and the error names it. Called
// again, Up continues with it.
func (m *Migrator) Up(ctx context.Context) (applied []string, err error) {
	s, err := m.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.usable(s); err != nil || len(m.missing(s)) == 0 {
		return nil, err
	}
	err = m.locked(ctx, func() error {
		if err := m.makeTable(ctx); err != nil {
			return err
		}
		// After the lock: another node may have applied some, or all.
		s, err := m.read(ctx)
		if err != nil {
			return err
		}
		missing := m.missing(s)
		if err := m.usable(s); err != nil || len(missing) == 0 {
			return err
		}
		run := &run{
			m: m, up: true, group: s.lastGroup() + 1, recorded: s.recorded,
			goal: missing[len(missing)-1].name,
		}
		for _, k := range missing {
			done, err := run.one(ctx, k)
			if done {
				applied = append(applied, k.String())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return applied, err
}

// Down reverts the newest group of migrations that were applied together, newest first, and deletes
// their data. It returns their names. A group with migrations that this version does not know is
// not reverted.
func (m *Migrator) Down(ctx context.Context) (reverted []string, err error) {
	err = m.locked(ctx, func() error {
		s, err := m.read(ctx)
		if err != nil {
			return err
		}
		run := &run{m: m, recorded: s.recorded}
		for _, a := range slices.Backward(s.applied) {
			if a.GroupID != s.lastGroup() {
				continue
			}
			i := slices.IndexFunc(m.known, func(k known) bool { return k.name == a.Name })
			if i < 0 {
				return fmt.Errorf("this version does not know the newest migrations (%s): "+
					"revert them with the version that applied them", a)
			}
			done, err := run.one(ctx, m.known[i])
			if done {
				reverted = append(reverted, m.known[i].String())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return reverted, err
}

// advisoryLock is the key of the lock: "parley" in ASCII, which nothing else in the database uses.
const advisoryLock = 0x7061726c6579

// locked calls fn while no other node migrates. SQLite has no such lock, and needs none: there each
// migration looks again whether it is missing.
func (m *Migrator) locked(ctx context.Context, fn func() error) error {
	if m.db.Dialect().Name() != dialect.PG {
		return fn()
	}
	// The transaction does nothing else, so it has no id, and no position of an event waits for it.
	tx, err := m.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0;
		SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0`)
	if err != nil {
		return err
	}
	var free bool
	err = tx.QueryRowContext(ctx, "SELECT pg_try_advisory_xact_lock(?)", advisoryLock).Scan(&free)
	if err == nil && !free {
		m.opts.Log.InfoContext(ctx, "another node migrates the database; waiting for it")
		_, err = tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock(?)", advisoryLock)
	}
	if err != nil {
		return fmt.Errorf("wait for other nodes' migrations: %w", err)
	}
	return fn()
}

// makeTable makes the table of the applied migrations if there is none.
func (m *Migrator) makeTable(ctx context.Context) error {
	applied, _, err := m.tables(ctx)
	if err != nil || applied {
		return err
	}
	bunMigrator := migrate.NewMigrator(m.db, migrate.NewMigrations())
	if err := bunMigrator.Init(ctx); err != nil {
		return fmt.Errorf("make the table of migrations: %w", err)
	}
	return nil
}

// run applies or reverts some migrations.
type run struct {
	m        *Migrator
	up       bool
	group    int64
	goal     string
	recorded bool    // migration_records exists
	waiting  []known // applied in this run before migration_records existed
}

// errDone ends the transaction of a migration that another process has applied or reverted.
var errDone = errors.New("it is done already")

// one applies or reverts a migration. done is false if another process has done that.
func (r *run) one(ctx context.Context, k known) (done bool, err error) {
	h := hooks{before: r.begin, after: r.record}
	found, err := r.m.discover(h)
	if err != nil {
		return false, err
	}
	bunMigrator := migrate.NewMigrator(r.m.db, found,
		migrate.WithTemplateData(dialectOf(r.m.db)),
		migrate.BeforeMigration(h.before), migrate.AfterMigration(h.after))
	sorted := found.Sorted()
	i := slices.IndexFunc(sorted, func(m migrate.Migration) bool { return m.Name == k.name })
	migration := &sorted[i]
	step := migration.Up
	if !r.up {
		step = migration.Down
	}
	if step == nil {
		return false, fmt.Errorf("migration %s has no file for this direction", k)
	}
	err = r.m.withRetries(ctx, k.String(), func() error {
		return step(ctx, bunMigrator, migration)
	})
	done = err == nil
	if err != nil && !errors.Is(err, errDone) {
		return false, err
	}
	switch {
	case k.name == recordsMigration:
		r.recorded = r.up
		r.waiting = nil
	case !r.recorded && done:
		r.waiting = append(r.waiting, k)
	}
	return done, nil
}

// begin begins the transaction of a migration.
func (r *run) begin(ctx context.Context, tx bun.IConn, migration *migrate.Migration) error {
	if r.m.db.Dialect().Name() == dialect.PG {
		_, err := tx.ExecContext(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d; "+
			"SET LOCAL statement_timeout = 0", r.m.opts.LockTimeout.Milliseconds()))
		if err != nil {
			return err
		}
	}
	var applied bool
	err := tx.QueryRowContext(ctx, "SELECT count(*) > 0 FROM bun_migrations WHERE name = ?",
		migration.Name).Scan(&applied)
	if err == nil && applied == r.up {
		return errDone
	}
	return err
}

// record records in the transaction of a migration that it is applied, or no longer.
func (r *run) record(ctx context.Context, tx bun.IConn, migration *migrate.Migration) error {
	if !r.up {
		_, err := tx.ExecContext(ctx, "DELETE FROM bun_migrations WHERE name = ?", migration.Name)
		if err == nil && r.recorded && migration.Name != recordsMigration {
			_, err = tx.ExecContext(ctx, "DELETE FROM migration_records WHERE name = ?",
				migration.Name)
		}
		return err
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO bun_migrations (name, group_id) VALUES (?, ?)",
		migration.Name, r.group)
	if err != nil || !r.recorded && migration.Name != recordsMigration {
		return err
	}
	i := slices.IndexFunc(r.m.known, func(k known) bool { return k.name == migration.Name })
	for _, k := range append(slices.Clone(r.waiting), r.m.known[i]) {
		_, err := tx.ExecContext(ctx, `INSERT INTO migration_records
			(name, comment, checksum, requires, goal)
			VALUES (?, ?, nullif(?, ''), nullif(?, ''), ?)`,
			k.name, k.comment, k.checksum, k.requires, r.goal)
		if err != nil {
			return err
		}
	}
	return nil
}

// How long a migration waits before it is tried again: the backoff doubles from first to last.
const (
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// withRetries calls step, which runs a migration in a transaction, and again with backoff and
// jitter while it fails because others hold locks that it needs. So requests that queued behind the
// migration run in between. Its errors name the migration, and say what to do.
func (m *Migrator) withRetries(ctx context.Context, name string, step func() error) error {
	begin := time.Now()
	for tries, backoff := 1, firstBackoff; ; tries, backoff = tries+1, min(2*backoff, lastBackoff) {
		err := step()
		switch {
		case err == nil || errors.Is(err, errDone):
			return err
		case !isLockFailure(err):
			return failed(name, err)
		case time.Since(begin) >= m.opts.Patience:
			return fmt.Errorf("migration %s: others held locks that it needs for %v, in %d tries "+
				"(%w): end long transactions (pg_stat_activity lists them), and run parley "+
				"migrate again; what was applied before stays applied",
				name, m.opts.Patience, tries, err)
		}
		wait := backoff/2 + rand.N(backoff/2+1)
		m.opts.Log.WarnContext(ctx, "a migration cannot get a lock; retrying",
			"migration", name, "tries", tries, "after", wait, "error", err)
		select {
		case <-ctx.Done():
			return failed(name, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

func failed(name string, err error) error {
	advice := "once the reason is gone, run parley migrate again"
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case "42P07", "42701", "42710": // duplicate table, column, object
			advice = "what it makes is there, but not recorded as applied: something else made " +
				"it, or it is what a version of before " + recordsMigration + " left when it " +
				"was killed; remove it, or restore the backup, and run parley migrate again"
		}
	}
	return fmt.Errorf("migration %s failed and changed nothing (%w): %s; "+
		"what was applied before stays applied", name, err, advice)
}

// isLockFailure reports whether a transaction failed because others hold locks.
func isLockFailure(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code == "55P03" || // lock_not_available: lock_timeout
			pgErr.Code == "40P01" // deadlock_detected
	}
	if liteErr, ok := errors.AsType[*sqlite.Error](err); ok {
		code := liteErr.Code() & 0xff
		return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
	}
	return false
}

// Accept records the checksums of this version's migrations for those that were applied with
// others, and returns the names of these. It is for an operator who knows that the tables are the
// same.
func (m *Migrator) Accept(ctx context.Context) (accepted []string, err error) {
	s, err := m.read(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range m.changed(s) {
		_, err := m.db.ExecContext(ctx, "UPDATE migration_records SET checksum = ? WHERE name = ?",
			k.checksum, k.name)
		if err != nil {
			return accepted, err
		}
		accepted = append(accepted, k.String())
	}
	return accepted, nil
}

func names[T fmt.Stringer](list []T) string {
	var texts []string
	for _, item := range list {
		texts = append(texts, item.String())
	}
	return strings.Join(texts, ", ")
}
