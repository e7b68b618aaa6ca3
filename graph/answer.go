package graph

import (
	"context"
	"encoding/json"
	"log/slog"
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

// answer is one response while it is being made. It keeps what one request can take within bounds: the bytes of the answer
// are counted while fields resolve, heavy executions take turns, and errors are counted and logged once.
type answer struct {
	limit int64 // in bytes
	stop  context.CancelCauseFunc
	bytes atomic.Int64
	read  atomic.Int64               // bytes of messages that were read for it
	fault atomic.Pointer[errs.Error] // why there is no answer; nil while there may be one

	acquire func(context.Context) (release func(), err error) // nil for what is light
	turn    sync.Once
	release func()

	mu      sync.Mutex // guards what follows
	shown   int        // errors that the client sees
	more    int        // errors beyond those
	errorID string
	reports []*report
	ran     []string // the mutation's fields that have run
}

// report is one line of the log, for all errors of its kind in one answer.
type report struct {
	level         slog.Level
	message, kind string
	error, path   string // of the first one
	count         int
}

const (
	// maxShown is how many errors an answer has, and one more that says how many are missing.
	maxShown = 20
	// maxReports is how many kinds of errors are told apart in the log, for one answer.
	maxReports = 8
	// maxErrorMessage is how much of an error's message a client sees, in characters: it may quote what the client has sent.
	maxErrorMessage = 1000
	// maxErrorLogged is how much of an error is logged, in characters. A panic's stack takes some thousand.
	maxErrorLogged = 16 << 10
	maxPathLogged  = 500
	// readFactor is how much more of messages may be read for an answer than the answer may have: not all that is read is shown.
	readFactor = 4
)

type answerKey struct{}

// answerOf is nil outside a response.
func answerOf(ctx context.Context) *answer {
	a, _ := ctx.Value(answerKey{}).(*answer)
	return a
}

// answers makes them.
type answerer struct {
	limit int64
	turns *executionTurns
	log   *slog.Logger
}

// around bounds each response.
func (b *answerer) around(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
	a := &answer{limit: b.limit}
	item := givenTo(ctx)
	if item != nil {
		item.answer = a
	}
	if item == nil || !item.onFeed { // a feed waits for nobody, and so executes only what is not dear
		a.acquire = b.turns.of(ctx)
	}
	ctx, a.stop = context.WithCancelCause(ctx)
	defer a.stop(nil)
	defer a.logAll(ctx, b.log)
	defer func() {
		if a.release != nil {
			a.release()
		}
	}()
	return a.bounded(ctx, next(context.WithValue(ctx, answerKey{}, a)))
}

// begin is called before each field. It waits until the execution has its turn, if it is heavy.
func (a *answer) begin(ctx context.Context) error {
	if a.acquire != nil {
		a.turn.Do(func() {
			var err error
			if a.release, err = a.acquire(ctx); err != nil {
				a.fail(err)
			}
		})
	}
	if fault := a.fault.Load(); fault != nil {
		return fault
	}
	return nil
}

// fail ends the execution: nothing more is looked up for it.
func (a *answer) fail(err error) {
	fault, ok := err.(*errs.Error) //nolint:errorlint // ours, never wrapped
	if !ok {
		fault = errs.Wrap(err, errs.Unavailable, "The request was cut short. Try again.")
	}
	if a.fault.CompareAndSwap(nil, fault) {
		a.stop(fault)
	}
}

// charge counts what a field adds to the answer: its name, and its value where that is a leaf.
func (a *answer) charge(name string, value any) error {
	n := len(name) + len(`"":,`)
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
	}
	if a.bytes.Add(int64(n)) > a.limit {
		a.fail(tooLarge(a.limit))
		return a.fault.Load()
	}
	return nil
}

// otherBytes stands for the value of a field that is no text: a number, a time, an id, the braces of an object.
const otherBytes = 16

func tooLarge(limit int64) *errs.Error {
	return errs.New(document.TooLarge, "The answer would be larger than %d bytes. Ask for less at once.", limit)
}

// chargeRead counts messages that were read from the database. They are in memory until the answer is made, also those whose
// content is not asked for.
func (a *answer) chargeRead(messages ...*model.Message) error {
	n := 0
	for _, m := range messages {
		if m != nil {
			n += len(m.Content)
		}
	}
	if limit := readFactor * a.limit; a.read.Add(int64(n)) > limit {
		a.fail(errs.New(document.TooLarge, "The messages that would be read for the answer are larger than %d bytes. "+
			"Ask for less at once.", limit))
		return a.fault.Load()
	}
	return nil
}

// ranField notes a field of a mutation that has run.
func (a *answer) ranField(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ran = append(a.ran, name)
}

// admit reports whether the client is shown one more error.
func (a *answer) admit() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shown == maxShown {
		a.more++
		return false
	}
	a.shown++
	return true
}

// bounded is the response, or the error that stands for it if there is none.
func (a *answer) bounded(ctx context.Context, response *graphql.Response) *graphql.Response {
	if a.fault.Load() == nil && response != nil && int64(len(response.Data)+bytesOf(response.Errors)) > a.limit {
		a.fail(tooLarge(a.limit))
	}
	if fault := a.fault.Load(); fault != nil {
		return a.without(ctx, fault)
	}
	if response != nil && a.more > 0 {
		response.Errors = append(response.Errors, &gqlerror.Error{
			Message:    strconv.Itoa(a.more) + " more errors are left out.",
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

// without is a response without an answer. It has no data: nothing of the request was done. A mutation that has changed
// something has null, and says what it was, because its client must not take it for undone.
func (a *answer) without(ctx context.Context, fault *errs.Error) *graphql.Response {
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
	response.Errors = gqlerror.List{{Message: message, Extensions: withCode(string(fault.Code), extra)}}
	return response
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// bytesOf is about what errors take in an answer.
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

// id is that of the internal errors in the answer, by which the operator finds them in the log.
func (a *answer) id() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.errorID == "" {
		a.errorID = newErrorID()
	}
	return a.errorID
}

// report keeps an error for the log.
func (a *answer) report(level slog.Level, message string, err error, path ast.Path) {
	text := err.Error()
	kind, _, _ := strings.Cut(errs.Clip(text, maxPathLogged), "\n")
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, r := range a.reports {
		if r.message == message && (r.kind == kind || i == maxReports-1) {
			r.count++
			return
		}
	}
	a.reports = append(a.reports, &report{
		level: level, message: message, kind: kind,
		error: errs.Clip(text, maxErrorLogged), path: errs.Clip(path.String(), maxPathLogged), count: 1,
	})
}

// logAll writes one line for each kind of error.
func (a *answer) logAll(ctx context.Context, log *slog.Logger) {
	for _, r := range a.reports {
		attributes := []any{"error", r.error, "path", r.path, "count", r.count}
		if r.level == slog.LevelError {
			attributes = append([]any{"error_id", a.errorID}, attributes...)
		}
		log.Log(ctx, r.level, r.message, attributes...) //nolint:sloglint // one of two constants
	}
}
