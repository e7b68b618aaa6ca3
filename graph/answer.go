package graph

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/document"
	"parley/errs"
	"parley/model"
)

// answer is the accounting of one response while its fields are executed. It counts fields, bytes,
// and messages read, and ends the execution at the first bound that is exceeded; and it makes
// expensive executions wait for their turns.
//
// Fields run on several goroutines. No two of its locks are held at the same time.
type answer struct {
	limit     int64 // of bytes
	maxFields int64
	stop      context.CancelCauseFunc // of the execution

	fault  atomic.Pointer[errs.Error] // why there is no answer; nil while there may be one
	fields atomic.Int64               // executed so far, and items of lists
	bytes  atomic.Int64               // of the answer, estimated
	read   atomic.Int64               // bytes of messages that were read from the database

	nextStage atomic.Int64 // stages[0].from, or the largest number
	stagesMu  sync.Mutex   // guards stages and releases; held while an execution waits for a turn
	stages    []stage      // turns that the execution may still need
	releases  []func()     // of the turns that it has

	searchMu sync.Mutex // held by the one field that searches

	ranMu sync.Mutex // guards ran
	ran   []string   // fields of the mutation that have run

	errors answerErrors
}

// readFactor is how many times the answer's bytes may be read of messages: not all that is read is
// shown.
const readFactor = 4

type answerKey struct{}

// answerOf returns the accounting of the response that ctx belongs to, or nil outside a response.
func answerOf(ctx context.Context) *answer {
	a, _ := ctx.Value(answerKey{}).(*answer)
	return a
}

// answerer makes an answer for each response.
type answerer struct {
	limit     int64
	maxFields int64
	turns     *executionTurns
	log       *slog.Logger
}

// around runs one response within its bounds.
func (b *answerer) around(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
	a := &answer{limit: b.limit, maxFields: b.maxFields}
	item := itemOf(ctx)
	if item != nil {
		item.answer = a
	}
	a.nextStage.Store(math.MaxInt64)
	if item == nil || !item.onFeed { // a feed does not wait, and executes only what is cheap
		a.stages = b.turns.stagesOf(ctx)
		a.nextStage.Store(a.stages[0].from)
	}
	ctx, a.stop = context.WithCancelCause(ctx)
	defer a.stop(nil)
	defer a.errors.log(ctx, b.log)
	defer func() {
		for _, release := range a.releases {
			release()
		}
	}()
	return a.finish(ctx, next(context.WithValue(ctx, answerKey{}, a)))
}

// beforeField is called before each field. It waits until the execution has the turns that it needs
// by now, and returns the fault if there is one.
func (a *answer) beforeField(ctx context.Context) error {
	if a.fields.Load() >= a.nextStage.Load() {
		a.acquireTurns(ctx)
	}
	if fault := a.fault.Load(); fault != nil {
		return fault
	}
	return nil
}

// acquireTurns waits for the turns that an execution with this many fields needs. They may be more
// than were estimated before it: lists without pages can be of any length.
func (a *answer) acquireTurns(ctx context.Context) {
	a.stagesMu.Lock()
	defer a.stagesMu.Unlock()
	for len(a.stages) > 0 && a.fields.Load() >= a.stages[0].from && a.fault.Load() == nil {
		release, err := a.stages[0].acquire(ctx)
		if err != nil {
			a.fail(err)
			return
		}
		a.releases = append(a.releases, release)
		a.stages = a.stages[1:]
	}
	next := int64(math.MaxInt64)
	if len(a.stages) > 0 {
		next = a.stages[0].from
	}
	a.nextStage.Store(next)
}

// fail sets the fault, unless there is one, and cancels the execution.
func (a *answer) fail(err error) {
	fault, ok := err.(*errs.Error) //nolint:errorlint // ours, never wrapped
	if !ok {
		fault = errs.Wrap(err, errs.Unavailable, "The request was cut short. Try again.")
	}
	if a.fault.CompareAndSwap(nil, fault) {
		a.stop(fault)
	}
}

// charge counts a field that has been executed: its name, and its value if that is a leaf, or the
// items of a list.
func (a *answer) charge(ctx context.Context, name string, value any) error {
	n, fields := len(name)+len(`"":,`), 1
	switch v := value.(type) {
	case string:
		n += len(v) + 2
	case *string:
		if v != nil {
			n += len(*v) + 2
		}
	case []string:
		for _, s := range v {
			n += len(s) + 3
		}
	default:
		n += otherBytes
		if list := reflect.ValueOf(value); list.Kind() == reflect.Slice {
			fields += list.Len()
		}
	}
	if a.fields.Add(int64(fields)) > a.maxFields {
		a.fail(errs.New(document.TooLarge,
			"The answer would have more than %d fields and items of lists. Ask for less at once.",
			a.maxFields))
	}
	if a.bytes.Add(int64(n)) > a.limit {
		a.fail(tooLarge(a.limit))
	}
	return a.beforeField(ctx)
}

// otherBytes is the estimate for a value that is not text: a number, a time, an id, the braces of
// an object.
const otherBytes = 16

func tooLarge(limit int64) *errs.Error {
	return errs.New(document.TooLarge,
		"The answer would be larger than %d bytes. Ask for less at once.", limit)
}

// chargeRead counts messages that were read from the database. They stay in memory until the answer
// is made, also those whose content is not selected.
func (a *answer) chargeRead(messages ...*model.Message) error {
	n := 0
	for _, m := range messages {
		if m != nil {
			n += len(m.Content)
		}
	}
	if limit := readFactor * a.limit; a.read.Add(int64(n)) > limit {
		a.fail(errs.New(document.TooLarge,
			"The messages that would be read for the answer are larger than %d bytes. "+
				"Ask for less at once.", limit))
		return a.fault.Load()
	}
	return nil
}

// fieldRan records a field of a mutation.
func (a *answer) fieldRan(name string) {
	a.ranMu.Lock()
	defer a.ranMu.Unlock()
	a.ran = append(a.ran, name)
}

// finish returns the response, or the one that stands for it if there is a fault.
func (a *answer) finish(ctx context.Context, response *graphql.Response) *graphql.Response {
	if a.fault.Load() == nil && response != nil &&
		int64(len(response.Data)+bytesOf(response.Errors)) > a.limit {
		a.fail(tooLarge(a.limit))
	}
	if fault := a.fault.Load(); fault != nil {
		return a.faultResponse(ctx, fault)
	}
	if response != nil && a.errors.left > 0 {
		response.Errors = append(response.Errors, &gqlerror.Error{
			Message:    strconv.Itoa(a.errors.left) + " more errors are left out.",
			Extensions: withCode(string(codeOfLast(response.Errors)), nil),
		})
	}
	return response
}

func codeOfLast(list gqlerror.List) errs.Code {
	if len(list) > 0 {
		if code, ok := list[len(list)-1].Extensions["code"].(string); ok {
			return errs.Code(code)
		}
	}
	return errs.Internal
}

// faultResponse has no data, because nothing of the request was done. Of a mutation that has
// changed something the data is null, and the message names what has run: its client must not take
// it for undone.
func (a *answer) faultResponse(ctx context.Context, fault *errs.Error) *graphql.Response {
	message, extra := fault.Message, map[string]any(nil)
	if fault.RetryAfter > 0 {
		extra = map[string]any{"retryAfterMs": fault.RetryAfter.Milliseconds()}
	}
	response := &graphql.Response{}
	if graphql.GetOperationContext(ctx).Operation.Operation == ast.Mutation && len(a.ran) > 0 {
		message = "What the mutation changed is stored, but " + lowerFirst(message) +
			" These of its fields ran: " + strings.Join(a.ran, ", ") + "."
		response.Data = json.RawMessage("null")
	}
	response.Errors = gqlerror.List{{
		Message: message, Extensions: withCode(string(fault.Code), extra),
	}}
	return response
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// bytesOf estimates the size of errors in an answer.
func bytesOf(list gqlerror.List) (n int) {
	for _, e := range list {
		n += len(e.Message)
		for _, part := range e.Path {
			if name, ok := part.(ast.PathName); ok {
				n += len(name)
			}
		}
	}
	return n
}
