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

// Node is anything that `node` may find: a pointer to one of model's structs.
type Node any

// Email is for the person's own eyes only, and so a field of Viewer and not of User.
func (v *Viewer) Email() string { return v.User.Email }

// EmailVerified reports whether the person has shown that the address is theirs.
func (v *Viewer) EmailVerified() bool { return v.User.EmailVerifiedAt != nil }

// Settings is what the person lets others know.
func (v *Viewer) Settings() *Settings { return settingsOf(v.User) }

func settingsOf(u *model.User) *Settings {
	return &Settings{ShowPresence: u.ShowPresence, SendReadReceipts: u.SendReadReceipts}
}

const timeLayout = "2006-01-02T15:04:05.000000Z"

// MarshalTime writes an instant as the schema promises.
func MarshalTime(t time.Time) graphql.Marshaler {
	return graphql.WriterFunc(func(w io.Writer) {
		_, _ = io.WriteString(w, strconv.Quote(t.UTC().Format(timeLayout)))
	})
}

// UnmarshalTime reads an instant of any offset and precision (RFC 3339), in the years 1 to 9999 of
// UTC, which both databases have.
func UnmarshalTime(v any) (time.Time, error) {
	s, ok := v.(string)
	var t time.Time
	if !ok || t.UnmarshalText([]byte(s)) != nil {
		return time.Time{}, errs.New(errs.BadUserInput, "A time is written as in RFC 3339, like 2026-11-22T10:15:30Z.")
	}
	t = t.UTC().Truncate(time.Microsecond)
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, errs.New(errs.BadUserInput, "A time is in one of the years 1 to 9999, in UTC.")
	}
	return t, nil
}

// scalars checks the values of scalars that are not built in before anything runs.
func scalars() map[string]func(v any) error {
	return map[string]func(v any) error{"Time": func(v any) error {
		_, err := UnmarshalTime(v)
		return err
	}}
}

// parseID reads an argument of type ID. The error names the argument.
func parseID[T any, P interface {
	*T
	UnmarshalText(b []byte) error
}](argument, s string) (T, error) {
	parsed, err := model.ParseID[T, P](s)
	if e, ok := errors.AsType[*errs.Error](err); ok {
		err = errs.New(e.Code, "%s: %s", argument, e.Message)
	}
	return parsed, err
}

func deref[T any](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}

func int64Ptr(p *int) *int64 {
	if p == nil {
		return nil
	}
	n := int64(*p)
	return &n
}
