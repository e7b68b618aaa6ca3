package graph

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"github.com/vektah/gqlparser/v2/ast"

	"parley/errs"
)

const (
	// maxShown is how many errors an answer has, except one that says how many are left out.
	maxShown = 20
	// maxReports is how many kinds of errors are distinguished in the log for one answer.
	maxReports = 8
	// maxErrorMessage is the length of a message that a client sees, in characters: it may quote
	// what the client has sent.
	maxErrorMessage = 1000
	// maxErrorLogged is the length of an error in the log, in characters: a panic's stack has some
	// thousand.
	maxErrorLogged = 16 << 10
	maxPathLogged  = 500
)

// answerErrors are the errors of one answer. Those of a kind become one line of the log.
type answerErrors struct {
	mu      sync.Mutex // guards what follows
	shown   int        // errors that the client sees
	left    int        // errors that are left out
	id      string     // of the internal errors, see errorID
	reports []*errorReport
}

// errorReport is one line of the log, for all errors of a kind.
type errorReport struct {
	level         slog.Level
	message, kind string
	error, path   string // of the first one
	count         int
}

// admit reports whether the answer has room for one more error, and counts it.
func (e *answerErrors) admit() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.shown == maxShown {
		e.left++
		return false
	}
	e.shown++
	return true
}

// errorID returns the id of the internal errors in the answer. The client sees it, and the operator
// finds it in the log.
func (e *answerErrors) errorID() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.id == "" {
		e.id = newErrorID()
	}
	return e.id
}

// report keeps an error for the log. Its kind is the first line of its text.
func (e *answerErrors) report(level slog.Level, message string, err error, path ast.Path) {
	text := err.Error()
	kind, _, _ := strings.Cut(errs.Clip(text, maxPathLogged), "\n")
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, r := range e.reports {
		if r.message == message && (r.kind == kind || i == maxReports-1) {
			r.count++
			return
		}
	}
	e.reports = append(e.reports, &errorReport{
		level: level, message: message, kind: kind, count: 1,
		error: errs.Clip(text, maxErrorLogged), path: errs.Clip(path.String(), maxPathLogged),
	})
}

// log writes the reports. It is called when the execution has ended.
func (e *answerErrors) log(ctx context.Context, log *slog.Logger) {
	for _, r := range e.reports {
		attributes := []any{"error", r.error, "path", r.path, "count", r.count}
		if r.level == slog.LevelError {
			attributes = append([]any{"error_id", e.id}, attributes...)
		}
		log.Log(ctx, r.level, r.message, attributes...) //nolint:sloglint // one of two constants
	}
}
