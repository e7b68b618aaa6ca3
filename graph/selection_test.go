package graph

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/parser"
)

// TestFragmentsAreVisitedOnce: sixty fragments that spread the next one twice would never end.
func TestFragmentsAreVisitedOnce(t *testing.T) {
	t.Parallel()
	const deep = 60
	var b strings.Builder
	b.WriteString("query { viewer { ...F0 } }")
	for i := range deep {
		fmt.Fprintf(&b, " fragment F%d on Viewer { ...F%d user { ...U } ...F%d }", i, i+1, i+1)
	}
	fmt.Fprintf(&b, " fragment F%d on Viewer { email } fragment U on User { nickname }", deep)
	doc, err := parser.ParseQuery(&ast.Source{Input: b.String()})
	if err != nil {
		t.Fatal(err)
	}
	define(doc, doc.Operations[0].SelectionSet, map[string]bool{})
	viewer := selectionOf(doc.Operations[0].SelectionSet).under("viewer")
	if n := len(viewer["user"]); n != deep || !viewer.has("email") || !viewer.under("user").
		has("nickname") {
		t.Errorf("%d times user, of %v", n, viewer)
	}
}

// define links fragments to their definitions, as the validator does.
func define(doc *ast.QueryDocument, set ast.SelectionSet, seen map[string]bool) {
	for _, selection := range set {
		switch s := selection.(type) {
		case *ast.Field:
			define(doc, s.SelectionSet, seen)
		case *ast.FragmentSpread:
			s.Definition = doc.Fragments.ForName(s.Name)
			if !seen[s.Name] {
				seen[s.Name] = true
				define(doc, s.Definition.SelectionSet, seen)
			}
		}
	}
}
