package document

import (
	"slices"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/validator/core"
	"github.com/vektah/gqlparser/v2/validator/rules"
)

// maxErrors is how many errors validation reports before it ends. People read only the first few,
// and each takes room in the answer.
const maxErrors = 20

// maxRepeated is how many repeated errors validation drops before it ends. Each takes time to find.
const maxRepeated = 5 * maxErrors

// enough is the panic that ends validation.
type enough struct{}

// validate checks a document (section 5), and sets the types of its nodes.
func (r *Reader) validate(doc *ast.QueryDocument) (list gqlerror.List) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case enough:
			list = append(list, coded(ValidationFailed,
				"Validation ended here, after %d errors. More may be wrong.", len(list)))
		case *gqlerror.Error: // a rule ended validation
			list = gqlerror.List{reason}
		default:
			panic(reason)
		}
	}()
	events := new(core.Events)
	again := 0
	for _, rule := range r.rules() {
		rule.RuleFunc(events, func(options ...core.ErrorOption) {
			err := new(gqlerror.Error)
			for _, option := range options {
				option(err)
			}
			err = withCode(err, ValidationFailed)
			if slices.ContainsFunc(list, func(known *gqlerror.Error) bool {
				return sameError(known, err)
			}) {
				// A fragment is visited by itself, and again for each operation that uses it.
				if again++; again == maxRepeated {
					panic(enough{})
				}
				return
			}
			if len(list) == maxErrors {
				panic(enough{})
			}
			list = append(list, err)
		})
	}
	core.Walk(r.schema, doc, events)
	return list
}

func sameError(a, b *gqlerror.Error) bool {
	return a.Message == b.Message && slices.Equal(a.Locations, b.Locations)
}

// rules returns the rules of the specification. Without introspection, none suggests names:
// suggestions would reveal the schema word by word.
func (r *Reader) rules() []core.Rule {
	all := []core.Rule{
		rules.FragmentsOnCompositeTypesRule,
		rules.KnownDirectivesRule,
		rules.KnownFragmentNamesRule,
		rules.KnownRootTypeRule,
		rules.LoneAnonymousOperationRule,
		rules.NoFragmentCyclesRule,
		rules.NoUndefinedVariablesRule,
		rules.NoUnusedFragmentsRule,
		rules.NoUnusedVariablesRule,
		overlappingFieldsRule,
		rules.PossibleFragmentSpreadsRule,
		rules.ProvidedRequiredArgumentsRule,
		r.valuesRule(),
		singleRootRule,
		rules.UniqueArgumentNamesRule,
		rules.UniqueDirectivesPerLocationRule,
		rules.UniqueFragmentNamesRule,
		rules.UniqueInputFieldNamesRule,
		rules.UniqueOperationNamesRule,
		rules.UniqueVariableNamesRule,
		rules.VariablesAreInputTypesRule,
		rules.VariablesInAllowedPositionRule,
	}
	if r.opts.Introspection {
		return slices.Concat(all, []core.Rule{
			rules.FieldsOnCorrectTypeRule,
			rules.KnownArgumentNamesRule,
			rules.KnownTypeNamesRule,
			rules.ScalarLeafsRule,
		})
	}
	return slices.Concat(all, []core.Rule{
		rules.FieldsOnCorrectTypeRuleWithoutSuggestions,
		rules.KnownArgumentNamesRuleWithoutSuggestions,
		rules.KnownTypeNamesRuleWithoutSuggestions,
		rules.ScalarLeafsRuleWithoutSuggestions,
		noIntrospectionRule,
	})
}

// noIntrospectionRule refuses fields about the schema.
var noIntrospectionRule = core.Rule{ //nolint:gochecknoglobals // a constant
	Name: "NoIntrospection",
	RuleFunc: func(events *core.Events, addError core.AddErrFunc) {
		events.OnField(func(_ *core.Walker, field *ast.Field) {
			if field.Definition != nil && (field.Name == "__schema" || field.Name == "__type") {
				addError(core.Message("This server does not let clients read its schema "+
					"(introspection is off)."), core.At(field.Position))
			}
		})
	},
}
