package graph

import "github.com/vektah/gqlparser/v2/ast"

// selection is what a selection set asks for, by field name. It includes the fields of fragments,
// and those below edges, node and nodes. It ignores aliases, and @skip and @include: prefetching
// for a field that is skipped costs a statement and nothing else.
type selection map[string][]*ast.Field

func selectionOf(sets ...ast.SelectionSet) selection {
	s, seen := selection{}, map[*ast.FragmentDefinition]bool{}
	for _, set := range sets {
		s.add(set, seen)
	}
	return s
}

// add visits each fragment once, however often it is spread: a short document can spread one a
// billion times.
func (s selection) add(set ast.SelectionSet, seen map[*ast.FragmentDefinition]bool) {
	for _, selected := range set {
		switch selected := selected.(type) {
		case *ast.Field:
			switch selected.Name {
			case "edges", "node", "nodes":
				s.add(selected.SelectionSet, seen)
			default:
				s[selected.Name] = append(s[selected.Name], selected)
			}
		case *ast.InlineFragment:
			s.add(selected.SelectionSet, seen)
		case *ast.FragmentSpread:
			if !seen[selected.Definition] {
				seen[selected.Definition] = true
				s.add(selected.Definition.SelectionSet, seen)
			}
		}
	}
}

// has reports whether one of the fields is selected.
func (s selection) has(names ...string) bool {
	for _, name := range names {
		if s[name] != nil {
			return true
		}
	}
	return false
}

// under is the selection of a field, of all its occurrences together.
func (s selection) under(name string) selection {
	sets := make([]ast.SelectionSet, len(s[name]))
	for i, f := range s[name] {
		sets[i] = f.SelectionSet
	}
	return selectionOf(sets...)
}
