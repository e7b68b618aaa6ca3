package graph

import (
	"context"

	"github.com/99designs/gqlgen/graphql"
	gqlgen "github.com/99designs/gqlgen/graphql/executor"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/document"
)

// executor runs operations as gqlgen does, and leaves reading them to package document.
type executor struct {
	*gqlgen.Executor
	reader     *document.Reader
	present    func(context.Context, error) *gqlerror.Error
	recovered  func(context.Context, any) error
	afterRoots graphql.RootFieldMiddleware // around each root field
	turns      *executionTurns
}

var _ graphql.GraphExecutor = (*executor)(nil)

// CreateOperationContext reads a request. Nothing of it has run when it is refused.
func (e *executor) CreateOperationContext(
	ctx context.Context, p *graphql.RawParams,
) (*graphql.OperationContext, gqlerror.List) {
	request, refused := e.read(ctx, p)
	oc := &graphql.OperationContext{
		RawQuery:               p.Query,
		OperationName:          p.OperationName,
		Extensions:             p.Extensions,
		Headers:                p.Headers,
		Doc:                    request.Document,
		Operation:              request.Operation,
		Variables:              request.Variables,
		RecoverFunc:            e.recovered,
		ResolverMiddleware:     gate,
		RootResolverMiddleware: e.afterRoots,
	}
	setCost(oc, request.Cost)
	return oc, refused
}

// read reads a request. Documents that are not known take turns.
func (e *executor) read(ctx context.Context, p *graphql.RawParams) (*document.Request, gqlerror.List) {
	if !e.reader.Cached(p.Query) {
		release, err := e.turns.toRead(ctx)
		if err != nil {
			return new(document.Request), gqlerror.List{e.present(ctx, err)}
		}
		defer release()
	}
	return e.reader.Read(p.Query, p.OperationName, p.Variables)
}

// DispatchError answers an operation that was refused: nothing is looked up for it.
func (e *executor) DispatchError(ctx context.Context, list gqlerror.List) *graphql.Response {
	shown := make(gqlerror.List, len(list))
	for i, err := range list {
		shown[i] = e.present(ctx, err)
	}
	return &graphql.Response{Errors: shown}
}
