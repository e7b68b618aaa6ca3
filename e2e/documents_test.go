package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"parley/web"
	"parley/wire"
)

// TestTrustedDocuments starts the server with a list of documents. It answers those, and the
// documents of its own pages.
func TestTrustedDocuments(t *testing.T) {
	t.Parallel()
	const known = "{ __typename }"
	file := filepath.Join(t.TempDir(), "documents.json")
	if err := os.WriteFile(file, []byte(`{"sha256:`+wire.Hash(known)+`": "`+known+`"}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	srv := mustServe(t, "PARLEY_TRUSTED_DOCUMENTS="+file)
	anonymous := srv.anonymous()
	anonymous.wants(`{"__typename": "Query"}`, known, nil)
	if a := anonymous.ask("query Other { __typename }",
		nil); a.code() != "PERSISTED_QUERY_NOT_SUPPORTED" || a.Status != http.StatusBadRequest {
		t.Errorf("another document: %+v", a)
	}
	for _, document := range web.AccountDocuments() {
		vars := variables{"input": variables{"token": "x"}}
		if strings.Contains(document, "resetPassword") {
			vars = variables{"input": variables{"token": "x", "newPassword": "quite another one"}}
		}
		if a := anonymous.ask(document, vars); a.Errors != nil {
			t.Errorf("%s: %+v", document, a)
		}
	}
	if srv.page != "off" {
		t.Errorf("the playground is at %s", srv.page)
	}
	resp, err := srv.http.Get(strings.TrimSuffix(srv.api, "graphql"))
	if err != nil {
		t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the playground answers %s", resp.Status)
	}
}
