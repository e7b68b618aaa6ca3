package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"parley/store"
)

// Restored is what Restore has done.
type Restored struct {
	Report *Report
	// Kept is where the database is that was there before; "" if there was none.
	Kept string
}

// ErrServed means that a server, or another program, has the database open.
var ErrServed = errors.New("the database is open: stop the server first, and every other program " +
	"that uses the file")

// Restore puts a backup in the place of the database of a SQLite URL. The backup is copied, brought
// up to date and checked first, so that what is put in place is what was checked. If the report is
// not sound, Restore changes nothing, and returns the report and no error.
//
// The database that was there is kept under another name. The file is replaced in one step: after a
// crash either the one or the other is there, complete.
func Restore(
	ctx context.Context, file, databaseURL string, now time.Time, log *slog.Logger,
) (done Restored, err error) {
	path, ok := store.SQLitePath(databaseURL)
	if !ok {
		return done, errors.New("only a SQLite database is restored by this command")
	}
	format, err := FormatOf(file)
	if err != nil {
		return done, err
	}
	if format != SQLite {
		return done, fmt.Errorf("%s is an archive of PostgreSQL, and the database is SQLite", file)
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return done, err
	}
	// Held until the end, so that no server starts in between.
	lock, err := store.LockSQLite(path, true)
	if errors.Is(err, store.ErrLocked) {
		return done, ErrServed
	}
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()

	place := fmt.Sprintf("%s.restoring-%d", path, os.Getpid())
	defer func() { err = errors.Join(err, removeSQLite(place), removeLock(place)) }()
	if err := copyFile(ctx, file, place); err != nil {
		return done, fmt.Errorf("copy %s: %w", file, err)
	}
	done.Report, err = checkFile(ctx, place, file, log)
	if err != nil || !done.Report.Sound() {
		return done, err
	}
	if err := closeWAL(ctx, place); err != nil {
		return done, err
	}
	if _, err := syncFile(place); err != nil {
		return done, err
	}
	if done.Kept, err = keep(ctx, path, now); err != nil {
		return done, err
	}
	if err := os.Rename(place, path); err != nil {
		return done, err
	}
	return done, syncDir(filepath.Dir(path))
}

func removeLock(place string) error {
	if err := os.Remove(place + ".lock"); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// keep gives the current database a second name, and leaves a file that can be replaced in one
// step: without a -wal file, which SQLite would apply to whatever file has the name. It returns ""
// if there is no database.
func keep(ctx context.Context, path string, now time.Time) (kept string, err error) {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		// A -wal file without its database is of no use, and would be applied to the new one.
		return "", removeSQLite(path)
	}
	kept = path + ".before-restore-" + now.UTC().Format("20060102T150405Z")
	if _, err := os.Lstat(kept); err == nil {
		return "", fmt.Errorf("%s exists already", kept)
	}
	// SQLite removes the -wal file also of a database that it cannot read.
	if err := secondName(ctx, path+"-wal", kept+"-wal"); err != nil && !errors.Is(err,
		os.ErrNotExist) {
		return "", err
	}
	err = closeWAL(ctx, path)
	damaged := err != nil && !isBusy(err) && ctx.Err() == nil // perhaps why it is replaced
	if !damaged {
		// What was in the -wal file is in the database now, or nothing has changed.
		if e := os.Remove(kept + "-wal"); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	switch {
	case isBusy(err):
		return "", ErrServed
	case err != nil && !damaged:
		return "", err
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	if err := secondName(ctx, path, kept); err != nil {
		return "", fmt.Errorf("keep the current database: %w", err)
	}
	return kept, syncDir(filepath.Dir(path))
}

// secondName gives a file another name, or copies it on file systems without hard links.
func secondName(ctx context.Context, from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return err
	}
	return copyFile(ctx, from, to)
}

// closeWAL writes what is in the -wal file of a database into the database, and removes the file.
// SQLite refuses if another connection is open, of any program.
func closeWAL(ctx context.Context, path string) (err error) {
	db, err := openFile(path, "busy_timeout(0)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode = DELETE").Scan(&mode); err != nil {
		return err
	}
	if mode != "delete" {
		return fmt.Errorf("SQLite keeps the journal mode %s of %s", mode, path)
	}
	return nil
}
