package graph

import (
	"context"
	"encoding/json"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
)

// answerOfRoot makes each answer of a subscription what it is for a query: paths of errors begin
// with the name that the root field has in the answer, and a null where the schema has none makes
// the data null (GraphQL, sections 6.2.3.2 and 6.4.4). gqlgen knows neither of the root field once
// its stream has begun.
func answerOfRoot(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
	oc := graphql.GetOperationContext(ctx)
	if oc.Operation == nil || oc.Operation.Operation != ast.Subscription {
		return next(ctx)
	}
	response := next(withRootField(ctx, oc))
	root := rootField(oc.Operation.SelectionSet)
	if response != nil && root.Definition.Type.NonNull && string(response.Data) == `{"`+root.Alias+`":null}` {
		response.Data = json.RawMessage("null")
	}
	return response
}

// withRootField is the context of what becomes of the one root field of a subscription.
func withRootField(ctx context.Context, oc *graphql.OperationContext) context.Context {
	root := rootField(oc.Operation.SelectionSet)
	return graphql.WithFieldContext(ctx, &graphql.FieldContext{
		Object: "Subscription", Field: graphql.CollectedField{Field: root, Selections: root.SelectionSet},
	})
}

// rootField finds the root field of a subscription, which validation makes sure of.
func rootField(set ast.SelectionSet) *ast.Field {
	for _, selection := range set {
		var found *ast.Field
		switch s := selection.(type) {
		case *ast.Field:
			found = s
		case *ast.InlineFragment:
			found = rootField(s.SelectionSet)
		case *ast.FragmentSpread:
			found = rootField(s.Definition.SelectionSet)
		}
		if found != nil {
			return found
		}
	}
	return nil
}
