package model

import (
	"bytes"
	"database/sql/driver"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"

	"parley/errs"
)

// Ids are types, so that two of them cannot change places. Outside the database they are written as
// TypeIDs (https://github.com/jetify-com/typeid/tree/main/spec): a prefix for the type, an
// underscore, and the UUIDv7 in 26 characters of Crockford's base32. In the database they are
// UUIDs.
type (
	UserID         uuid.UUID
	SessionID      uuid.UUID
	ConversationID uuid.UUID
	MessageID      uuid.UUID
)

// NodeID names a running server in the database. No client sees it, so it has no prefix.
type NodeID uuid.UUID

// MemberID names one person's place in one conversation. It is made of the ids of both, so it is
// stored nowhere.
type MemberID struct {
	Conversation ConversationID
	User         UserID
}

const (
	userPrefix         = "user"
	sessionPrefix      = "session"
	conversationPrefix = "conv"
	messagePrefix      = "msg"
	memberPrefix       = "member"
)

// kinds says in an error which kind of id was given or expected.
var kinds = map[string]string{ //nolint:gochecknoglobals // a constant table
	userPrefix:         "a user",
	sessionPrefix:      "a session",
	conversationPrefix: "a conversation",
	messagePrefix:      "a message",
	memberPrefix:       "a member",
}

func NewUserID() UserID                 { return UserID(newV7()) }
func NewSessionID() SessionID           { return SessionID(newV7()) }
func NewConversationID() ConversationID { return ConversationID(newV7()) }
func NewMessageID() MessageID           { return MessageID(newV7()) }
func NewNodeID() NodeID                 { return NodeID(newV7()) }

// NewAuditID is for the log of the operator, which no client sees.
func NewAuditID() uuid.UUID { return newV7() }

// newV7 panics only when the system has no randomness, and then nothing can go on.
func newV7() uuid.UUID { return uuid.Must(uuid.NewV7()) }

func (id UserID) String() string         { return format(userPrefix, uuid.UUID(id)) }
func (id SessionID) String() string      { return format(sessionPrefix, uuid.UUID(id)) }
func (id ConversationID) String() string { return format(conversationPrefix, uuid.UUID(id)) }
func (id MessageID) String() string      { return format(messagePrefix, uuid.UUID(id)) }

func (id MemberID) String() string {
	return memberPrefix + "_" + suffix(uuid.UUID(id.Conversation)) + suffix(uuid.UUID(id.User))
}

func (id UserID) MarshalText() ([]byte, error)         { return []byte(id.String()), nil }
func (id SessionID) MarshalText() ([]byte, error)      { return []byte(id.String()), nil }
func (id ConversationID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }
func (id MessageID) MarshalText() ([]byte, error)      { return []byte(id.String()), nil }

func (id *UserID) UnmarshalText(b []byte) error {
	return parseInto((*uuid.UUID)(id), userPrefix, string(b))
}

func (id *SessionID) UnmarshalText(b []byte) error {
	return parseInto((*uuid.UUID)(id), sessionPrefix, string(b))
}

func (id *ConversationID) UnmarshalText(b []byte) error {
	return parseInto((*uuid.UUID)(id), conversationPrefix, string(b))
}

func (id *MessageID) UnmarshalText(b []byte) error {
	return parseInto((*uuid.UUID)(id), messagePrefix, string(b))
}

func (id *MemberID) UnmarshalText(b []byte) error {
	digits, err := cutPrefix(memberPrefix, string(b))
	if err != nil {
		return err
	}
	if len(digits) != 2*suffixLen {
		return notAnID(memberPrefix, string(b))
	}
	c, err1 := parseSuffix(digits[:suffixLen])
	u, err2 := parseSuffix(digits[suffixLen:])
	if err1 != nil || err2 != nil {
		return notAnID(memberPrefix, string(b))
	}
	id.Conversation, id.User = ConversationID(c), UserID(u)
	return nil
}

func (id UserID) MarshalGQL(w io.Writer)         { quote(w, id.String()) }
func (id SessionID) MarshalGQL(w io.Writer)      { quote(w, id.String()) }
func (id ConversationID) MarshalGQL(w io.Writer) { quote(w, id.String()) }
func (id MessageID) MarshalGQL(w io.Writer)      { quote(w, id.String()) }
func (id MemberID) MarshalGQL(w io.Writer)       { quote(w, id.String()) }

func (id *UserID) UnmarshalGQL(v any) error         { return unmarshalGQL(id, v) }
func (id *SessionID) UnmarshalGQL(v any) error      { return unmarshalGQL(id, v) }
func (id *ConversationID) UnmarshalGQL(v any) error { return unmarshalGQL(id, v) }
func (id *MessageID) UnmarshalGQL(v any) error      { return unmarshalGQL(id, v) }
func (id *MemberID) UnmarshalGQL(v any) error       { return unmarshalGQL(id, v) }

func (id UserID) Value() (driver.Value, error)         { return uuid.UUID(id).String(), nil }
func (id SessionID) Value() (driver.Value, error)      { return uuid.UUID(id).String(), nil }
func (id ConversationID) Value() (driver.Value, error) { return uuid.UUID(id).String(), nil }
func (id MessageID) Value() (driver.Value, error)      { return uuid.UUID(id).String(), nil }
func (id NodeID) Value() (driver.Value, error)         { return uuid.UUID(id).String(), nil }

func (id *UserID) Scan(v any) error         { return (*uuid.UUID)(id).Scan(v) }
func (id *SessionID) Scan(v any) error      { return (*uuid.UUID)(id).Scan(v) }
func (id *ConversationID) Scan(v any) error { return (*uuid.UUID)(id).Scan(v) }
func (id *MessageID) Scan(v any) error      { return (*uuid.UUID)(id).Scan(v) }
func (id *NodeID) Scan(v any) error         { return (*uuid.UUID)(id).Scan(v) }

// ParseID reads an id of the kind that T stands for. The error is BAD_USER_INPUT and says which
// kind was expected.
func ParseID[T any, P interface {
	*T
	UnmarshalText(b []byte) error
}](s string) (id T, err error) {
	err = P(&id).UnmarshalText([]byte(s))
	return id, err
}

// suffixLen is the length of a UUID in base32: 128 bits, led by two zero bits, five at a time.
const suffixLen = 26

// alphabet is Crockford's base32 in lower case, as the TypeID spec has it: no i, l, o, u.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

var crockford = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding) //nolint:gochecknoglobals // a constant

func format(prefix string, id uuid.UUID) string { return prefix + "_" + suffix(id) }

// suffix encodes 130 bits, the two highest of them zero. encoding/base32 fills up at the low end,
// so the UUID is shifted to stand at the end of 20 bytes, whose 32 digits then begin with six zeros
// too many.
func suffix(id uuid.UUID) string {
	var padded [20]byte
	copy(padded[4:], id[:])
	return crockford.EncodeToString(padded[:])[6:]
}

func parseSuffix(s string) (id uuid.UUID, err error) {
	if len(s) != suffixLen || s[0] > '7' {
		return id, errors.New("not 128 bits")
	}
	raw, err := crockford.DecodeString("000000" + s)
	if err != nil {
		return id, err
	}
	copy(id[:], raw[4:])
	return id, nil
}

func parseInto(id *uuid.UUID, prefix, s string) error {
	digits, err := cutPrefix(prefix, s)
	if err != nil {
		return err
	}
	parsed, err := parseSuffix(digits)
	if err != nil {
		return notAnID(prefix, s)
	}
	*id = parsed
	return nil
}

// cutPrefix tells an id of another type, which names itself, from what is no id at all.
func cutPrefix(prefix, s string) (string, error) {
	got, digits, ok := strings.Cut(s, "_")
	if !ok {
		return "", notAnID(prefix, s)
	}
	if got != prefix {
		if kind, known := kinds[got]; known {
			return "", errs.New(errs.BadUserInput, "Expected %s id (%s_…), got %s id.", kinds[prefix], prefix, kind)
		}
		return "", notAnID(prefix, s)
	}
	return digits, nil
}

func notAnID(prefix, s string) error {
	return errs.New(errs.BadUserInput, "Expected %s id (%s_…), got %s.", kinds[prefix], prefix, errs.Quote(s))
}

func unmarshalGQL(id interface{ UnmarshalText(b []byte) error }, v any) error {
	s, ok := v.(string)
	if !ok {
		return errs.New(errs.BadUserInput, "An id is a string.")
	}
	return id.UnmarshalText([]byte(s))
}

// quote writes a JSON string that needs no escaping, as no id does.
func quote(w io.Writer, s string) { _, _ = fmt.Fprintf(w, `"%s"`, s) }

// CompareIDs orders ids as the databases do: by their bytes.
func CompareIDs[T ~[16]byte](a, b T) int { return bytes.Compare(a[:], b[:]) }
