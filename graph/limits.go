package graph

import (
	"cmp"
	"context"
	"math"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/store"
)

// Limits bound what one operation may ask for. The zero value of a field means its default.
type Limits struct {
	BodyBytes  int64 // of a request, or of a WebSocket message; default 256 KiB
	Tokens     int   // of a document, before it is parsed; default 2,500
	Depth      int   // of nested fields; default 15
	Aliases    int   // in a document; default 30
	Complexity int   // how many fields the answer may have, pages counted in full; default 20,000
}

func (l Limits) withDefaults() Limits {
	l.BodyBytes = cmp.Or(l.BodyBytes, 256<<10)
	l.Tokens = cmp.Or(l.Tokens, 2500)
	l.Depth = cmp.Or(l.Depth, 15)
	l.Aliases = cmp.Or(l.Aliases, 30)
	l.Complexity = cmp.Or(l.Complexity, 20_000)
	return l
}

const codeTooLarge = "OPERATION_TOO_LARGE"

var (
	_ graphql.HandlerExtension        = Limits{}
	_ graphql.OperationContextMutator = Limits{}
)

func (l Limits) ExtensionName() string                   { return "Limits" }
func (l Limits) Validate(graphql.ExecutableSchema) error { return nil }

// MutateOperationContext refuses an operation that asks for too much, before any of it runs.
func (l Limits) MutateOperationContext(_ context.Context, op *graphql.OperationContext) *gqlerror.Error {
	m := measurer{variables: op.Variables, fragments: map[string]measure{}}
	size := m.selections(op.Operation.SelectionSet)
	for _, f := range op.Doc.Fragments {
		m.countAliases(f.SelectionSet)
	}
	m.countAliases(op.Operation.SelectionSet)
	switch {
	case size.depth > l.Depth:
		return tooLarge("The operation is %d levels deep; the limit is %d.", size.depth, l.Depth)
	case m.aliases > l.Aliases:
		return tooLarge("The document has %d aliases; the limit is %d.", m.aliases, l.Aliases)
	case m.introspection > maxIntrospection:
		return tooLarge("The operation asks for %d fields of the schema; the limit is %d.", m.introspection, maxIntrospection)
	case size.cost > l.Complexity:
		return tooLarge("The answer could have %d fields; the limit is %d. Ask for smaller pages.", size.cost, l.Complexity)
	}
	return nil
}

func tooLarge(format string, args ...any) *gqlerror.Error {
	err := gqlerror.Errorf(format, args...)
	err.Extensions = withCode(codeTooLarge, nil)
	return err
}

// maxIntrospection bounds what is asked of the schema, in which one field may be answered hundreds of times. The playground
// asks for about 300.
const maxIntrospection = 1000

// measure is the size of a part of an operation.
type measure struct{ depth, cost int }

// measurer sizes each fragment once, however often it is spread: a short document could otherwise cost hours, with
// fragments that each spread the next one twice. The validator has refused those that spread themselves.
type measurer struct {
	variables map[string]any
	fragments map[string]measure
	aliases   int
	// introspection is the part of the cost that is about the schema; in a fragment it counts once, because aliases could
	// repeat it only at the root.
	introspection int
}

func (m *measurer) selections(set ast.SelectionSet) (total measure) {
	for _, selection := range set {
		var part measure
		switch s := selection.(type) {
		case *ast.Field:
			if s.Name == "__schema" || s.Name == "__type" { // it goes deeper than anything else, and is bounded by itself
				m.introspection = plus(m.introspection, plus(1, m.selections(s.SelectionSet).cost))
				continue
			}
			part = m.selections(s.SelectionSet)
			part = measure{depth: part.depth + 1, cost: plus(1, times(part.cost, m.pageSize(s)))}
		case *ast.InlineFragment:
			part = m.selections(s.SelectionSet)
		case *ast.FragmentSpread:
			known, ok := m.fragments[s.Name]
			if !ok {
				known = m.selections(s.Definition.SelectionSet)
				m.fragments[s.Name] = known
			}
			part = known
		}
		total = measure{depth: max(total.depth, part.depth), cost: plus(total.cost, part.cost)}
	}
	return total
}

// pageSize is by how much a field multiplies what stands below it: a connection by its page, `nodes` by its ids.
func (m *measurer) pageSize(field *ast.Field) int {
	if field.Definition == nil {
		return 1
	}
	arguments := field.ArgumentMap(m.variables)
	if ids, ok := arguments["ids"].([]any); ok {
		return max(1, len(ids))
	}
	if field.Definition.Arguments.ForName("first") == nil {
		return 1
	}
	for _, name := range []string{"first", "last"} {
		if n, ok := toInt(arguments[name]); ok {
			return min(max(1, n), store.MaxPage)
		}
	}
	return 50 // the largest of the fields' own defaults
}

func toInt(v any) (int, bool) {
	switch n := v.(type) {
	case int64:
		return int(n), true
	case int:
		return n, true
	case interface{ Int64() (int64, error) }: // json.Number
		i, err := n.Int64()
		return int(i), err == nil
	}
	return 0, false
}

func (m *measurer) countAliases(set ast.SelectionSet) {
	for _, selection := range set {
		switch s := selection.(type) {
		case *ast.Field:
			if s.Alias != s.Name {
				m.aliases++
			}
			m.countAliases(s.SelectionSet)
		case *ast.InlineFragment:
			m.countAliases(s.SelectionSet)
		}
	}
}

// plus and times stop at the largest number instead of wrapping around.
func plus(a, b int) int {
	if a > math.MaxInt-b {
		return math.MaxInt
	}
	return a + b
}

func times(a, b int) int {
	if a > math.MaxInt/b {
		return math.MaxInt
	}
	return a * b
}
