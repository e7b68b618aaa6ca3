package graph

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/errs"
	"parley/ratelimit"
	"parley/store"
)

// userErrors splits the error of a mutation: user errors go into its payload, with their path in
// the input, and any other error is returned.
func userErrors(err error) ([]*UserError, error) {
	list := errs.Correctable(err)
	if list == nil {
		return []*UserError{}, err
	}
	found := make([]*UserError, len(list))
	for i, e := range list {
		path := append([]string{"input"}, e.Path...)
		found[i] = &UserError{Code: e.Code, Message: e.Message, Path: path}
	}
	return found, nil
}

// presenter is the one place where an error takes the form that clients see.
type presenter struct{ log *slog.Logger }

// presentField is present for the errors of fields. It returns nil if the answer has no room for
// the error.
func (p presenter) presentField(ctx context.Context, err error) *gqlerror.Error {
	a := answerOf(ctx)
	if a != nil && a.fault.Load() != nil {
		return nil //nolint:nilerr // the fault replaces the answer
	}
	shown := p.present(ctx, err)
	if a != nil && !a.errors.admit() {
		return nil
	}
	return shown
}

// present returns an error as clients see it, with its path, location and code.
func (p presenter) present(ctx context.Context, err error) *gqlerror.Error {
	var shown *gqlerror.Error
	if !errors.As(err, &shown) {
		shown = &gqlerror.Error{Path: graphql.GetPath(ctx)}
	}
	code, message, extra := p.explain(ctx, err, shown)
	path, argument := splitPath(ctx, shown.Path)
	if argument != "" && code == string(errs.BadUserInput) {
		message = argument + ": " + message
	}
	locations := shown.Locations
	if locations == nil {
		locations = fieldLocation(ctx)
	}
	return &gqlerror.Error{
		Message: errs.Clip(message, maxErrorMessage), Path: path, Locations: locations,
		Extensions: withCode(code, extra),
	}
}

// splitPath separates the path of a field from the place in its argument, which gqlgen appends to
// it. The path of an error leads through the answer only (GraphQL, section 7.1.2).
func splitPath(ctx context.Context, path ast.Path) (field ast.Path, argument string) {
	of := graphql.GetFieldContext(ctx)
	if of == nil {
		return path, ""
	}
	own := of.Path()
	if len(path) <= len(own) || !slices.Equal(path[:len(own)], own) {
		return path, ""
	}
	return own, path[len(own):].String()
}

// fieldLocation returns the place in the document of the field of ctx.
func fieldLocation(ctx context.Context) []gqlerror.Location {
	for field := graphql.GetFieldContext(ctx); field != nil; field = field.Parent {
		if field.Field.Field != nil && field.Field.Position != nil {
			at := field.Field.Position
			return []gqlerror.Location{{Line: at.Line, Column: at.Column}}
		}
	}
	return nil
}

func withCode(code string, extra map[string]any) map[string]any {
	extensions := map[string]any{"code": code}
	maps.Copy(extensions, extra)
	return extensions
}

// explain returns what a client sees of an error, and logs what it does not.
func (p presenter) explain(
	ctx context.Context, err error, shown *gqlerror.Error,
) (code, message string, extra map[string]any) {
	known, ok := errors.AsType[*errs.Error](store.Error(err))
	if ok && known.Code != errs.Internal {
		if known.Code == errs.Unavailable {
			p.report(ctx, slog.LevelWarn, "a request could not be served", "", err, shown)
		}
		if known.RetryAfter > 0 {
			extra = map[string]any{"retryAfterMs": known.RetryAfter.Milliseconds()}
			if known.Code == errs.RateLimited {
				ratelimit.ReportRefusal(ctx, known.RetryAfter)
			}
		}
		if known.Code == errs.HistoryChanged {
			extra = map[string]any{"cursor": known.Cursor}
		}
		return string(known.Code), known.Message, extra
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return string(errs.Unavailable), "The request was cut short. Try again.", nil
	}
	// Errors of package document have a code, and so has what was presented before.
	if code, ok := shown.Extensions["code"].(string); ok && shown.Err == nil {
		return code, shown.Message, shown.Extensions
	}
	id := p.errorID(ctx)
	p.report(ctx, slog.LevelError, "internal error", id, err, shown)
	message = "Something went wrong on our side. The operator finds it in the log by this id: " +
		id + "."
	return string(errs.Internal), message, map[string]any{"errorId": id}
}

// errorID returns the id of the answer, or a new one outside an answer.
func (p presenter) errorID(ctx context.Context) string {
	if a := answerOf(ctx); a != nil {
		return a.errors.errorID()
	}
	return newErrorID()
}

// report logs an error: in an answer at its end, together with others of its kind.
func (p presenter) report(
	ctx context.Context, level slog.Level, message, id string, err error, shown *gqlerror.Error,
) {
	if shown.Err != nil {
		err = shown.Err // without the path, which is logged by itself
	}
	if a := answerOf(ctx); a != nil {
		a.errors.report(level, message, err, shown.Path)
		return
	}
	attributes := []any{
		"error", errs.Clip(err.Error(), maxErrorLogged),
		"path", errs.Clip(shown.Path.String(), maxPathLogged),
	}
	if id != "" {
		attributes = append([]any{"error_id", id}, attributes...)
	}
	p.log.Log(ctx, level, message, attributes...) //nolint:sloglint // one of two constants
}

func newErrorID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails, see its documentation
	return hex.EncodeToString(id[:])
}

// recovered returns the internal error for a panic, with its stack for the log.
func recovered(_ context.Context, reason any) error {
	return fmt.Errorf("panic: %v\n%s", reason, debug.Stack())
}
