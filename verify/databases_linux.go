package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"parley/store/privatepg"
)

// databases are two PostgreSQL servers: a primary, and an asynchronous standby that takes over when
// a fault says so. Nodes know both, and reach each through a relay of its own.
type databases struct {
	servers [2]*privatepg.Server
	relays  [2]*relay
	primary int
}

// postgresSettings turn off flushing to disk. Only processes are killed, not the machine, so
// acknowledged data survives.
func postgresSettings() []string {
	return []string{"fsync = off", "synchronous_commit = on", "full_page_writes = off"}
}

func startDatabases(ctx context.Context) (d *databases, err error) {
	d = &databases{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	if d.servers[0], err = privatepg.Start(ctx, postgresSettings()...); err != nil {
		return d, err
	}
	if d.servers[1], err = d.servers[0].Standby(ctx); err != nil {
		return d, err
	}
	for i, s := range d.servers {
		if d.relays[i], err = listenRelay(s.Address()); err != nil {
			return d, err
		}
	}
	return d, nil
}

func (d *databases) stop() (err error) {
	for i := range d.servers {
		if d.relays[i] != nil {
			d.relays[i].close()
		}
		if d.servers[i] != nil {
			err = errors.Join(err, d.servers[i].Stop())
		}
	}
	return err
}

// url returns what nodes connect to: the one of the two servers that accepts writes.
func (d *databases) url() string {
	return fmt.Sprintf("postgres://parley@%s,%s/postgres?sslmode=disable&connect_timeout=5"+
		"&target_session_attrs=read-write", d.relays[0].address(), d.relays[1].address())
}

func (d *databases) current() *privatepg.Server { return d.servers[d.primary] }

func (d *databases) standby() *privatepg.Server { return d.servers[1-d.primary] }

// cut cuts the nodes from both servers.
func (d *databases) cut() {
	for _, r := range d.relays {
		r.redirect("")
	}
}

// connect ends a cut from the primary.
func (d *databases) connect() { d.relays[d.primary].redirect(d.current().Address()) }

// follow makes the server that is not the primary a standby of it, whatever it was before.
func (d *databases) follow(ctx context.Context) error {
	d.relays[1-d.primary].redirect("")
	if err := d.standby().Follow(ctx, d.current()); err != nil {
		return err
	}
	d.relays[1-d.primary].redirect(d.standby().Address())
	return nil
}

// save copies the database as it is now, and returns how to restore the copy.
func (d *databases) save(
	ctx context.Context, dir string,
) (back func(context.Context) error, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := d.current().Save(ctx, dir); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return d.current().RestoreFrom(ctx, dir) }, nil
}

// leaveBehind lets the standby catch up, and then cuts it from the primary. It returns how to
// promote it.
func (d *databases) leaveBehind(
	ctx context.Context,
) (promote func(context.Context) error, err error) {
	if err := d.standby().CatchUp(ctx); err != nil {
		return nil, err
	}
	if err := d.standby().Detach(ctx); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		if err := d.current().Kill(); err != nil {
			return err
		}
		if err := d.standby().Promote(ctx); err != nil {
			return err
		}
		d.primary = 1 - d.primary
		return nil
	}, nil
}

// switchOver makes the standby the primary, as a cluster manager does that loses nothing. The old
// primary goes on as a server that can only be read, for a time.
func (d *databases) switchOver(ctx context.Context, after time.Duration) error {
	if err := d.current().SetReadOnly(ctx, true); err != nil {
		return err
	}
	if err := d.awaitWriters(ctx); err != nil {
		return err
	}
	if err := d.standby().CatchUp(ctx); err != nil {
		return err
	}
	if err := d.standby().Promote(ctx); err != nil {
		return err
	}
	d.primary = 1 - d.primary
	wait(ctx, after)
	return d.follow(ctx)
}

// awaitWriters waits until the transactions end that have written already.
func (d *databases) awaitWriters(ctx context.Context) error {
	db, err := sql.Open("pgx", d.current().URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	for {
		var writers int
		err := db.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND backend_xid IS NOT NULL`).Scan(&writers)
		if err != nil || writers == 0 {
			return err
		}
		if !wait(ctx, 5*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// lastSeqs reads the newest seq of each conversation, by title, from a database of its own driver.
func lastSeqs(ctx context.Context, driver, url string) (seqs map[string]int64, err error) {
	db, err := sql.Open(driver, url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "SELECT title, last_seq FROM conversations")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	seqs = map[string]int64{}
	for rows.Next() {
		var title string
		var seq int64
		if err := rows.Scan(&title, &seq); err != nil {
			return nil, err
		}
		seqs[title] = seq
	}
	return seqs, rows.Err()
}

// sqlite is the database file of a single node.
type sqlite struct{ path string }

func (s sqlite) url() string { return "sqlite:" + s.path }

// save copies the database as it is now. The node must not run when the copy is restored.
func (s sqlite) save(
	ctx context.Context, dir string,
) (back func(context.Context) error, err error) {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", s.path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	saved := filepath.Join(dir, "copy.db")
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", saved); err != nil {
		return nil, err
	}
	return func(context.Context) error {
		for _, suffix := range []string{"-wal", "-shm"} {
			if err := os.Remove(s.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		data, err := os.ReadFile(saved) //nolint:gosec // of this run
		if err != nil {
			return err
		}
		return os.WriteFile(s.path, data, 0o600)
	}, nil
}
