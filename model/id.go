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

// Each kind of id is a type, so that two ids cannot be mixed up. Outside the database they are
// TypeIDs (https://github.com/jetify-com/typeid/tree/main/spec): a prefix for the type, an
// underscore, and the UUIDv7 in 26 characters of Crockford's base32. In the database they are
// UUIDs.
type (
	UserID         uuid.UUID
	SessionID      uuid.UUID
	ConversationID uuid.UUID
	MessageID      uuid.UUID
)

// NodeID is the id of a running server. Clients do not see it, so it has no prefix.
type NodeID uuid.UUID

// MemberID is the id of a membership. It consists of the ids of the conversation and of the user,
// and is not stored.
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

// kinds has the names of the kinds for error messages.
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

// NewAuditID returns the id of an AuditEntry, which clients do not see.
func NewAuditID() uuid.UUID { return newV7() }

// newV7 panics if the system has no randomness. Nothing works without it.
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

// ParseID reads an id of the type T. The error is BAD_USER_INPUT and names the expected kind.
func ParseID[T any, P interface {
	*T
	UnmarshalText(b []byte) error
}](s string) (id T, err error) {
	err = P(&id).UnmarshalText([]byte(s))
	return id, err
}

// suffixLen is the length of a UUID in base32: two zero bits and 128 bits, five bits a character.
const suffixLen = 26

// alphabet is Crockford's base32 in lower case, as in the TypeID spec: without i, l, o and u.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

//nolint:gochecknoglobals // a constant
var crockford = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

func format(prefix string, id uuid.UUID) string { return prefix + "_" + suffix(id) }

// suffix encodes 130 bits, of which the two highest are zero. encoding/base32 pads at the low end,
// so the UUID is put at the end of 20 bytes, and the first six of their 32 digits, all zero, are
// cut off.
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

// cutPrefix returns the part behind the prefix. Its errors distinguish ids of another kind from
// text that is not an id.
func cutPrefix(prefix, s string) (string, error) {
	got, digits, ok := strings.Cut(s, "_")
	if !ok {
		return "", notAnID(prefix, s)
	}
	if got != prefix {
		if kind, known := kinds[got]; known {
			return "", errs.New(errs.BadUserInput, "Expected %s id (%s_…), got %s id.",
				kinds[prefix], prefix, kind)
		}
		return "", notAnID(prefix, s)
	}
	return digits, nil
}

func notAnID(prefix, s string) error {
	return errs.New(errs.BadUserInput, "Expected %s id (%s_…), got %s.", kinds[prefix], prefix,
		errs.Quote(s))
}

func unmarshalGQL(id interface{ UnmarshalText(b []byte) error }, v any) error {
	s, ok := v.(string)
	if !ok {
		return errs.New(errs.BadUserInput, "An id is a string.")
	}
	return id.UnmarshalText([]byte(s))
}

// quote writes an id as a JSON string. Ids need no escaping.
func quote(w io.Writer, s string) { _, _ = fmt.Fprintf(w, `"%s"`, s) }

// CompareIDs orders ids as the databases do: by their bytes.
func CompareIDs[T ~[16]byte](a, b T) int { return bytes.Compare(a[:], b[:]) }
