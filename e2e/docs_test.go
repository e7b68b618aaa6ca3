package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocs checks that docs/accounts.md shows the same files that the tests of the libraries run.
func TestDocs(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join("..", "docs", "accounts.md"))
	if err != nil {
		t.Fatal(err)
	}
	// A heading names the file, and its block follows.
	blocks := regexp.MustCompile("(?s)\n### `([a-z]+\\.js)`\n(.*?)```js\n(.*?)```\n").
		FindAllSubmatch(doc, -1)
	shown := map[string]bool{}
	for _, block := range blocks {
		name := string(block[1])
		shown[name] = true
		file, err := os.ReadFile(filepath.Join("clients", name))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(string(file), string(block[3])); diff != "" {
			t.Errorf("docs/accounts.md shows another %s (-file +doc):\n%s", name, diff)
		}
	}
	for _, name := range []string{
		"session.js", "apollo.js", "urql.js", "graphqlws.js", "conversation.js", "store.js",
	} {
		if !shown[name] {
			t.Errorf("docs/accounts.md does not show %s", name)
		}
	}
	if all := regexp.MustCompile("(?m)^```js$").FindAll(doc, -1); len(all) != len(blocks) {
		t.Errorf("of %d blocks of JavaScript in docs/accounts.md, %d are files that the tests run",
			len(all), len(blocks))
	}
}
