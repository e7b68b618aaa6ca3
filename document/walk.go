package document

import "github.com/vektah/gqlparser/v2/ast"

// valueWalk visits the literal values of a document. It visits nested values after those that they
// are part of.
type valueWalk struct {
	visit           func(*ast.Value)
	followFragments bool // visit the fragments that are spread, each once
	seen            map[*ast.FragmentDefinition]bool
}

// eachValue visits all values of a document once, in operations and fragments.
func eachValue(doc *ast.QueryDocument, visit func(*ast.Value)) {
	w := valueWalk{visit: visit}
	for _, op := range doc.Operations {
		w.operation(op)
	}
	for _, f := range doc.Fragments {
		w.directives(f.Directives)
		w.selections(f.SelectionSet)
	}
}

// eachValueOf visits the values that an operation uses, also those in fragments.
func eachValueOf(op *ast.OperationDefinition, visit func(*ast.Value)) {
	w := valueWalk{visit: visit, followFragments: true, seen: map[*ast.FragmentDefinition]bool{}}
	w.operation(op)
}

func (w *valueWalk) operation(op *ast.OperationDefinition) {
	for _, d := range op.VariableDefinitions {
		w.value(d.DefaultValue)
		w.directives(d.Directives)
	}
	w.directives(op.Directives)
	w.selections(op.SelectionSet)
}

func (w *valueWalk) selections(set ast.SelectionSet) {
	for _, selection := range set {
		switch s := selection.(type) {
		case *ast.Field:
			w.arguments(s.Arguments)
			w.directives(s.Directives)
			w.selections(s.SelectionSet)
		case *ast.InlineFragment:
			w.directives(s.Directives)
			w.selections(s.SelectionSet)
		case *ast.FragmentSpread:
			w.directives(s.Directives)
			if w.followFragments && s.Definition != nil && !w.seen[s.Definition] {
				w.seen[s.Definition] = true
				w.directives(s.Definition.Directives)
				w.selections(s.Definition.SelectionSet)
			}
		}
	}
}

func (w *valueWalk) directives(list ast.DirectiveList) {
	for _, d := range list {
		w.arguments(d.Arguments)
	}
}

func (w *valueWalk) arguments(list ast.ArgumentList) {
	for _, a := range list {
		w.value(a.Value)
	}
}

func (w *valueWalk) value(v *ast.Value) {
	if v == nil {
		return
	}
	w.visit(v)
	for _, child := range v.Children {
		w.value(child.Value)
	}
}
