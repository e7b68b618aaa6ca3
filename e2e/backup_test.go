package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/internal/process"
	"parley/store"
)

// runCommand runs a command of the program against a database, and returns its output and exit
// code.
func runCommand(t *testing.T, databaseURL string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv(binaryEnv), args...)
	cmd.Env = process.Environment("GORACE=atexit_sleep_ms=0", "PARLEY_DATABASE_URL="+databaseURL)
	output, err := cmd.CombinedOutput()
	if _, failed := err.(*exec.ExitError); err != nil && !failed { //nolint:errorlint // not wrapped
		t.Fatal(err)
	}
	return string(output), cmd.ProcessState.ExitCode()
}

func mustParley(t *testing.T, databaseURL string, args ...string) (out string) {
	t.Helper()
	out, code := runCommand(t, databaseURL, args...)
	if code != 0 {
		t.Fatalf("parley %s ended with %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// A backup that is made while the server serves is sound, also after the server was killed.
func TestBackup(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		s := mustServe(t, on(url))
		ada, grace := s.register("ada"), s.register("grace")
		conversation := ada.converse(grace)
		before := []message{ada.send(conversation, "before the backup")}
		file := filepath.Join(t.TempDir(), "backup")
		out := mustParley(t, url, "backup", file)
		if !strings.Contains(out, "2 accounts, 1 conversations, 1 messages") {
			t.Errorf("printed:\n%s", out)
		}
		if out, code := runCommand(t, url, "backup", file); code != 1 ||
			!strings.Contains(out, "exists already") {
			t.Errorf("a second one ended with %d:\n%s", code, out)
		}
		out = mustParley(t, url, "backup", "verify", file)
		if !strings.HasSuffix(out, file+" is sound.\n") {
			t.Errorf("printed:\n%s", out)
		}
		ada.send(conversation, "after the backup")
		path, ok := store.SQLitePath(url)
		if !ok {
			out = mustParley(t, url, "restore", file)
			if !strings.Contains(out, "pg_restore --no-owner") {
				t.Errorf("printed:\n%s", out)
			}
			return
		}
		out, code := runCommand(t, url, "restore", file)
		if code != 1 || !strings.Contains(out, "stop the server first") {
			t.Errorf("over a running server, restore ended with %d:\n%s", code, out)
		}
		s.kill()
		out = mustParley(t, url, "restore", file)
		if !strings.Contains(out, path+" is restored from "+file) {
			t.Errorf("printed:\n%s", out)
		}
		s.start()
		if diff := cmp.Diff(before, grace.listed(conversation)); diff != "" {
			t.Errorf("after the restore (-before the backup +listed):\n%s", diff)
		}
		ada.send(conversation, "after the restore")
		s.stop()
		kept, _ := filepath.Glob(path + ".before-restore-*")
		if len(kept) != 1 {
			t.Fatalf("kept: %v", kept)
		}
		out = mustParley(t, url, "backup", "verify", kept[0])
		if !strings.Contains(out, "2 messages") {
			t.Errorf("printed:\n%s", out)
		}
	})
}
