// Package document reads GraphQL requests: it parses a document, limits its size, validates it,
// coerces its variables, and measures what its answer may cost, all before anything of it runs. It
// knows the types of the schema, but not the resolvers. Section numbers are those of the GraphQL
// specification.
//
// # Order
//
// Each step bounds the work of the next. Tokens and nesting are counted before parsing. Selections
// and aliases are counted before validation, which takes more than linear time. Validation ends
// after the first errors. The cost of the answer is measured last, with the variables. All steps
// except the last two depend only on the text, so valid documents are cached, up to a number of
// bytes.
//
// # Strictness
//
// The parser, its validator and gqlgen accept requests that the specification does not allow: half
// surrogate pairs and numbers that run into names (text.go), Ints beyond 32 bits and objects for
// strings (literals.go), strings for Ints and enum values in another case (variables.go), and
// subscriptions that may have no root field (subscription.go). This package refuses them. A request
// that it returns can be executed without further checks of types.
//
// # Concurrency
//
// A Reader may be used by any number of goroutines. Cached documents are shared, and nothing
// changes them.
package document

import (
	"cmp"
	"errors"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/lexer"
	"github.com/vektah/gqlparser/v2/parser"

	"parley/errs"
)

// Codes of errors about a document, in extensions.code.
const (
	ParseFailed      errs.Code = "GRAPHQL_PARSE_FAILED"
	ValidationFailed errs.Code = "GRAPHQL_VALIDATION_FAILED"
	TooLarge         errs.Code = "OPERATION_TOO_LARGE"
)

// Defaults of Limits.
const (
	DefaultTokens          = 2500
	DefaultDepth           = 15
	DefaultAliases         = 30
	DefaultComplexity      = 12_000
	DefaultEventComplexity = 1000
)

// Limits are the limits of one request. The zero value of a field means its default.
type Limits struct {
	Tokens     int // of a document, comments included
	Depth      int // of nested fields
	Aliases    int // in a document
	Complexity int // fields that the answer may have if all pages are full

	EventComplexity int // Complexity for one event of a subscription
}

func (l Limits) withDefaults() Limits {
	l.Tokens = cmp.Or(l.Tokens, DefaultTokens)
	l.Depth = cmp.Or(l.Depth, DefaultDepth)
	l.Aliases = cmp.Or(l.Aliases, DefaultAliases)
	l.Complexity = cmp.Or(l.Complexity, DefaultComplexity)
	l.EventComplexity = cmp.Or(l.EventComplexity, DefaultEventComplexity)
	return l
}

// Options are the settings of a Reader. The zero value has defaults.
type Options struct {
	Limits    Limits
	MaxPage   int           // items that a page of a connection has at most; default 100
	MaxAnswer int           // bytes of an answer; 0 means no limit
	Texts     map[Place]int // for fields with long texts: the bytes of the longest value
	// Introspection lets clients read the schema, and error messages suggest names of it.
	Introspection bool
	// Scalars are the checks of custom scalars, by type. They get a value decoded from JSON, with
	// numbers as json.Number. The client sees the message of an errs.Error. A scalar without a
	// check accepts every value.
	Scalars map[string]func(v any) error
}

// Reader reads requests to one schema.
type Reader struct {
	schema *ast.Schema
	opts   Options
	cache  *cache
}

// NewReader returns a Reader of requests to the schema.
func NewReader(schema *ast.Schema, opts Options) *Reader {
	opts.Limits = opts.Limits.withDefaults()
	opts.MaxPage = cmp.Or(opts.MaxPage, 100)
	return &Reader{schema: schema, opts: opts, cache: newCache(cacheBytes)}
}

// Limits returns the limits of requests, with defaults.
func (r *Reader) Limits() Limits { return r.opts.Limits }

// Request is a request that can be executed.
type Request struct {
	Document  *ast.QueryDocument // nil if the document is not valid
	Operation *ast.OperationDefinition
	Variables map[string]any // coerced
	Cost      Cost
}

// Read reads a document, chooses one of its operations by name, and coerces its variables. Errors
// have a code: ParseFailed, ValidationFailed, TooLarge, or BAD_USER_INPUT if a variable's value is
// wrong. The Request is never nil; after an error it has the parts that were read before.
func (r *Reader) Read(
	text, operationName string, variables map[string]any,
) (*Request, gqlerror.List) {
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

// Cached reports whether a document is in the cache, so that reading it is cheap.
func (r *Reader) Cached(text string) bool { return r.cache.get(text) != nil }

// Validate parses and validates a document, or returns it from the cache.
func (r *Reader) Validate(text string) (*ast.QueryDocument, gqlerror.List) {
	if doc := r.cache.get(text); doc != nil {
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
	normalizeValues(doc)
	r.cache.add(text, doc)
	return doc, nil
}

func (r *Reader) parse(text string) (*ast.QueryDocument, gqlerror.List) {
	s := scanner{text: text, maxTokens: r.opts.Limits.Tokens}
	if err := s.scan(); err != nil {
		return nil, gqlerror.List{err}
	}
	source := &ast.Source{Input: text}
	// the scanner has checked the limit already
	doc, err := parser.ParseQueryWithTokenLimit(source, r.opts.Limits.Tokens)
	if err != nil {
		return nil, gqlerror.List{parseError(source, err)}
	}
	if len(doc.Operations) == 0 {
		return nil, gqlerror.List{coded(ValidationFailed, "The document has no operation.")}
	}
	for _, f := range doc.Fragments {
		// the parser accepts them, as an older draft did (section 2.8)
		if len(f.VariableDefinition) > 0 {
			err := coded(ParseFailed,
				"A fragment has no variables of its own: it uses those of the operation.")
			return nil, gqlerror.List{at(f.VariableDefinition[0].Position, err)}
		}
	}
	s.fixStrings(doc)
	return doc, nil
}

// parseError returns the parser's error. For an invalid token, it returns the error of the lexer,
// which has the reason.
func parseError(source *ast.Source, err error) *gqlerror.Error {
	wrong, ok := errors.AsType[*gqlerror.Error](err)
	if !ok {
		wrong = gqlerror.Errorf("%s", err)
	}
	if strings.Contains(wrong.Message, lexer.Invalid.String()) {
		for lex := lexer.New(source); ; {
			token, err := lex.ReadToken()
			if invalid, ok := errors.AsType[*gqlerror.Error](err); ok {
				wrong = invalid
			}
			if token.Kind == lexer.Invalid || token.Kind == lexer.EOF {
				break
			}
		}
	}
	return withCode(wrong, ParseFailed)
}

// choose returns the operation to execute (section 6.1, GetOperation).
func choose(doc *ast.QueryDocument, name string) (*ast.OperationDefinition, *gqlerror.Error) {
	if name == "" && len(doc.Operations) > 1 {
		return nil, coded(ValidationFailed,
			"The document has %d operations: name the one to run in operationName.",
			len(doc.Operations))
	}
	op := doc.Operations.ForName(name)
	if op == nil {
		return nil, coded(ValidationFailed, "The document has no operation named %s.",
			errs.Quote(name))
	}
	return op, nil
}

func coded(code errs.Code, format string, args ...any) *gqlerror.Error {
	return withCode(gqlerror.Errorf(format, args...), code)
}

// at adds a location to an error.
func at(position *ast.Position, err *gqlerror.Error) *gqlerror.Error {
	if position != nil {
		err.Locations = append(err.Locations,
			gqlerror.Location{Line: position.Line, Column: position.Column})
	}
	return err
}

func withCode(err *gqlerror.Error, code errs.Code) *gqlerror.Error {
	err.Err, err.Message = nil, errs.ClipMiddle(err.Message, maxMessage)
	err.Extensions = map[string]any{"code": string(code)}
	return err
}

// maxMessage is how many characters of an error message are returned. A message may have the same
// long name in it several times.
const maxMessage = 400
