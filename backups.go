package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"parley/backup"
	"parley/config"
	"parley/store"
)

// The commands that copy the database, check the copies, and put them back.

type backupCommand struct {
	Create createBackupCommand `cmd:"" default:"withargs" help:"Write a backup to a new file. This is the default."`
	Verify verifyBackupCommand `cmd:"" help:"Restore a backup into a place of its own, and check it."`
}

type createBackupCommand struct {
	File string `arg:"" help:"File to write. An existing one is never replaced." type:"path"`
}

func (createBackupCommand) Help() string {
	return "The backup is the database at one moment, complete and consistent; servers may write " +
		"meanwhile. A backup of PostgreSQL is made by pg_dump in its custom format."
}

func (c createBackupCommand) Run(ctx context.Context, s *config.Settings, out io.Writer) error {
	created, err := backup.Create(ctx, s.DatabaseURL, c.File)
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	_, err = fmt.Fprintf(out, "%s: %s; %s.\n", c.File, size(created.Bytes), created.Figures)
	return err
}

// size writes a number of bytes in a unit that fits.
func size(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d bytes", n)
	case n < 10_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	}
	return fmt.Sprintf("%d MB", n/1_000_000)
}

type verifyBackupCommand struct {
	File string `arg:"" help:"The backup." type:"path"`
	Into string `env:"-" help:"PostgreSQL server to restore an archive of pg_dump into, as the URL of any database there whose user may create others. Default: the server of the database." placeholder:"URL"`
}

func (verifyBackupCommand) Help() string {
	return "Restores a SQLite file into a temporary folder (TMPDIR), or an archive of PostgreSQL " +
		"into a temporary database parley_verify_…, and checks it there: the file itself, and " +
		"that no event, message or member is missing or contradicts another. The exit code is 1 " +
		"if anything is wrong. Nothing is changed, and what is temporary is removed."
}

func (c verifyBackupCommand) Run(
	ctx context.Context, s *config.Settings, log *slog.Logger, out io.Writer,
) error {
	server := c.Into
	if server == "" && s.Postgres() {
		server = s.DatabaseURL
	}
	report, err := backup.Verify(ctx, c.File, server, log)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	report.Print(out)
	if err := report.Err(c.File); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s is sound.\n", c.File)
	return err
}

type restoreCommand struct {
	File string `arg:"" help:"The backup." type:"path"`
}

func (restoreCommand) Help() string {
	return "Checks the backup as backup verify does, keeps the current database under another " +
		"name, and puts the backup in its place. For PostgreSQL it prints what to run instead."
}

func (c restoreCommand) Run(
	ctx context.Context, s *config.Settings, log *slog.Logger, out io.Writer,
) error {
	format, err := backup.FormatOf(c.File)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if format == backup.Archive {
		return c.explain(s, out)
	}
	if s.Postgres() {
		return fmt.Errorf("restore: %s is a backup of SQLite, and the database is PostgreSQL",
			c.File)
	}
	done, err := backup.Restore(ctx, c.File, s.DatabaseURL, time.Now(), log)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	done.Report.Print(out)
	if err := done.Report.Err(c.File); err != nil {
		return errors.Join(err, errors.New("nothing was restored"))
	}
	path, _ := store.SQLitePath(s.DatabaseURL)
	fmt.Fprintf(out, "%s is restored from %s.\n", path, c.File)
	if done.Kept != "" {
		fmt.Fprintf(out, "The database that was there is %s.\n", done.Kept)
	}
	return finishRestore(out)
}

// explain prints how to restore an archive of PostgreSQL.
func (c restoreCommand) explain(s *config.Settings, out io.Writer) error {
	if !s.Postgres() {
		return fmt.Errorf(
			"restore: %s is an archive of PostgreSQL, and the database is SQLite: set "+
				"PARLEY_DATABASE_URL", c.File)
	}
	_, err := fmt.Fprintf(out, `%[1]s is an archive of PostgreSQL, which pg_restore restores:

  1. Check it:           parley backup verify %[1]s
  2. Stop every node.
  3. Keep the database:  psql -d postgres -c 'ALTER DATABASE parley RENAME TO parley_before_restore'
  4. Make a new one:     createdb -O parley parley
  5. Restore:            pg_restore --no-owner --exit-on-error --single-transaction -d parley %[1]s
  6. Run:                parley restored
  7. Start the nodes.

parley is the name of the database and of its owner here. See docs/backup.md.
`, c.File)
	return err
}
