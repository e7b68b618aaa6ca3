package document

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
)

// TestSizesOfDocuments checks that no document takes more memory than the cache counts for it.
func TestSizesOfDocuments(t *testing.T) {
	b, err := os.ReadFile("../schema.graphqls")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := gqlparser.LoadSchema(&ast.Source{Input: string(b)})
	if err != nil {
		t.Fatal(err)
	}
	variables := func(n int, text string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, text, i)
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"short": "{ __typename }",
		"honest": "query ($n: Int) { users(first: $n) { nodes { id nickname " +
			"displayName about } } }",
		"objects":          "{ viewer {" + strings.Repeat(" user { id }", 400) + " } }",
		"leaves":           "{ viewer {" + strings.Repeat(" email", 1200) + " } }",
		"inline fragments": "{" + strings.Repeat(" ... { __typename }", 480) + " }",
		"with types":       "{" + strings.Repeat(" ... on Query { __typename }", 330) + " }",
		"spreads": "{" + strings.Repeat(" ...F", 1000) +
			" } fragment F on Query { __typename }",
		"directives": "{ viewer {" + strings.Repeat(" email @skip(if: false)", 250) + " } }",
		"a list":     "{ nodes(ids: [" + strings.Repeat("1 ", 2400) + "]) { id } }",
		"variables": "query (" + variables(250, "$v%d: ID! ") + ") { nodes(ids: [" +
			variables(250, "$v%d ") + "]) { id } }",
		"operations": variables(200, "query Q%d { __typename } "),
	} {
		r := NewReader(schema, Options{Introspection: true})
		const copies = 50
		docs, counted := make([]*ast.QueryDocument, copies), 0
		before := heap()
		for i := range docs {
			copied := text + fmt.Sprint(" #", i)
			doc, list := r.parse(copied)
			if list == nil {
				list = r.validate(doc)
			}
			if list != nil {
				t.Fatalf("%s: %v", name, list)
			}
			docs[i] = doc
			counted += sizeOf(copied, doc)
		}
		if taken := heap() - before; taken > counted || taken*8 < counted {
			t.Errorf("%s: takes %d bytes, is counted as %d", name, taken/copies, counted/copies)
		}
		runtime.KeepAlive(docs)
	}
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestTheCacheIsBounded(t *testing.T) {
	t.Parallel()
	doc := &ast.QueryDocument{Operations: ast.OperationList{
		{SelectionSet: make(ast.SelectionSet, 10)},
	}}
	c := newCache(100 << 10)
	for i := range 1000 {
		text := fmt.Sprint(i)
		c.add(text, doc)
		c.add(text, doc)
		c.get("0") // in use all the time
		if c.bytes > c.limit || c.bytes != c.docs.Len()*sizeOf("0", doc)+sum(c.docs.Keys()) {
			t.Fatalf("after %d: %d bytes in %d documents", i, c.bytes, c.docs.Len())
		}
	}
	if c.get("0") != doc || c.get("999") != doc || c.get("1") != nil || c.docs.Len() < 5 {
		t.Errorf("keeps %v", c.docs.Keys())
	}
	large := &ast.QueryDocument{Operations: ast.OperationList{
		{SelectionSet: make(ast.SelectionSet, 1000)},
	}}
	if c.add("large", large); c.get("large") != nil {
		t.Error("a large document is cached")
	}
}

// sum returns by how much texts are longer than one character.
func sum(texts []string) (n int) {
	for _, text := range texts {
		n += len(text) - 1
	}
	return n
}
