// Package backup makes copies of the database, checks them, and puts them back.
//
// A backup of SQLite is one file, a database without a -wal file. A backup of PostgreSQL is an
// archive of pg_dump in its custom format. Create makes both while servers write. Verify restores a
// backup into a place of its own and checks it with Check, which any open database can be checked
// with. Restore replaces a SQLite file.
//
// # Concurrency
//
// No function starts a goroutine that outlives it. Each returns soon after its context ends, and
// removes the temporary files and databases that it has made.
package backup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/uptrace/bun"

	"parley/store"
)

// Figures describe the data of a database.
type Figures struct {
	Accounts      int64 // those that are being removed included
	Conversations int64 // those that are being deleted included
	Messages      int64 // deleted ones included, which keep their place
	Events        int64
	Newest        time.Time // of the newest event, in UTC; zero if there is none
}

func (f Figures) String() string {
	newest := "there is no event"
	if !f.Newest.IsZero() {
		newest = "the newest event is from " + f.Newest.Format("2006-01-02 15:04:05") + " UTC"
	}
	return fmt.Sprintf("%d accounts, %d conversations, %d messages, %d events; %s",
		f.Accounts, f.Conversations, f.Messages, f.Events, newest)
}

func readFigures(ctx context.Context, db bun.IDB) (f Figures, err error) {
	var newest bun.NullTime
	err = db.NewSelect().
		ColumnExpr("(SELECT count(*) FROM users)").
		ColumnExpr("(SELECT count(*) FROM conversations)").
		ColumnExpr("(SELECT count(*) FROM messages)").
		ColumnExpr("(SELECT count(*) FROM events)").
		ColumnExpr("(SELECT max(at) FROM events)").
		Scan(ctx, &f.Accounts, &f.Conversations, &f.Messages, &f.Events, &newest)
	f.Newest = newest.UTC()
	return f, err
}

// Created is a backup that was made.
type Created struct {
	Figures
	Bytes int64
}

// Create makes a backup of the database in a new file, with mode 0600. Servers may write meanwhile:
// the backup has everything that was committed before Create was called, and is the database at one
// moment. The file appears under its name when it is complete and flushed to disk. An existing file
// is never replaced.
func Create(ctx context.Context, databaseURL, file string) (c Created, err error) {
	if _, err := os.Lstat(file); err == nil {
		return c, fmt.Errorf("%s exists already: a backup never replaces a file", file)
	} else if !errors.Is(err, os.ErrNotExist) {
		return c, err
	}
	partial, err := newPartial(file)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, removeSQLite(partial)) }()
	if path, ok := store.SQLitePath(databaseURL); ok {
		c.Figures, err = copySQLite(ctx, path, partial)
	} else {
		c.Figures, err = dump(ctx, databaseURL, partial)
	}
	if err != nil {
		return c, err
	}
	if c.Bytes, err = syncFile(partial); err != nil {
		return c, err
	}
	return c, moveNew(partial, file)
}

// newPartial makes an empty file next to the one that it will become.
func newPartial(file string) (string, error) {
	dir, name := filepath.Split(file)
	partial, err := os.CreateTemp(cmp.Or(dir, "."), name+".partial-*") // with mode 0600
	if err != nil {
		return "", err
	}
	return partial.Name(), partial.Close()
}

// moveNew gives a file its name, unless another file has the name.
func moveNew(from, to string) error {
	err := os.Link(from, to)
	switch {
	case errors.Is(err, os.ErrExist):
		return fmt.Errorf("%s has appeared meanwhile: a backup never replaces a file", to)
	case err != nil: // a file system without hard links
		if _, errStat := os.Lstat(to); errStat == nil {
			return fmt.Errorf("%s has appeared meanwhile: a backup never replaces a file", to)
		}
		if err := os.Rename(from, to); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(to))
}

// removeSQLite removes a file, and those that SQLite may have made next to it.
func removeSQLite(path string) (err error) {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if e := os.Remove(path + suffix); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// syncFile flushes a file to disk, and returns its size.
func syncFile(path string) (size int64, err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), file.Sync()
}

// copyFile copies a file into a new one with mode 0600, and flushes it to disk.
func copyFile(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for {
		// In parts, so that the end of ctx is noticed.
		n, err := io.CopyN(out, in, 64<<20)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			return out.Sync()
		}
		if err != nil {
			return err
		}
	}
}

// Format is what a backup was made of.
type Format int

const (
	// SQLite is a database file.
	SQLite Format = iota + 1
	// Archive is what pg_dump writes in its custom format.
	Archive
)

// FormatOf reads the format of a backup from the beginning of the file. The error says what the
// file is instead.
func FormatOf(file string) (Format, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return 0, fmt.Errorf("%s is a folder, not a backup", file)
	}
	header := make([]byte, 100)
	n, err := io.ReadFull(f, header)
	header = header[:n]
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, err
	}
	switch {
	case n == 0:
		return 0, fmt.Errorf("%s is empty, so it is not a backup", file)
	case bytes.HasPrefix(header, []byte("PGDMP")):
		return Archive, nil
	case !bytes.HasPrefix(header, []byte("SQLite format 3\x00")):
		return 0, fmt.Errorf("%s is neither a SQLite file nor an archive of pg_dump in its custom "+
			"format", file)
	case n < len(header):
		return 0, fmt.Errorf("%s is cut off: it ends within its header", file)
	case header[18] == walVersion || header[19] == walVersion:
		return 0, liveCopyError(file)
	}
	return SQLite, nil
}

// walVersion is in the header of a SQLite file that is used with a -wal file. See "File format
// version numbers" in https://www.sqlite.org/fileformat2.html.
const walVersion = 2

// liveCopyError is the error for the copy of a file that was in use. Nothing shows whether the copy
// is complete: what was in the -wal file is missing, and a copy made during a checkpoint is torn.
func liveCopyError(file string) error {
	return fmt.Errorf("%s is a copy of a database file, not a backup: what the server had written "+
		"to its -wal file may be missing. Make backups with parley backup. If this copy is all "+
		"that there is, put the -wal file that belongs to it next to it, and make a backup of "+
		"both with PARLEY_DATABASE_URL=sqlite:%s parley backup FILE", file, file)
}
