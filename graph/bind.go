package graph

import (
	"errors"
	"io"
	"math"
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

// MarshalString writes a text.
func MarshalString(s string) graphql.Marshaler { return graphql.MarshalString(s) }

// UnmarshalString takes only what is a text already, as the GraphQL specification has it (section 3.5.3): gqlgen's own
// would make "5" of the number 5.
func UnmarshalString(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", errs.New(errs.BadUserInput, "Expected a text, got %v.", v)
	}
	return s, nil
}

// MarshalInt writes a number.
func MarshalInt(n int) graphql.Marshaler { return graphql.MarshalInt(n) }

// UnmarshalInt takes an integer of 32 bits, which is what Int is (GraphQL, section 3.5.1): gqlgen's own takes 64, and texts.
func UnmarshalInt(v any) (int, error) {
	n, ok := toInt(v)
	if !ok || int64(n) != int64(int32(n)) {
		return 0, errs.New(errs.BadUserInput, "Expected an integer from %d to %d, got %v.", math.MinInt32, math.MaxInt32, v)
	}
	return n, nil
}

// MarshalInt64 writes a number as it is. A seq beyond 32 bits, which takes two thousand million events in one conversation, would
// be no Int any more; a client that reads JSON numbers has it right all the same.
func MarshalInt64(n int64) graphql.Marshaler { return graphql.MarshalInt64(n) }

// UnmarshalInt64 is UnmarshalInt for fields of another type.
func UnmarshalInt64(v any) (int64, error) {
	n, err := UnmarshalInt(v)
	return int64(n), err
}

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

// UnmarshalTime reads an instant of any offset and precision, RFC 3339.
func UnmarshalTime(v any) (time.Time, error) {
	s, ok := v.(string)
	if !ok {
		return time.Time{}, errs.New(errs.BadUserInput, "A time is a string, got %v.", v)
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, errs.Wrap(err, errs.BadUserInput, "A time is written as in RFC 3339, like 2026-11-22T10:15:30Z, not %q.", s)
	}
	return t.UTC().Truncate(time.Microsecond), nil
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

func toInt(v any) (int, bool) {
	switch n := v.(type) {
	case int64:
		return int(n), true
	case int:
		return n, true
	case interface{ Int64() (int64, error) }: // json.Number
		i, err := n.Int64()
		return int(i), err == nil
	}
	return 0, false
}
