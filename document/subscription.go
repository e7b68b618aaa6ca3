package document

import (
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator/core"
)

// singleRootRule checks section 5.2.3.1, Single Root Field: for all values of the variables, a
// subscription has exactly one root field. @skip and @include are refused there, because they could
// leave none.
var singleRootRule = core.Rule{ //nolint:gochecknoglobals // a constant
	Name: "SingleRootField",
	RuleFunc: func(events *core.Events, addError core.AddErrFunc) {
		events.OnOperation(func(_ *core.Walker, op *ast.OperationDefinition) {
			if op.Operation == ast.Subscription {
				root := subscriptionRoot{
					addError: addError,
					seen:     map[*ast.FragmentDefinition]bool{},
				}
				root.selections(op.SelectionSet)
			}
		})
	},
}

type subscriptionRoot struct {
	addError core.AddErrFunc
	first    *ast.Field
	seen     map[*ast.FragmentDefinition]bool
}

func (r *subscriptionRoot) selections(set ast.SelectionSet) {
	for _, selection := range set {
		switch s := selection.(type) {
		case *ast.Field:
			r.unconditional(s.Directives)
			r.field(s)
		case *ast.InlineFragment:
			r.unconditional(s.Directives)
			r.selections(s.SelectionSet)
		case *ast.FragmentSpread:
			r.unconditional(s.Directives)
			if s.Definition != nil && !r.seen[s.Definition] {
				r.seen[s.Definition] = true
				r.selections(s.Definition.SelectionSet)
			}
		}
	}
}

func (r *subscriptionRoot) unconditional(list ast.DirectiveList) {
	for _, d := range list {
		if d.Name == "skip" || d.Name == "include" {
			r.addError(core.Message("The root field of a subscription cannot have @%s.", d.Name),
				core.At(d.Position))
		}
	}
}

func (r *subscriptionRoot) field(f *ast.Field) {
	switch {
	case strings.HasPrefix(f.Name, "__"):
		r.addError(core.Message("The root field of a subscription cannot be %s.", f.Name),
			core.At(f.Position))
	case r.first == nil:
		r.first = f
	case r.first.Alias != f.Alias:
		r.addError(core.Message("A subscription has one root field: "+
			"subscribe to %q in an operation of its own.", f.Alias),
			core.At(f.Position))
	}
}
