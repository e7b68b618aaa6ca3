package graph_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"parley/document"
	"parley/graph"
	"parley/web"
	"parley/wire"
)

func TestReadDocuments(t *testing.T) {
	t.Parallel()
	const good, bad = "{ viewer { email } }", "{ nonsense }"
	for name, c := range map[string]struct{ manifest, problem string }{
		"good": {`{"` + wire.Hash(good) + `": "` + good + `"}`, ""},
		"good, with prefix": {`{"sha256:` + strings.ToUpper(wire.Hash(good)) +
			`": "` + good + `"}`, ""},
		"empty": {`{}`, ""},
		"Apollo's": {`{"format": "apollo-persisted-query-manifest", "version": 1, ` +
			`"operations": [{"id": "` + wire.Hash(good) +
			`", "name": "", "type": "query", "body": "` + good + `"}]}`, ""},
		"Apollo's, with ids of another kind": {
			`{"format": "apollo-persisted-query-manifest", "operations": [{"id": "1", "body": "` +
				good + `"}]}`, "has the hash " + wire.Hash(good),
		},
		"another's format": {
			`{"format": "x", "operations": []}`,
			"not a JSON object",
		},
		"another's hash": {
			`{"` + wire.Hash(bad) + `": "` + good + `"}`,
			"has the hash " + wire.Hash(good),
		},
		"not of the schema": {`{"` + wire.Hash(bad) + `": "` + bad + `"}`, "nonsense"},
		"a list":            {`["` + good + `"]`, "not a JSON object"},
		"null":              {`null`, "not a JSON object"},
		"not JSON":          {`{`, "not a JSON object"},
	} {
		file := filepath.Join(t.TempDir(), "documents.json")
		if err := os.WriteFile(file, []byte(c.manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		documents, err := graph.ReadDocuments(file, document.Limits{}, true)
		if c.problem == "" && (err != nil || documents == nil) || c.problem != "" &&
			(err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%s: %q %v", name, documents, err)
		}
	}
	if _, err := graph.ReadDocuments(filepath.Join(t.TempDir(), "nowhere"), document.Limits{},
		true); err == nil {
		t.Error("a file that is not there was read")
	}
}

// The pages that mailed links lead to work with any set of trusted documents, so their own
// documents have to be valid for the schema.
func TestDocumentsOfAccountPages(t *testing.T) {
	t.Parallel()
	documents := web.AccountDocuments()
	if len(documents) != 2 {
		t.Fatalf("got %q", documents)
	}
	manifest := map[string]string{}
	for _, d := range documents {
		manifest[wire.Hash(d)] = d
	}
	file := filepath.Join(t.TempDir(), "documents.json")
	if err := os.WriteFile(file, mustJSON(t, manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := graph.ReadDocuments(file, document.Limits{}, true); err != nil {
		t.Error(err)
	}
}
