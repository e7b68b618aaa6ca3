package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"parley/wire"
)

// hashing is a client library that sends documents by their hash.
type hashing struct {
	*script
	documents map[string]bool // hashed so far
}

func (p *person) hashing(library string, trusted bool) *hashing {
	p.t.Helper()
	return &hashing{mustRun(p.t, "persisted.js", map[string]any{
		"api": p.api, "accessToken": p.tokens.AccessToken, "client": library, "trusted": trusted,
	}), map[string]bool{}}
}

// ask runs an operation, and returns its answer with the requests that it took.
func (h *hashing) ask(query string, vars variables) (a answer, requests []string) {
	h.t.Helper()
	h.instruct(map[string]any{"query": query, "variables": vars})
	for {
		var e struct {
			Type, Text string
			Result     answer
			Requests   []string
		}
		if h.next(&e); e.Type == "done" {
			return e.Result, e.Requests
		}
		h.documents[e.Text] = true
	}
}

// wants runs an operation, and checks its data and its requests.
func (h *hashing) wants(want, query string, vars variables, requests ...string) {
	h.t.Helper()
	a, took := h.ask(query, vars)
	if a.Errors != nil || !slices.Equal(took, requests) {
		h.t.Errorf("%s\nanswer: %+v by %q, want %q", query, a.Errors, took, requests)
		return
	}
	wantJSON(h.t, query, want, a.Data)
}

const (
	profileQuery = `query Profile($short: Boolean!) { viewer { email settings: user { nickname @skip(if: $short) } } }`
	draftMessage = `mutation Draft($id: ID!, $text: String!) { saveDraft(input: {conversationId: $id, content: $text}) { userErrors { code } } }`
)

// TestPersistedQueries checks that a document is sent once, and then only its hash, by all clients,
// until the server stops. Mutations are never sent as GET.
func TestPersistedQueries(t *testing.T) {
	t.Parallel()
	for library, typename := range map[string]string{apollo: `"__typename": "Viewer", `, urql: ""} {
		t.Run(library, func(t *testing.T) {
			t.Parallel()
			srv := mustServe(t)
			ada, grace := srv.register("ada"), srv.register("grace")
			conversation := ada.converse(grace)
			profile := `{"viewer": {` + typename +
				`"email": "ada@example.org", "settings": {"nickname": "ada"}}}`
			short := `{"viewer": {` + typename + `"email": "ada@example.org", "settings": {}}}`
			saved := `{"saveDraft": {"userErrors": []}}`
			if library == apollo {
				profile = strings.Replace(profile, `{"nick`, `{"__typename": "User", "nick`, 1)
				short = strings.Replace(short, `{}`, `{"__typename": "User"}`, 1)
				saved = `{"saveDraft": {"__typename": "SaveDraftPayload", "userErrors": []}}`
			}
			all, only, draft := variables{"short": false}, variables{"short": true},
				variables{"id": conversation, "text": "hello"}

			whole := "POST hash and query: 200"
			if library == urql { // as long as the URL is short
				whole = "GET hash and query: 200"
			}
			first := ada.hashing(library, false)
			first.wants(profile, profileQuery, all, "GET hash: 400", whole)
			first.wants(short, profileQuery, only, "GET hash: 200")
			first.wants(saved, draftMessage, draft, "POST hash: 400", "POST hash and query: 200")
			first.wants(saved, draftMessage, draft, "POST hash: 200")
			ada.hashing(library, false).wants(profile, profileQuery, all, "GET hash: 200")

			srv.stop()
			srv.start()
			ada.hashing(library, false).wants(profile, profileQuery, all, "GET hash: 400", whole)
		})
	}
}

// TestManifests checks that the server takes the manifests of build tools as lists of trusted
// documents. The application then sends only hashes.
func TestManifests(t *testing.T) {
	t.Parallel()
	for library, manifest := range map[string]func(documents map[string]bool) any{
		apollo: func(documents map[string]bool) any { // generate-persisted-query-manifest
			list := []map[string]string{}
			for text := range documents {
				list = append(list, map[string]string{
					"id": wire.Hash(text), "name": "Any",
					"type": "query", "body": text,
				})
			}
			return map[string]any{
				"format": "apollo-persisted-query-manifest", "version": 1,
				"operations": list,
			}
		},
		// GraphQL Code Generator's persisted-documents.json, with sha256
		urql: func(documents map[string]bool) any {
			byHash := map[string]string{}
			for text := range documents {
				byHash[wire.Hash(text)] = text
			}
			return byHash
		},
	} {
		t.Run(library, func(t *testing.T) {
			t.Parallel()
			building := mustServe(t).register("builder").hashing(library, false)
			building.ask(profileQuery, variables{"short": false})
			if len(building.documents) != 1 {
				t.Fatalf("hashed: %v", building.documents)
			}
			// Register first: later the server answers only the application's documents.
			ada := mustServe(t).register("ada")
			file := filepath.Join(t.TempDir(), "manifest.json")
			b, err := json.Marshal(manifest(building.documents))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			ada.stop()
			ada.env = append(ada.env, "PARLEY_TRUSTED_DOCUMENTS="+file)
			ada.start()

			app := ada.hashing(library, true)
			a, took := app.ask(profileQuery, variables{"short": false})
			if a.Errors != nil || !slices.Equal(took, []string{"GET hash: 200"}) ||
				!strings.Contains(string(a.Data), "ada@example.org") {
				t.Errorf("got %+v by %q", a, took)
			}
			a, took = app.ask(`query Other { viewer { email } }`, nil)
			if a.code() != "PERSISTED_QUERY_NOT_SUPPORTED" ||
				!slices.Equal(took, []string{"GET hash: 400"}) {
				t.Errorf("another document: %+v by %q", a, took)
			}
		})
	}
}
