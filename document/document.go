// Package document reads GraphQL requests: it parses a document, counts what it holds, validates it, coerces its
// variables, and measures what its answer may cost, all before anything of it runs. It knows the schema's types and
// nothing of resolvers.
//
// # Order
//
// Each step bounds the work of the next. Tokens are counted while parsing. What a document holds is counted before
// it is validated, because validation takes more than linear time. The first errors end validation. The answer is
// measured last, with the variables at hand. Every step but the last two depends on the text alone, so valid
// documents are kept for reuse, up to a number of bytes.
//
// # Concurrency
//
// A Reader may be used by any number of goroutines. Documents are shared: once validated, nothing changes them.
package document

import (
	"cmp"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"

	"parley/errs"
)

// Codes of errors about a document, in extensions.code.
const (
	ParseFailed      errs.Code = "GRAPHQL_PARSE_FAILED"
	ValidationFailed errs.Code = "GRAPHQL_VALIDATION_FAILED"
	TooLarge         errs.Code = "OPERATION_TOO_LARGE"
)

// Limits bound what one request may ask for. The zero value of a field means its default.
type Limits struct {
	Tokens     int // of a document; default 2,500
	Depth      int // of nested fields; default 15
	Aliases    int // in a document; default 30
	Complexity int // fields that the answer may have, pages counted in full; default 20,000

	EventComplexity int // the same of one event of a subscription; default 1,000
}

func (l Limits) withDefaults() Limits {
	l.Tokens = cmp.Or(l.Tokens, 2500)
	l.Depth = cmp.Or(l.Depth, 15)
	l.Aliases = cmp.Or(l.Aliases, 30)
	l.Complexity = cmp.Or(l.Complexity, 20_000)
	l.EventComplexity = cmp.Or(l.EventComplexity, 1000)
	return l
}

// Options are the settings of a Reader; the zero value serves.
type Options struct {
	Limits        Limits
	MaxPage       int           // items that a page of a connection has at most; default 100
	MaxAnswer     int           // bytes of an answer; 0 means any number
	Texts         map[Place]int // bytes of the longest value, of fields with long texts
	Introspection bool          // whether the schema may be asked for; error messages suggest names only then
}

// Reader reads requests to one schema.
type Reader struct {
	schema *ast.Schema
	opts   Options
	kept   *cache
}

// NewReader makes a reader of requests to the schema.
func NewReader(schema *ast.Schema, opts Options) *Reader {
	opts.Limits = opts.Limits.withDefaults()
	opts.MaxPage = cmp.Or(opts.MaxPage, 100)
	return &Reader{schema: schema, opts: opts, kept: newCache(keptBytes)}
}

// Request is what a client asks for.
type Request struct {
	Document  *ast.QueryDocument // nil if the document is not valid
	Operation *ast.OperationDefinition
	Variables map[string]any // coerced
	Cost      Cost
}

// Read makes a request of a document, of the name of one of its operations, and of values for its variables.
// Errors have a code: ParseFailed, ValidationFailed, TooLarge, or BAD_USER_INPUT if a variable's value is wrong.
func (r *Reader) Read(text, operationName string, variables map[string]any) (*Request, gqlerror.List) {
	request := new(Request)
	doc, list := r.Validate(text)
	if list != nil {
		return request, list
	}
	request.Document = doc
	var err *gqlerror.Error
	if request.Operation, err = choose(doc, operationName); err != nil {
		return request, gqlerror.List{err}
	}
	if request.Variables, list = r.coerce(request.Operation, variables); list != nil {
		return request, list
	}
	if err := r.measure(request); err != nil {
		return request, gqlerror.List{err}
	}
	return request, nil
}

// Kept reports whether a document is kept for reuse, so that reading it costs little.
func (r *Reader) Kept(text string) bool { return r.kept.get(text) != nil }

// Validate parses and validates a document, or returns the one that it kept.
func (r *Reader) Validate(text string) (*ast.QueryDocument, gqlerror.List) {
	if doc := r.kept.get(text); doc != nil {
		return doc, nil
	}
	doc, list := r.parse(text)
	if list != nil {
		return nil, list
	}
	if err := r.count(doc); err != nil {
		return nil, gqlerror.List{err}
	}
	if list := r.validate(doc); list != nil {
		return nil, list
	}
	r.kept.add(text, doc)
	return doc, nil
}

func (r *Reader) parse(text string) (*ast.QueryDocument, gqlerror.List) {
	if hasLongName(text, r.opts.Limits.Tokens) {
		return nil, gqlerror.List{coded(TooLarge, "The document has a name of more than %d characters.", maxName)}
	}
	doc, err := parser.ParseQueryWithTokenLimit(&ast.Source{Input: text}, r.opts.Limits.Tokens)
	if err != nil {
		wrong, ok := err.(*gqlerror.Error) //nolint:errorlint // the parser's own, never wrapped
		if !ok {
			wrong = gqlerror.Errorf("%s", err)
		}
		return nil, gqlerror.List{withCode(wrong, ParseFailed)}
	}
	if len(doc.Operations) == 0 {
		return nil, gqlerror.List{coded(ValidationFailed, "The document has no operation.")}
	}
	return doc, nil
}

// choose finds the operation to run (GraphQL, section 6.1, GetOperation).
func choose(doc *ast.QueryDocument, name string) (*ast.OperationDefinition, *gqlerror.Error) {
	if name == "" && len(doc.Operations) > 1 {
		return nil, coded(ValidationFailed,
			"The document has %d operations: name the one to run in operationName.", len(doc.Operations))
	}
	op := doc.Operations.ForName(name)
	if op == nil {
		return nil, coded(ValidationFailed, "The document has no operation named %q.", name)
	}
	return op, nil
}

func coded(code errs.Code, format string, args ...any) *gqlerror.Error {
	return withCode(gqlerror.Errorf(format, args...), code)
}

func withCode(err *gqlerror.Error, code errs.Code) *gqlerror.Error {
	err.Err, err.Message = nil, clip(err.Message)
	err.Extensions = map[string]any{"code": string(code)}
	return err
}

// maxMessage is how many bytes of an error message are shown. It may repeat a name as long as the document.
const maxMessage = 400

// clip leaves out the middle of a long message.
func clip(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage/2], "") + " … " + strings.ToValidUTF8(message[len(message)-maxMessage/2:], "")
}
