package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SQLitePath returns the file of a SQLite URL, and false for the URL of another database.
func SQLitePath(databaseURL string) (path string, ok bool) {
	path, ok = strings.CutPrefix(databaseURL, "sqlite:")
	return strings.TrimPrefix(path, "//"), ok
}

// ErrLocked means that a SQLite file is in use: it is open, or it is being replaced.
var ErrLocked = errors.New("the SQLite file is in use")

// FileLock is a lock on a SQLite file. It is held on a file next to it, PATH.lock, which stays. The
// kernel releases it when the process ends, however it ends.
type FileLock struct{ file *os.File }

// LockSQLite locks a SQLite file without waiting. Each process that opens the file holds a shared
// lock; a process that replaces the file holds an exclusive one. ErrLocked if another lock excludes
// it. The folder has to exist.
func LockSQLite(path string, exclusive bool) (*FileLock, error) {
	// Names that lead to the same file share its lock.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	file, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the lock file: %w", err)
	}
	if err := flock(file, exclusive); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &FileLock{file}, nil
}

// Unlock releases the lock.
func (l *FileLock) Unlock() error { return l.file.Close() }
