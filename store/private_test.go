package store_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"parley/store"
)

func TestOnlyTheOwnerReadsTheFile(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, dir string){
		"a new folder": func(*testing.T, string) {},
		"an existing folder": func(t *testing.T, dir string) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"existing files": func(t *testing.T, dir string) {
			db := mustOpen(t, dir, slog.New(slog.DiscardHandler))
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(dir, "parley.db"),
				0o644); err != nil { //nolint:gosec // the point
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "parley.db-wal"), nil,
				0o644); err != nil { //nolint:gosec // the point
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			prepare(t, dir)
			var log bytes.Buffer
			db := mustOpen(t, dir, slog.New(slog.NewTextHandler(&log, nil)))
			if _, err := db.ExecContext(t.Context(),
				"CREATE TABLE written (n INTEGER)"); err != nil {
				t.Fatal(err)
			}
			files, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) < 3 { // the database, -wal and -shm
				t.Errorf("there are %v", files)
			}
			for _, file := range files {
				info, err := file.Info()
				if err != nil {
					t.Fatal(err)
				}
				if mode := info.Mode().Perm(); mode != 0o600 {
					t.Errorf("%s has the mode %o", file.Name(), mode)
				}
			}
			if said := strings.Contains(log.String(),
				"its mode is 0600 now"); said != (name == "existing files") {
				t.Errorf("the log says %q", log.String())
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func mustOpen(t *testing.T, dir string, log *slog.Logger) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "parley.db"),
		store.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return db
}
