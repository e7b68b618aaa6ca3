package graph

import (
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/99designs/gqlgen/graphql"

	"parley/errs"
	"parley/model"
)

const timeLayout = "2006-01-02T15:04:05.000000Z"

// MarshalTime writes a Time in UTC with microseconds.
func MarshalTime(t time.Time) graphql.Marshaler {
	return graphql.WriterFunc(func(w io.Writer) {
		_, _ = io.WriteString(w, strconv.Quote(t.UTC().Format(timeLayout)))
	})
}

// UnmarshalTime reads a Time of any offset and precision (RFC 3339). It is in the years 1 to 9999
// of UTC, which both databases can store. The error is BAD_USER_INPUT.
func UnmarshalTime(v any) (time.Time, error) {
	s, ok := v.(string)
	var t time.Time
	if !ok || t.UnmarshalText([]byte(s)) != nil {
		return time.Time{}, errs.New(errs.BadUserInput,
			"A time is written as in RFC 3339, like 2026-11-22T10:15:30Z.")
	}
	t = t.UTC().Truncate(time.Microsecond)
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, errs.New(errs.BadUserInput,
			"A time is in one of the years 1 to 9999, in UTC.")
	}
	return t, nil
}

// scalars are the checks of custom scalars that package document runs before an operation.
func scalars() map[string]func(v any) error {
	return map[string]func(v any) error{"Time": func(v any) error {
		_, err := UnmarshalTime(v)
		return err
	}}
}

// idText is a pointer to a typed id.
type idText[T any] interface {
	*T
	UnmarshalText(b []byte) error
}

// parseID reads an argument of type ID. The error is BAD_USER_INPUT and names the argument.
func parseID[T any, P idText[T]](argument, s string) (T, error) {
	parsed, err := model.ParseID[T, P](s)
	if e, ok := errors.AsType[*errs.Error](err); ok {
		err = errs.New(e.Code, "%s: %s", argument, e.Message)
	}
	return parsed, err
}

// parseIDs reads the texts that are ids of one type, and skips the others.
func parseIDs[T any, P idText[T]](list []string) (ids []T) {
	for _, s := range list {
		if id, err := model.ParseID[T, P](s); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// deref returns the zero value of an argument that was not given.
func deref[T any](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}

// int64Ptr converts an optional Int.
func int64Ptr(p *int) *int64 {
	if p == nil {
		return nil
	}
	return new(int64(*p))
}
