package graph

import (
	"context"

	"github.com/99designs/gqlgen/graphql"
	gqlgen "github.com/99designs/gqlgen/graphql/executor"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/document"
)

// executor executes operations with gqlgen's executor. Package document reads them: it parses,
// validates and measures.
type executor struct {
	*gqlgen.Executor
	reader     *document.Reader
	present    func(context.Context, error) *gqlerror.Error
	recovered  func(context.Context, any) error
	aroundRoot graphql.RootFieldMiddleware
	turns      *executionTurns
}

var _ graphql.GraphExecutor = (*executor)(nil)

// CreateOperationContext reads a request, or returns why it is refused. It executes nothing.
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
		RootResolverMiddleware: e.aroundRoot,
	}
	setCost(oc, request.Cost)
	return oc, refused
}

// read waits for a turn if the document is not in the cache, and reads the request.
func (e *executor) read(
	ctx context.Context, p *graphql.RawParams,
) (*document.Request, gqlerror.List) {
	if !e.reader.Cached(p.Query) {
		release, err := e.turns.acquireParsing(ctx)
		if err != nil {
			return new(document.Request), gqlerror.List{e.present(ctx, err)}
		}
		defer release()
	}
	return e.reader.Read(p.Query, p.OperationName, p.Variables)
}

// DispatchError returns the response to a request that was refused. gqlgen's own would run the
// middleware of responses, which looks things up.
func (e *executor) DispatchError(ctx context.Context, list gqlerror.List) *graphql.Response {
	shown := make(gqlerror.List, len(list))
	for i, err := range list {
		shown[i] = e.present(ctx, err)
	}
	return &graphql.Response{Errors: shown}
}
