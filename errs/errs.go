// Package errs has the error type that all packages share: a code for programs, a message for
// people and, if a person can correct the mistake, its place in the input.
//
// An error is made where its reason is known, and package graph translates it for the API. An error
// of any other type is internal: it is logged, and clients see an id.
package errs

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code is the kind of an error, as in the API.
type Code string

// Codes of requests that fail as a whole: extensions.code of a GraphQL error.
const (
	Unauthenticated Code = "UNAUTHENTICATED"
	Forbidden       Code = "FORBIDDEN"
	NotFound        Code = "NOT_FOUND"
	BadUserInput    Code = "BAD_USER_INPUT"
	RateLimited     Code = "RATE_LIMITED"
	HistoryChanged  Code = "HISTORY_CHANGED"
	Unavailable     Code = "UNAVAILABLE"
	Internal        Code = "INTERNAL_SERVER_ERROR"
)

// Codes of mistakes that a person can correct: UserErrorCode in the schema. NotFound is one of them
// too.
const (
	Required           Code = "REQUIRED"
	TooShort           Code = "TOO_SHORT"
	TooLong            Code = "TOO_LONG"
	Invalid            Code = "INVALID"
	Taken              Code = "TAKEN"
	Conflict           Code = "CONFLICT"
	InvalidCredentials Code = "INVALID_CREDENTIALS"
	TokenExpired       Code = "TOKEN_EXPIRED"
	LimitReached       Code = "LIMIT_REACHED"
	OwnerRequired      Code = "OWNER_REQUIRED"
	AlreadyMember      Code = "ALREADY_MEMBER"
)

// Error is a failure whose reason is known.
type Error struct {
	Code    Code
	Message string // one sentence in English, for the person who made the request
	// Path is the place of the mistake in the input, outermost first: "members", "1", "userId". If
	// it is not nil, even if it is empty, the person can correct the mistake.
	Path []string
	// RetryAfter is when to try again, with RateLimited and Unavailable; 0 if that is unknown.
	RetryAfter time.Duration
	// Cursor is where the client can begin again, with HistoryChanged.
	Cursor string
	cause  error
}

// New returns an error of the request as a whole.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns an error of the request as a whole, with its cause for the log.
func Wrap(cause error, code Code, format string, args ...any) *Error {
	e := New(code, format, args...)
	e.cause = cause
	return e
}

// Input returns an error that the person can correct. The path has dots between its parts, and list
// positions are parts: "members.1.userId".
func Input(code Code, path, format string, args ...any) *Error {
	e := New(code, format, args...)
	e.Path = strings.Split(path, ".")
	return e
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Code))
	if e.Path != nil {
		b.WriteString(" at ")
		b.WriteString(strings.Join(e.Path, "."))
	}
	b.WriteString(": ")
	b.WriteString(e.Message)
	if e.cause != nil {
		b.WriteString(": ")
		b.WriteString(e.cause.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.cause }

// List has several mistakes of one input. The person can correct all of them.
type List []*Error

// Add appends a mistake. Its arguments are those of Input.
func (l *List) Add(code Code, path, format string, args ...any) {
	*l = append(*l, Input(code, path, format, args...))
}

// Err returns the list as an error, and nil if it is empty.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return l
}

func (l List) Error() string {
	parts := make([]string, len(l))
	for i, e := range l {
		parts[i] = e.Error()
	}
	return strings.Join(parts, "; ")
}

// Correctable returns the mistakes in err that a person can correct, and nil if err is of another
// kind.
func Correctable(err error) List {
	if l, ok := errors.AsType[List](err); ok {
		return l
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Path != nil {
		return List{e}
	}
	return nil
}

// Is reports whether err, or what it wraps, is an Error of this code.
func Is(err error, code Code) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}
