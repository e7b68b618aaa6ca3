package graph

import (
	"bytes"
	"context"
	"crypto/sha256"

	"github.com/99designs/gqlgen/graphql"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/vektah/gqlparser/v2/ast"
)

// schemaAnswers is a cache of answers to queries about the schema alone, which change only with the
// program. Tools send the same few queries, and each costs about as much as ten pages of messages.
type schemaAnswers struct {
	kept *lru.Cache[[sha256.Size]byte, []byte]
}

const (
	maxSchemaAnswers     = 8
	maxSchemaAnswerBytes = 512 << 10 // of one answer
)

func newSchemaAnswers() *schemaAnswers {
	kept, err := lru.New[[sha256.Size]byte, []byte](maxSchemaAnswers)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &schemaAnswers{kept}
}

// aroundOperation answers from the cache, or fills it.
func (s *schemaAnswers) aroundOperation(
	ctx context.Context, next graphql.OperationHandler,
) graphql.ResponseHandler {
	oc := graphql.GetOperationContext(ctx)
	if !isAboutSchema(oc) {
		return next(ctx)
	}
	key := sha256.Sum256([]byte(oc.RawQuery + "\x00" + oc.OperationName))
	if data, ok := s.kept.Get(key); ok {
		return graphql.OneShot(&graphql.Response{Data: data})
	}
	responses := next(ctx)
	return func(ctx context.Context) *graphql.Response {
		response := responses(ctx)
		if response != nil && response.Data != nil && len(response.Errors) == 0 &&
			len(response.Data) <= maxSchemaAnswerBytes {
			s.kept.Add(key, bytes.Clone(response.Data)) // the executor reuses its buffer
		}
		return response
	}
}

// isAboutSchema reports whether a query has no other root fields, and no variables.
func isAboutSchema(oc *graphql.OperationContext) bool {
	if oc.Operation.Operation != ast.Query || len(oc.Variables) > 0 {
		return false
	}
	for _, selection := range oc.Operation.SelectionSet {
		field, ok := selection.(*ast.Field)
		if !ok || field.Name != "__schema" && field.Name != "__type" {
			return false
		}
	}
	return true
}
