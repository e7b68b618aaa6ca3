package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTable checks that every mutant applies to the code as it is.
func TestTable(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if !listStale(&out, filepath.Join("..", ".."), table()) {
		t.Error(out.String())
	}
}

func TestStale(t *testing.T) {
	t.Parallel()
	tree := t.TempDir()
	for name, text := range map[string]string{
		"rule.go":      "package rule\n\nvar a, b = 1, 1\n",
		"rule_test.go": "package rule\n\nfunc TestRuleOfA(t *testing.T) {}\n",
	} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	applies := mutant{
		name: "applies", file: "rule.go", old: "var a", new: "var c", pkg: "./.",
		run: "TestRule",
	}
	for want, change := range map[string]func(m *mutant){
		"":                             func(*mutant) {},
		`occurs 0 times: "var z"`:      func(m *mutant) { m.old = "var z" },
		`occurs 2 times: "1"`:          func(m *mutant) { m.old = "1" },
		"no such file":                 func(m *mutant) { m.file = "other.go" },
		"./. has no test TestOther":    func(m *mutant) { m.run = "TestRule|TestOther" },
		"./other has no test TestRule": func(m *mutant) { m.pkg = "./other" },
	} {
		m := applies
		change(&m)
		if got := m.stale(tree); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
