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

	"parley/chat"
	"parley/document"
	"parley/errs"
	"parley/model"
	"parley/store"
)

// answer is one response while it is being made. It keeps what one request can take within bounds:
// the bytes of the answer are counted while fields resolve, heavy executions take turns, and errors
// are counted and logged once.
type answer struct {
	limit int64 // in bytes
	stop  context.CancelCauseFunc
	bytes atomic.Int64
	read  atomic.Int64               // bytes of messages that were read for it
	fault atomic.Pointer[errs.Error] // why there is no answer; nil while there may be one

	maxFields int64
	fields    atomic.Int64 // and items of lists
	nextStage atomic.Int64 // of fields: from then on another turn is needed
	stagesMu  sync.Mutex   // guards stages and releases; held while a turn is waited for
	stages    []stage      // the turns that may still be needed
	releases  []func()

	searching sync.Mutex // held by the one field that searches

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
	// maxErrorMessage is how much of an error's message a client sees, in characters: it may quote
	// what the client has sent.
	maxErrorMessage = 1000
	// maxErrorLogged is how much of an error is logged, in characters. A panic's stack takes some
	// thousand.
	maxErrorLogged = 16 << 10
	maxPathLogged  = 500
	// readFactor is how much more of messages may be read for an answer than the answer may have:
	// not all that is read is shown.
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
	limit     int64
	maxFields int64
	turns     *executionTurns
	log       *slog.Logger
}

// around bounds each response.
func (b *answerer) around(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
	a := &answer{limit: b.limit, maxFields: b.maxFields}
	item := givenTo(ctx)
	if item != nil {
		item.answer = a
	}
	a.nextStage.Store(math.MaxInt64)
	// a feed waits for nobody, and so executes only what is not dear
	if item == nil || !item.onFeed {
		a.stages = b.turns.stagesOf(ctx)
		a.nextStage.Store(a.stages[0].from)
	}
	ctx, a.stop = context.WithCancelCause(ctx)
	defer a.stop(nil)
	defer a.logAll(ctx, b.log)
	defer func() {
		for _, release := range a.releases {
			release()
		}
	}()
	return a.bounded(ctx, next(context.WithValue(ctx, answerKey{}, a)))
}

// begin is called before each field. It waits until the execution has its turn, if it needs one.
func (a *answer) begin(ctx context.Context) error {
	a.takeTurns(ctx)
	if fault := a.fault.Load(); fault != nil {
		return fault
	}
	return nil
}

// takeTurns waits for the turns that the execution needs by now. What it was reckoned to hold may
// be too little: lists without pages are as long as they are.
func (a *answer) takeTurns(ctx context.Context) {
	if a.fields.Load() < a.nextStage.Load() {
		return
	}
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

// charge counts what a field adds to the answer: its name, and its value if that is a leaf, or the
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
		a.fail(errs.New(document.TooLarge, "The answer would have more than %d fields and items of lists. "+
			"Ask for less at once.", a.maxFields))
	}
	if a.bytes.Add(int64(n)) > a.limit {
		a.fail(tooLarge(a.limit))
	}
	return a.begin(ctx)
}

// otherBytes stands for the value of a field that is no text: a number, a time, an id, the braces
// of an object.
const otherBytes = 16

func tooLarge(limit int64) *errs.Error {
	return errs.New(document.TooLarge, "The answer would be larger than %d bytes. Ask for less at once.", limit)
}

// chargeRead counts messages that were read from the database. They are in memory until the answer
// is made, also those whose content is not asked for.
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

// searchOnce lets one field of an answer search at a time, and charges what it has found: the
// contents of all that aliases of a search find would be in memory together.
func (r *Resolver) searchOnce(
	ctx context.Context, who model.Actor, search chat.Search, page store.PageArgs,
) (found store.Page[*chat.Found], err error) {
	a := answerOf(ctx)
	a.searching.Lock()
	defer a.searching.Unlock()
	if fault := a.fault.Load(); fault != nil {
		return found, fault
	}
	if found, err = r.Chat.SearchMessages(ctx, who, search, page); err != nil {
		return found, err
	}
	for _, f := range found.Items {
		if err := a.chargeRead(f.Message); err != nil {
			return found, err
		}
	}
	return found, nil
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

// without is a response without an answer. It has no data: nothing of the request was done. A
// mutation that has changed something has null, and says what it was, because its client must not
// take it for undone.
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
