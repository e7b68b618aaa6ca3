package document

import (
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

// maxVisits is how many selections validation may visit. It walks each operation and each fragment,
// and all fragments that they spread, so many small fragments that spread each other cost the
// square of their number. The playground's introspection query takes some 100 visits, a large
// frontend's document with 60 fragments some 10,000.
const maxVisits = 40_000

// count refuses a document whose validation would be expensive. It takes linear time, except for
// fragments that spread each other.
func (r *Reader) count(doc *ast.QueryDocument) *gqlerror.Error {
	c := counter{fragments: map[string]int{}}
	parts := make([]*part, 0, len(doc.Operations)+len(doc.Fragments))
	for i, f := range doc.Fragments {
		if _, known := c.fragments[f.Name]; !known {
			c.fragments[f.Name] = i
		}
	}
	for _, f := range doc.Fragments {
		parts = append(parts, c.part(f.SelectionSet))
	}
	for _, op := range doc.Operations {
		parts = append(parts, c.part(op.SelectionSet))
	}
	if limit := r.opts.Limits.Aliases; c.aliases > limit {
		return coded(TooLarge, "The document has %d aliases; the limit is %d.", c.aliases, limit)
	}
	visits := 0
	for i := range parts {
		visits += reach(parts, i)
		if visits > maxVisits {
			return coded(TooLarge, "The fragments of the document reach each other too often: "+
				"use fewer fragments, or spread them in fewer places.")
		}
	}
	return nil
}

// part is a fragment or an operation.
type part struct {
	selections int
	spreads    []int // the fragments that it spreads, each once
}

type counter struct {
	fragments map[string]int // their indexes, by name
	aliases   int
}

func (c *counter) part(set ast.SelectionSet) *part {
	p := new(part)
	spread := map[int]bool{}
	var walk func(ast.SelectionSet)
	walk = func(set ast.SelectionSet) {
		p.selections += len(set)
		for _, selection := range set {
			switch s := selection.(type) {
			case *ast.Field:
				if s.Alias != s.Name {
					c.aliases++
				}
				walk(s.SelectionSet)
			case *ast.InlineFragment:
				walk(s.SelectionSet)
			case *ast.FragmentSpread:
				if i, known := c.fragments[s.Name]; known && !spread[i] {
					spread[i] = true
					p.spreads = append(p.spreads, i)
				}
			}
		}
	}
	walk(set)
	return p
}

// reach returns how many selections a walk from one part visits. It visits each fragment once.
func reach(parts []*part, from int) (selections int) {
	seen := make([]bool, len(parts))
	seen[from] = true
	next := []int{from}
	for len(next) > 0 {
		p := parts[next[len(next)-1]]
		next = next[:len(next)-1]
		selections += p.selections
		for _, i := range p.spreads {
			if !seen[i] {
				seen[i] = true
				next = append(next, i)
			}
		}
	}
	return selections
}
