package store_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"parley/store"
	"parley/store/storetest"
)

// A second Open in the same process leaves the locks of SQLite alone: closing any descriptor of a
// file would release them.
func TestOpenKeepsTheLocksOfSQLite(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	path, _ := store.SQLitePath(url)
	storetest.MustOpen(t, url)
	before := locksOn(t, path)
	storetest.MustOpen(t, url)
	if after := locksOn(t, path); before == 0 || after == 0 {
		t.Errorf("the file has %d locks, and after a second Open %d", before, after)
	}
}

// locksOn counts the locks of fcntl(2) on a file, of this process and others.
func locksOn(t *testing.T, path string) (n int) {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks") // see proc_locks(5)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(locks)) {
		inode := fmt.Sprintf(":%d ", stat.Ino)
		if strings.Contains(line, "POSIX") && strings.Contains(line, inode) {
			n++
		}
	}
	return n
}
