package document_test

import (
	"os"
	"testing"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/document"
)

// mustSchema returns Parley's schema.
func mustSchema(t testing.TB) *ast.Schema {
	t.Helper()
	b, err := os.ReadFile("../schema.graphqls")
	if err != nil {
		t.Fatal(err)
	}
	return mustLoad(t, string(b))
}

func mustLoad(t testing.TB, text string) *ast.Schema {
	t.Helper()
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphqls", Input: text})
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func mustRead(t testing.TB, opts document.Options) *document.Reader {
	t.Helper()
	return document.NewReader(mustSchema(t), opts)
}

func open() document.Options { return document.Options{Introspection: true} }

func codesOf(list gqlerror.List) (codes []string) {
	for _, err := range list {
		code, _ := err.Extensions["code"].(string)
		codes = append(codes, code)
	}
	return codes
}
