package chat_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"parley/chat/chattest"
	"parley/migrations"
	"parley/store"
	"parley/store/storetest"
)

// Nobody finds in the file itself, either, what was deleted or edited away.
func TestNothingIsLeftInTheFile(t *testing.T) {
	t.Parallel()
	url := storetest.SQLiteURL(t)
	path := strings.TrimPrefix(url, "sqlite:")
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = db.Close()
		}
	}()
	if _, err := migrations.Up(t.Context(), db.DB); err != nil {
		t.Fatal(err)
	}
	w := mustFixture(t, db, "ann", "ben")
	c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
	long := strings.Repeat("quokkalong ", 360)
	for range 20 {
		short, large := w.Send("ben", c.ID, "quokkaword @ann"), w.Send("ben", c.ID, long)
		w.Send("ann", c.ID, "stays")
		w.delete("ben", w.Edit("ben", short, "quokkaedited"))
		w.delete("ben", large)
	}
	w.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	closed = true
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			if suffix == "" {
				t.Fatal(err)
			}
			continue
		}
		for _, needle := range []string{"quokkaword", "quokkalong", "quokkaedited", "quokka"} {
			if n := bytes.Count(data, []byte(needle)); n > 0 {
				t.Errorf("%q stands %d times in the file%s", needle, n, suffix)
			}
		}
	}
}
