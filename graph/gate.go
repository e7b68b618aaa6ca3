package graph

import (
	"context"
	"strings"

	"github.com/99designs/gqlgen/graphql"
)

// gate runs each field. It is the one place that holds the rule of the schema: every field needs a
// signed-in viewer unless it is @public. It also counts what the field adds to the answer.
func gate(ctx context.Context, next graphql.Resolver) (any, error) {
	field := graphql.GetFieldContext(ctx)
	if !isPublic(field.Object, field.Field) {
		if _, err := actor(ctx); err != nil {
			return nil, err
		}
	}
	a := answerOf(ctx)
	if a != nil {
		if err := a.beforeField(ctx); err != nil {
			return nil, err
		}
	}
	mutation := field.Object == "Mutation"
	if mutation {
		// A copy for each: signing in with one field does not sign in for the next one.
		ctx = withIdentity(ctx, identityOf(ctx).copy())
	}
	value, err := next(ctx)
	if a == nil || err != nil {
		return value, err
	}
	if mutation {
		a.fieldRan(field.Field.Alias)
	}
	return value, a.charge(ctx, field.Field.Alias, value)
}

// isPublic reports whether a field is @public, or of introspection.
func isPublic(object string, field graphql.CollectedField) bool {
	return strings.HasPrefix(field.Name, "__") || strings.HasPrefix(object, "__") ||
		field.Definition.Directives.ForName("public") != nil
}
