package auth

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// wantPrivate checks the permissions of a file.
func wantPrivate(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != mode {
		t.Errorf("%s has the mode %o, want %o", filepath.Base(path), got, mode)
	}
}

func TestLoadOrMakeSecret(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data", "deep", "signing.key")
	key, err := LoadOrMakeSecret(path)
	if err != nil || len(key) != MinKeyLen {
		t.Fatalf("%d bytes (%v)", len(key), err)
	}
	wantPrivate(t, path, 0o600)
	wantPrivate(t, filepath.Dir(path), 0o700)
	again, err := LoadOrMakeSecret(path)
	if err != nil || !bytes.Equal(again, key) {
		t.Errorf("another key the second time (%v)", err)
	}
	other, err := LoadOrMakeSecret(filepath.Join(t.TempDir(), "signing.key"))
	if err != nil || bytes.Equal(other, key) {
		t.Errorf("two servers have the same key (%v)", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v (%v), want only the key", entries, err)
	}
}

// A key that an operator brought may be longer, and may be any bytes.
func TestLoadOrMakeSecretTakesAnOperatorsKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "signing.key")
	want := []byte(strings.Repeat("\x00 key\n", 20))
	if err := os.WriteFile(path, want, 0o400); err != nil {
		t.Fatal(err)
	}
	if key, err := LoadOrMakeSecret(path); err != nil || !bytes.Equal(key, want) {
		t.Errorf("got %q (%v)", key, err)
	}
}

func TestLoadOrMakeSecretRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, size := range map[string]int{"empty": 0, "short": MinKeyLen - 1} {
		path := filepath.Join(dir, name)
		content := bytes.Repeat([]byte("s"), size)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if key, err := LoadOrMakeSecret(path); err == nil || key != nil ||
			strings.Contains(err.Error(), "sss") {
			t.Errorf("%s: got %q (%v)", name, key, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
			t.Errorf("%s: the file has changed, which would sign all users out (%v)", name, err)
		}
	}
	for name, path := range map[string]string{
		"a folder":     dir,
		"below a file": filepath.Join(dir, "short", "signing.key"),
	} {
		if key, err := LoadOrMakeSecret(path); err == nil || key != nil {
			t.Errorf("%s: got a key of %d bytes", name, len(key))
		}
	}
}

// The permissions of a file that a crash, a backup or a copy has left behind are corrected.
func TestLoadOrMakeSecretKeepsItPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, leftover := range map[string]string{"copied": "", "half written": ".new"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+leftover, bytes.Repeat([]byte("s"), MinKeyLen),
			0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path+leftover, 0o644); err != nil { // independent of the umask
			t.Fatal(err)
		}
		if _, err := LoadOrMakeSecret(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantPrivate(t, path, 0o600)
	}
}

// Processes that start at the same time must end up with one key: otherwise each would refuse the
// tokens of the others.
func TestLoadOrMakeSecretRaces(t *testing.T) {
	t.Parallel()
	for round := range 50 { // one round may miss the race
		path := filepath.Join(t.TempDir(), "signing.key")
		keys, problems := make([][]byte, 4), make([]error, 4)
		concurrently(len(keys), func(i int) { keys[i], problems[i] = LoadOrMakeSecret(path) })
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, key := range keys {
			if problems[i] != nil {
				t.Fatalf("round %d: %v", round, problems[i])
			}
			if !bytes.Equal(key, stored) {
				t.Fatalf("round %d: a process has a key that is not the stored one", round)
			}
		}
	}
}
