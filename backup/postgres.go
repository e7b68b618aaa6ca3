package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"parley/store"
)

// dump makes an archive of a PostgreSQL database with pg_dump. The figures are of the snapshot that
// pg_dump reads.
func dump(ctx context.Context, databaseURL, partial string) (f Figures, err error) {
	address, err := parsePGURL(databaseURL)
	if err != nil {
		return f, err
	}
	program, err := findProgram(ctx, "pg_dump")
	if err != nil {
		return f, err
	}
	db, err := store.Open(ctx, databaseURL, store.Options{MaxConns: 1})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := requireVersion(ctx, db, program); err != nil {
		return f, err
	}
	if err := requirePostgresTables(ctx, db, "the database"); err != nil {
		return f, err
	}
	err = db.InSnapshot(ctx, func(ctx context.Context, tx bun.Tx) error {
		// This transaction waits for pg_dump without a statement.
		if _, err := tx.ExecContext(ctx,
			"SET LOCAL idle_in_transaction_session_timeout = 0"); err != nil {
			return err
		}
		var snapshot string
		if err := tx.NewSelect().ColumnExpr("pg_export_snapshot()").
			Scan(ctx, &snapshot); err != nil {
			return err
		}
		if f, err = readFigures(ctx, tx); err != nil {
			return err
		}
		return program.run(ctx, address, "--format=custom", "--no-password",
			"--snapshot="+snapshot, "--file="+partial)
	})
	if err != nil {
		return f, fmt.Errorf("pg_dump: %w", err)
	}
	return f, nil
}

// requireVersion returns an error if a program is older than the server, whose tables it could not
// read then.
func requireVersion(ctx context.Context, db *store.DB, p program) error {
	var number string
	if err := db.NewSelect().ColumnExpr("current_setting('server_version_num')").
		Scan(ctx, &number); err != nil {
		return store.Error(err)
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("read the version of PostgreSQL: %w", err)
	}
	if server := n / 10000; p.major < server {
		return fmt.Errorf("%s is of PostgreSQL %d, and the server of version %d: install the "+
			"client programs of version %d or later (Debian: postgresql-client-%d), and put them "+
			"first in the PATH", p.name, p.major, server, server, server)
	}
	return nil
}

func requirePostgresTables(ctx context.Context, db *store.DB, name string) error {
	var there bool
	err := db.NewSelect().ColumnExpr("to_regclass('bun_migrations') IS NOT NULL AND "+
		"to_regclass('users') IS NOT NULL AND to_regclass('conversations') IS NOT NULL AND "+
		"to_regclass('messages') IS NOT NULL AND to_regclass('events') IS NOT NULL").
		Scan(ctx, &there)
	if err == nil && !there {
		return fmt.Errorf("%s has no tables of Parley", name)
	}
	return store.Error(err)
}

// program is a client program of PostgreSQL.
type program struct {
	name, path string
	major      int
}

var versionOf = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func findProgram(ctx context.Context, name string) (p program, err error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return p, fmt.Errorf("%s is not installed, or not in the PATH; it is one of the client "+
			"programs of PostgreSQL (Debian: apt-get install postgresql-client)", name)
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return p, fmt.Errorf("%s --version: %w", name, err)
	}
	found := versionOf.FindSubmatch(out)
	if found == nil {
		return p, fmt.Errorf("%s --version is not that of a program of PostgreSQL: %.100q", name,
			out)
	}
	p = program{name: name, path: path}
	p.major, err = strconv.Atoi(string(found[1]))
	return p, err
}

// errProgram is the error of a program that ended with a failure; its text is what it printed.
type errProgram struct{ text string }

func (e *errProgram) Error() string { return e.text }

// run runs the program against a database. When ctx ends, the program is interrupted, so that it
// cancels what it does on the server.
func (p program) run(ctx context.Context, address pgURL, args ...string) error {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Env = address.environment()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		return &errProgram{strings.TrimSpace(printed.String())}
	}
	return err
}

// verifyArchive restores an archive into a temporary database and checks it there.
func verifyArchive(
	ctx context.Context, file, server string, log *slog.Logger,
) (r *Report, err error) {
	if server == "" {
		return nil, fmt.Errorf("%s is an archive of PostgreSQL: name a server to restore it into, "+
			"with PARLEY_DATABASE_URL or --into", file)
	}
	address, err := parsePGURL(server)
	if err != nil {
		return nil, err
	}
	program, err := findProgram(ctx, "pg_restore")
	if err != nil {
		return nil, err
	}
	admin, err := store.Open(ctx, server, store.Options{MaxConns: 1, Log: log})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, admin.Close()) }()
	if err := requireVersion(ctx, admin, program); err != nil {
		return nil, err
	}
	name := "parley_verify_" + strings.ToLower(rand.Text())[:12]
	if _, err := admin.ExecContext(ctx,
		"CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8'"); err != nil {
		return nil, fmt.Errorf("make a temporary database (the user needs the right CREATEDB): %w",
			err)
	}
	defer func() {
		// Also after an interrupt, and also if a connection is left.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if _, e := admin.ExecContext(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); e != nil {
			err = errors.Join(err, fmt.Errorf("drop the temporary database %s: %w", name, e))
		}
	}()
	err = program.run(ctx, address, "--no-owner", "--no-privileges", "--no-password",
		"--exit-on-error", "--dbname="+name, file)
	if failure, ok := errors.AsType[*errProgram](err); ok {
		r = &Report{}
		r.add(Finding{
			Kind: "pg_restore cannot restore the archive", Table: "the file", Problem: failure.text,
		})
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return openAndCheck(ctx, address.withDatabase(name), log, func(db *store.DB) error {
		if err := requirePostgresTables(ctx, db, file); err != nil {
			return err
		}
		// Without statistics, PostgreSQL plans joins of large tables badly.
		_, err := db.ExecContext(ctx, "ANALYZE")
		return err
	})
}
