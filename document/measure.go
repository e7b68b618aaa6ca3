package document

import (
	"math"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

// measure refuses an operation whose answer could be too large.
func (r *Reader) measure(request *Request) *gqlerror.Error {
	m := measurer{
		variables: request.Variables, maxPage: r.opts.MaxPage, fragments: map[string]size{},
		schema: &schemaCounter{schema: r.schema, left: maxIntrospection},
	}
	total := m.selections(request.Operation.SelectionSet)
	limits := r.opts.Limits
	switch {
	case total.depth > limits.Depth:
		return coded(TooLarge, "The operation is %d levels deep; the limit is %d.", total.depth, limits.Depth)
	case m.schema.left < 0:
		return coded(TooLarge, "The operation asks for more than %d fields of the schema.", maxIntrospection)
	case total.cost > limits.Complexity:
		return coded(TooLarge, "The answer could have %d fields; the limit is %d. Ask for smaller pages.",
			total.cost, limits.Complexity)
	}
	return nil
}

// size is that of a part of an operation.
type size struct{ depth, cost int }

// measurer measures each fragment once, however often it is spread: with fragments that each spread the next one
// twice, a short document could otherwise cost hours. Fragments that spread themselves are refused before.
type measurer struct {
	variables map[string]any
	maxPage   int
	fragments map[string]size
	schema    *schemaCounter
}

func (m *measurer) selections(set ast.SelectionSet) (total size) {
	for _, selection := range set {
		var part size
		switch s := selection.(type) {
		case *ast.Field:
			if m.schema.count(s, m.variables) {
				continue // it goes deeper than anything else, and has a bound of its own
			}
			part = m.selections(s.SelectionSet)
			part = size{depth: part.depth + 1, cost: plus(1, times(part.cost, m.pageSize(s)))}
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
		total = size{depth: max(total.depth, part.depth), cost: plus(total.cost, part.cost)}
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
		if n, ok := arguments[name].(int64); ok {
			return min(max(1, int(n)), m.maxPage)
		}
	}
	return defaultPage
}

// defaultPage is the largest of the fields' own defaults.
const defaultPage = 50

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
