package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"parley/store"
	"parley/store/storetest"
)

// A SQLite file that is open cannot be locked by whoever replaces it, nor opened while it is
// replaced.
func TestLockSQLite(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	path, _ := store.SQLitePath(url)
	open := func() *store.DB {
		t.Helper()
		db, err := store.Open(t.Context(), url, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	one, other := open(), open()
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, db := range []*store.DB{one, other} {
		for _, name := range []string{path, link} {
			if _, err := store.LockSQLite(name, true); !errors.Is(err, store.ErrLocked) {
				t.Errorf("%s is open and was locked: %v", name, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := store.LockSQLite(link, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(t.Context(), url, store.Options{})
	if err == nil || !strings.Contains(err.Error(), "is being replaced by parley restore") {
		t.Errorf("opened while it is replaced: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := open().Close(); err != nil {
		t.Error(err)
	}
}
