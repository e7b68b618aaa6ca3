package document

import "github.com/vektah/gqlparser/v2/ast"

// valueWalk visits the values that are written in a document, those inside others after them.
type valueWalk struct {
	visit func(*ast.Value)
	// whether it goes into the fragments that are spread, each once
	follows bool
	seen    map[*ast.FragmentDefinition]bool // that it went into
}

// eachValue visits all values of a document, in operations and fragments, each once.
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

// eachValueOf visits the values that one operation uses, also through fragments.
func eachValueOf(op *ast.OperationDefinition, visit func(*ast.Value)) {
	w := valueWalk{visit: visit, follows: true, seen: map[*ast.FragmentDefinition]bool{}}
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
			if w.follows && s.Definition != nil && !w.seen[s.Definition] {
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
