package privatepg

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Standby starts a standby of this server, with a port and a folder of its own. It replicates
// asynchronously: a commit on the primary does not wait for it. Sessions on it can only read. The
// primary keeps what the standby has not received yet, so it can be detached for any time.
//
// Standby returns when the standby answers. It then has every transaction that committed before
// the call.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	standby, err := newServer(s.bin)
	if err != nil {
		return nil, err
	}
	if err := standby.Follow(ctx, s); err != nil {
		return nil, errors.Join(err, standby.Stop())
	}
	return standby, nil
}

// Follow makes this server a standby of primary, as Standby does: it kills the server, replaces its
// data by a copy of the primary's, and starts it again at the same address. What only this server
// had is lost. It is how an old primary returns after a failover.
func (s *Server) Follow(ctx context.Context, primary *Server) error {
	if err := s.Kill(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.data()); err != nil {
		return err
	}
	// One name for each copy, because the slot of an earlier one may be left.
	s.primary, s.slot = primary, "standby_"+strings.ToLower(rand.Text())
	if err := s.command(ctx, "pg_basebackup", "--pgdata", s.data(), "--dbname",
		s.primary.conninfo(), "--checkpoint", "fast", "--no-sync", "--wal-method", "stream",
		"--create-slot", "--slot", s.slot); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.data(), "standby.signal"), nil, 0o600); err != nil {
		return err
	}
	err := s.configure("postgresql.auto.conf", s.follows(), "primary_slot_name = '"+s.slot+"'")
	if err != nil {
		return err
	}
	if err := s.runOnFreePort(ctx); err != nil {
		return err
	}
	return s.CatchUp(ctx)
}

// conninfo tells another server how to reach this one.
func (s *Server) conninfo() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=parley sslmode=disable", s.port)
}

func (s *Server) follows() string { return "primary_conninfo = '" + s.primary.conninfo() + "'" }

// Detach restarts a standby without its connection to the primary. What commits on the primary
// after Detach was called may not reach the standby, and what commits after it has returned does
// not, so it is lost if the standby is promoted. Pausing the replay would not do: a promotion
// replays everything that the standby has received. Attach ends it.
func (s *Server) Detach(ctx context.Context) error {
	if err := s.Kill(); err != nil {
		return err
	}
	if err := s.configure("postgresql.auto.conf", "primary_conninfo = ''"); err != nil {
		return err
	}
	return s.run(ctx)
}

// Attach restarts a detached standby with its connection to the primary. The standby is behind
// until CatchUp returns.
func (s *Server) Attach(ctx context.Context) error {
	if err := s.Kill(); err != nil {
		return err
	}
	if err := s.configure("postgresql.auto.conf", s.follows()); err != nil {
		return err
	}
	return s.run(ctx)
}

// CatchUp waits until the standby has every transaction that committed on its primary before the
// call. Both have to run.
func (s *Server) CatchUp(ctx context.Context) error {
	// Only what is flushed is sent to a standby. With synchronous_commit = off a commit does not
	// wait for that, and this one does.
	var position string
	err := s.primary.query(ctx, &position, "SELECT set_config('synchronous_commit', 'local', true)"+
		" || pg_logical_emit_message(true, 'parley', '')::text")
	if err != nil {
		return err
	}
	position = strings.TrimPrefix(position, "local")
	return s.wait(ctx, "SELECT pg_last_wal_replay_lsn() > '"+position+"'")
}

// Promote makes a standby a primary, and returns when it accepts writes. It begins a new timeline,
// after the last transaction that it received. It neither restarts nor ends its sessions. Its
// former primary is left alone: Kill or SetReadOnly it first, as a cluster manager does, or there
// are two.
func (s *Server) Promote(ctx context.Context) error {
	var promoted bool
	if err := s.query(ctx, &promoted, "SELECT pg_promote(true, 60)"); err != nil {
		return err
	}
	if !promoted {
		return errors.New("the standby was not promoted within a minute")
	}
	return s.wait(ctx, "SELECT NOT pg_is_in_recovery()")
}

// SetReadOnly makes the sessions of this server read-only, or writable again, without ending them:
// a write fails with the SQLSTATE 25006. It returns when new sessions are so. Older ones follow
// before their next statement, except within a transaction that has begun.
func (s *Server) SetReadOnly(ctx context.Context, readOnly bool) error {
	value := "off"
	if readOnly {
		value = "on"
	}
	err := s.configure("postgresql.auto.conf", "default_transaction_read_only = "+value)
	if err != nil {
		return err
	}
	var done bool
	if err := s.query(ctx, &done, "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return s.wait(ctx, "SELECT current_setting('default_transaction_read_only') = '"+value+"'")
}

// Save writes a copy of the server's data into a folder, which must be empty or missing. The server
// goes on. The copy has every transaction that committed before the call, and may have some that
// committed during it.
func (s *Server) Save(ctx context.Context, dir string) error {
	// It runs as the user of this process, who may write there.
	saver := &Server{dir: s.dir, bin: s.bin}
	return saver.command(ctx, "pg_basebackup", "--pgdata", dir, "--dbname", s.conninfo(),
		"--checkpoint", "fast", "--no-sync", "--wal-method", "stream")
}

// RestoreFrom kills the server, replaces its data by a copy that Save made, and starts it again at
// the same address. What was committed after the copy is lost. The system identifier and the
// timeline are those of the copy, and transactions get the same numbers again: only the server's
// start time differs. The copy stays, and can be restored again.
func (s *Server) RestoreFrom(ctx context.Context, dir string) error {
	if err := s.Kill(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.data()); err != nil {
		return err
	}
	if err := s.copyTree(dir, s.data()); err != nil {
		return err
	}
	return s.run(ctx)
}

// copyTree copies a folder for the user of the server.
func (s *Server) copyTree(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o600) // CopyFS makes them readable to all, which PostgreSQL refuses
		if entry.IsDir() {
			mode = 0o700
		}
		if err := os.Chmod(path, mode); err != nil || s.attr.Credential == nil {
			return err
		}
		return os.Chown(path, int(s.attr.Credential.Uid), int(s.attr.Credential.Gid))
	})
}

// query runs a statement on a new session, and reads its one value.
func (s *Server) query(ctx context.Context, value any, statement string) error {
	db, err := sql.Open("pgx", s.URL("postgres"))
	if err != nil {
		return err
	}
	return errors.Join(db.QueryRowContext(ctx, statement).Scan(value), db.Close())
}

// wait waits until a condition is true on a new session.
func (s *Server) wait(ctx context.Context, condition string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var met sql.NullBool
		if err := s.query(ctx, &met, condition); err != nil {
			return err
		}
		if met.Bool {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", condition, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
