package migrations_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFilesDoNotChange compares the files with checksums.txt. The format is that of sha256sum: in
// this folder, `sha256sum *.sql > checksums.txt` adds a new migration, and `sha256sum --check
// checksums.txt` does what this test does.
func TestFilesDoNotChange(t *testing.T) {
	t.Parallel()
	recorded, err := os.ReadFile("checksums.txt")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.sql")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&want, "%x  %s\n", sha256.Sum256(text), name)
	}
	if diff := cmp.Diff(string(recorded), want.String()); diff != "" {
		t.Errorf("checksums.txt does not have these files. A migration on the main branch never "+
			"changes: add another. For a new one, run in migrations/: sha256sum *.sql > "+
			"checksums.txt (-checksums.txt +files):\n%s", diff)
	}
}

// removes finds statements that versions before may not survive.
var removes = regexp.MustCompile(`(?im)\b(DROP\s+(TABLE|COLUMN|VIEW|TRIGGER|FUNCTION|TYPE)|RENAME|` +
	`ALTER\s+COLUMN|SET\s+NOT\s+NULL|TRUNCATE|ADD\s+CONSTRAINT)\b`)

// addsRequired finds columns that INSERT statements of versions before do not fill.
var addsRequired = regexp.MustCompile(`(?i)ADD\s+COLUMN[^;]*`)

// oldestChecked is the last migration of before the rule that migrations only add.
const oldestChecked = "20261130000002"

// TestMigrationsOnlyAdd looks for statements that would break running nodes of the version before.
func TestMigrationsOnlyAdd(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.up.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if name[:len(oldestChecked)] <= oldestChecked {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if problem := breaks(string(text)); problem != "" {
			t.Errorf("%s has %q, which nodes of the version before may not survive. Remove in a "+
				"later release than the one that stops to use it, and name the migration that a "+
				"version has to know: -- requires: NUMBER", name, problem)
		}
	}
}

// breaks returns the statement in a migration that needs a line with "requires", and lacks it.
func breaks(text string) string {
	if regexp.MustCompile(`(?m)^-- requires: \d+$`).MatchString(text) {
		return ""
	}
	text = regexp.MustCompile(`(?m)--.*$`).ReplaceAllString(text, "")
	if found := removes.FindString(text); found != "" {
		return found
	}
	for _, added := range addsRequired.FindAllString(text, -1) {
		upper := strings.ToUpper(added)
		if strings.Contains(upper, "NOT NULL") && !strings.Contains(upper, "DEFAULT") {
			return strings.TrimSpace(added)
		}
	}
	return ""
}

func TestBreaks(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"CREATE TABLE pins (id bigint NOT NULL);":                    "",
		"ALTER TABLE users ADD COLUMN a text;":                       "",
		"ALTER TABLE users ADD COLUMN a bigint NOT NULL DEFAULT 0;":  "",
		"-- DROP TABLE users\nSELECT 1;":                             "",
		"-- requires: 20261130000005\nDROP TABLE users;":             "",
		"drop  table users;":                                         "drop  table",
		"ALTER TABLE users DROP COLUMN a;":                           "DROP COLUMN",
		"ALTER TABLE users RENAME TO people;":                        "RENAME",
		"ALTER TABLE users ALTER COLUMN a TYPE text;":                "ALTER COLUMN",
		"ALTER TABLE users ADD COLUMN a text NOT NULL;\nSELECT 1;\n": "ADD COLUMN a text NOT NULL",
	} {
		if got := breaks(text); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
