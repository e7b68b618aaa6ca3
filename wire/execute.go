package wire

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/errs"
)

// execute runs an operation of a WebSocket or stream, and queues its results in the outbox. Of a
// subscription it executes only the start, and returns the rest, which waits for the events. The
// caller can run the rest on a new goroutine, which has a small stack.
func (s *Server) execute(ctx context.Context, op *Operation, p *params) (rest func()) {
	ctx = graphql.StartOperationTrace(ctx)
	oc, list := s.prepare(ctx, p)
	return s.run(ctx, op, oc, list)
}

// run is execute for an operation that was prepared.
func (s *Server) run(
	ctx context.Context, op *Operation, oc *graphql.OperationContext, list gqlerror.List,
) (rest func()) {
	if list != nil {
		op.Fail(list)
		return nil
	}
	failed := &failure{present: s.opts.Present}
	ctx = context.WithValue(ctx, failureKey{}, failed)
	defer s.failPanicked(ctx, op)
	subscription := oc.Operation.Operation == ast.Subscription
	if subscription && !op.retain(retainedBytes(oc)) {
		op.Fail(gqlerror.List{coded(errs.RateLimited,
			"The subscriptions on one connection keep at most %d bytes of their requests: "+
				"use smaller documents.", maxRetained)})
		return nil
	}
	if !subscription && s.opts.IsLarge != nil && s.opts.IsLarge(oc) {
		release, err := op.box.acquireLarge(ctx)
		if err != nil {
			return nil // the operation was cancelled
		}
		defer release()
	}
	if subscription && s.opts.Subscribe != nil && s.opts.Subscribe(ctx, op, oc) {
		return nil
	}
	responses, ctx := s.opts.Exec.DispatchOperation(graphql.WithOperationContext(ctx, oc), oc)
	if subscription {
		return func() { s.deliver(ctx, op, responses, failed) }
	}
	s.deliver(ctx, op, responses, failed)
	return nil
}

// deliver queues all results of an operation, and ends it.
func (s *Server) deliver(
	ctx context.Context, op *Operation, responses graphql.ResponseHandler, failed *failure,
) {
	defer s.failPanicked(ctx, op)
	for {
		response := responses(ctx)
		if response == nil {
			break
		}
		if response.Data == nil { // the operation did not start
			op.Fail(response.Errors)
			return
		}
		if err := op.Put(ctx, Encode(response)); err != nil {
			return
		}
	}
	if list := failed.errors(); list != nil {
		op.Fail(list)
		return
	}
	op.Complete()
}

// retainedBytes estimates how many bytes a subscription keeps of its request: the text of the
// document, its parsed form, and the values of the variables.
func retainedBytes(oc *graphql.OperationContext) int {
	const parsedFactor = 16        // the size of a parsed document, in multiples of its text
	const maxParsedText = 16 << 10 // longer texts are strings and comments: tokens are limited
	n := len(oc.RawQuery) + parsedFactor*min(len(oc.RawQuery), maxParsedText)
	for _, value := range oc.Variables {
		if text, ok := value.(string); ok {
			n += len(text)
		}
	}
	return n
}

// prepare finds, parses and validates the document of an operation. If it returns errors, the
// operation does not start.
func (s *Server) prepare(
	ctx context.Context, p *params,
) (oc *graphql.OperationContext, list gqlerror.List) {
	defer func() {
		if reason := recover(); reason != nil {
			list = gqlerror.List{s.recovered(ctx, reason)}
		}
	}()
	if err := s.documents.resolve(p); err != nil {
		return nil, gqlerror.List{s.opts.Present(ctx, err)}
	}
	oc, list = s.opts.Exec.CreateOperationContext(ctx, &p.RawParams)
	if oc != nil && oc.Doc != nil {
		s.documents.validated(p)
	}
	if len(list) > 0 {
		return oc, s.opts.Exec.DispatchError(graphql.WithOperationContext(ctx, oc), list).Errors
	}
	return oc, nil
}

// failPanicked ends the operation with an error after a panic. It must be deferred.
func (s *Server) failPanicked(ctx context.Context, op *Operation) {
	if reason := recover(); reason != nil {
		op.Fail(gqlerror.List{s.recovered(ctx, reason)})
	}
}

// recovered converts a panic to an internal error. Its stack goes to the log.
func (s *Server) recovered(ctx context.Context, reason any) *gqlerror.Error {
	return s.opts.Present(ctx, fmt.Errorf("panic: %v\n%s", reason, debug.Stack()))
}

// Encode returns a response as JSON. It copies the data, because the executor reuses that memory.
func Encode(r *graphql.Response) []byte {
	if len(r.Errors) > 0 || len(r.Extensions) > 0 || r.Data == nil || r.HasNext != nil ||
		r.Label != "" || r.Path != nil {
		return mustMarshal(r)
	}
	const beginning = `{"data":`
	b := make([]byte, 0, len(beginning)+len(r.Data)+1)
	return append(append(append(b, beginning...), r.Data...), '}')
}

// encodeErrors returns the response of an operation that did not start, as JSON. It has no data,
// not even null (GraphQL, section 7.1).
func encodeErrors(list gqlerror.List) []byte {
	return mustMarshal(struct {
		Errors gqlerror.List `json:"errors"`
	}{list})
}

// failure collects the errors with which a subscription ends.
type failure struct {
	present func(context.Context, error) *gqlerror.Error

	mu   sync.Mutex // guards list
	list gqlerror.List
}

type failureKey struct{}

func (f *failure) errors() gqlerror.List {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list
}

// Fail makes the subscription of ctx end with an error. It must be called before the channel of its
// results is closed.
func Fail(ctx context.Context, err error) {
	if f, ok := ctx.Value(failureKey{}).(*failure); ok {
		shown := f.present(ctx, err)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.list = append(f.list, shown)
	}
}

// tooManyOperations is the error of an operation beyond Options.MaxOperations.
func tooManyOperations(limit int) gqlerror.List {
	return gqlerror.List{coded(errs.RateLimited,
		"At most %d operations run on one connection at once.", limit)}
}

// coded returns an error with the code in its extensions.
func coded(code errs.Code, format string, args ...any) *gqlerror.Error {
	return &gqlerror.Error{
		Message: fmt.Sprintf(format, args...), Extensions: map[string]any{"code": string(code)},
	}
}

// errorOf converts an error of a request to the form of GraphQL.
func errorOf(err error) *gqlerror.Error {
	code := errs.BadUserInput
	if e, ok := errors.AsType[*errs.Error](err); ok {
		code = e.Code
	}
	return coded(code, "%s", clientMessage(err))
}
