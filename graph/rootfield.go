package graph

import (
	"context"
	"encoding/json"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
)

// withRootFieldOfEvents makes the answers of a subscription follow the rules for the root field of
// a query: the path of an error begins with the field's name in the answer, and the data is null if
// a field that is never null would be (GraphQL, sections 6.2.3.2 and 6.4.4). gqlgen does neither
// for the root field of a subscription.
func withRootFieldOfEvents(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
	oc := graphql.GetOperationContext(ctx)
	if oc.Operation == nil || oc.Operation.Operation != ast.Subscription {
		return next(ctx)
	}
	response := next(withRootField(ctx, oc))
	root := rootField(oc.Operation.SelectionSet)
	if response != nil && root.Definition.Type.NonNull &&
		string(response.Data) == `{"`+root.Alias+`":null}` {
		response.Data = json.RawMessage("null")
	}
	return response
}

// withRootField returns a context in which errors have the path of a subscription's root field.
func withRootField(ctx context.Context, oc *graphql.OperationContext) context.Context {
	root := rootField(oc.Operation.SelectionSet)
	return graphql.WithFieldContext(ctx, &graphql.FieldContext{
		Object: "Subscription",
		Field:  graphql.CollectedField{Field: root, Selections: root.SelectionSet},
	})
}

// rootField returns the root field of a subscription: a valid one has exactly one.
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
