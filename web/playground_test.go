package web_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/rules"

	"parley/web"
)

func TestPlaygroundPage(t *testing.T) {
	checkPage(t, web.Playground(`/graphql?a="b`), "/", "no-cache",
		`id="access-token" data-testid="access-token"`,
		`id="signed-in" data-testid="signed-in"`,
		`<label for="access-token">`,
	)
}

// The token must not outlive its tab, so the script must not use storage that does.
func TestNothingInLocalStorage(t *testing.T) {
	script, err := os.ReadFile("playground.js")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(script)) {
		code, _, _ := strings.Cut(line, "//")
		if strings.Contains(code, "localStorage") || strings.Contains(code, ".cookie") {
			t.Errorf("playground.js: %s", line)
		}
	}
}

// The lock file must not contain the address of a registry, which depends on where npm runs.
func TestLockfileNamesNoRegistry(t *testing.T) {
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), `"resolved"`) {
		t.Error(
			"package-lock.json says where each package came from: use npm's " +
				"omit-lockfile-registry-resolved")
	}
}

func TestOperations(t *testing.T) {
	schema := loadSchema(t)
	h := web.Playground("/graphql")
	var tabs []struct{ Query, Variables string }
	for _, path := range linked(t, h, "/") {
		if filepath.Base(path) == "operations.json" {
			if err := json.Unmarshal([]byte(body(t, get(t, h, path))), &tabs); err != nil {
				t.Fatal(err)
			}
		}
	}

	var names []string
	for _, tab := range tabs {
		doc, errs := gqlparser.LoadQueryWithRules(schema, tab.Query, rules.NewDefaultRules())
		if errs != nil {
			t.Errorf("%v\n%s", errs, tab.Query)
			continue
		}
		// With two operations in a tab, the button would ask which one to run.
		if len(doc.Operations) != 1 {
			t.Errorf("%d operations in one tab", len(doc.Operations))
			continue
		}
		op := doc.Operations[0]
		names = append(names, op.Name)
		if !strings.HasPrefix(tab.Query, "# ") {
			t.Errorf("%s does not say what to do", op.Name)
		}
		var variables map[string]any
		if err := json.Unmarshal([]byte(tab.Variables), &variables); err != nil {
			t.Errorf("%s: variables: %v", op.Name, err)
		}
		if _, err := validator.VariableValues(schema, op, variables); err != nil {
			t.Errorf("%s: variables: %v", op.Name, err)
		}
		for name := range variables {
			if op.VariableDefinitions.ForName(name) == nil {
				t.Errorf("%s: variable %s is not used", op.Name, name)
			}
		}
	}
	want := "Register SignIn FindPeople CreateConversation Conversations SendMessage MessageAdded"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("tabs %s, want %s", got, want)
	}
}
