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
		schema: &schemaCounter{schema: r.schema, left: maxIntrospection}, texts: r.opts.Texts,
	}
	total := m.selections(request.Operation.SelectionSet)
	// The budget of the schema's counter is used up before the request is refused, so the cost of
	// queries about the schema is known here too.
	request.Cost = Cost{
		Fields: plus(total.cost, maxIntrospection-m.schema.left),
		Bytes:  total.bytes,
	}
	limits := r.opts.Limits
	if request.Operation.Operation == ast.Subscription && total.cost > limits.EventComplexity {
		return coded(TooLarge,
			"An event could have %d fields; the limit is %d. Ask for less of each event.",
			total.cost, limits.EventComplexity)
	}
	switch {
	case total.depth > limits.Depth:
		return coded(TooLarge, "The operation is %d levels deep; the limit is %d.", total.depth,
			limits.Depth)
	case m.schema.left < 0:
		return coded(TooLarge, "The operation asks for more than %d fields of the schema.",
			maxIntrospection)
	case r.opts.MaxAnswer > 0 && total.names > r.opts.MaxAnswer:
		return coded(TooLarge,
			"The names of the answer's fields alone could take %d bytes; the limit is %d. "+
				"Use shorter aliases, or ask for smaller pages.", total.names, r.opts.MaxAnswer)
	case total.cost > limits.Complexity:
		return coded(TooLarge,
			"The answer could have %d fields; the limit is %d. Ask for smaller pages.",
			total.cost, limits.Complexity)
	}
	return nil
}

// Cost is the size of the answer to an operation if all pages are full.
type Cost struct {
	Fields int
	Bytes  int // of texts and names; see Options.Texts
}

// Place is a field of an object in the schema.
type Place struct{ Object, Field string }

// shortText is the estimate, in bytes, for the value of a field without long text.
const shortText = 32

// ownBytes returns how many bytes a field adds to the answer, without its subfields.
func (m *measurer) ownBytes(field *ast.Field) int {
	if field.ObjectDefinition != nil {
		if n := m.texts[Place{field.ObjectDefinition.Name, field.Name}]; n > 0 {
			return n + len(field.Alias)
		}
	}
	return shortText + len(field.Alias)
}

// size is the size of the answer to a part of an operation.
type size struct{ depth, cost, bytes, names int }

// measurer measures each fragment once, however often it is spread. Otherwise a short document of
// fragments that each spread the next one twice would take hours. Fragments that spread themselves
// were refused before.
type measurer struct {
	variables map[string]any
	maxPage   int
	fragments map[string]size
	schema    *schemaCounter
	texts     map[Place]int
}

func (m *measurer) selections(set ast.SelectionSet) (total size) {
	for _, selection := range set {
		var part size
		switch s := selection.(type) {
		case *ast.Field:
			if m.schema.count(s, m.variables) {
				continue // nested deeper than all else, and limited by maxIntrospection
			}
			part = m.selections(s.SelectionSet)
			n := m.pageSize(s)
			part = size{
				depth: part.depth + 1,
				cost:  plus(1, times(part.cost, n)),
				bytes: plus(m.ownBytes(s), times(part.bytes, n)),
				names: plus(len(s.Alias), times(part.names, n)),
			}
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
		total = size{
			depth: max(total.depth, part.depth), cost: plus(total.cost, part.cost),
			bytes: plus(total.bytes, part.bytes), names: plus(total.names, part.names),
		}
	}
	return total
}

// pageSize returns how many values a field has: a connection has as many as its page, `nodes` as
// many as its ids.
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

// defaultPage is the largest default page of all connections.
const defaultPage = 50

// plus and times saturate at the largest number.
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
