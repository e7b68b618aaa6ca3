// Package model has the rows of the tables, mapped by Bun, and the ids: data without behaviour. The
// rules are in auth and chat.
//
// Times are UTC, cut to microseconds. Data that must never reach a client, such as hashes, is in
// structs of its own, whose names are not those of GraphQL types.
package model

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
)

// Actor is the user and the session that call an operation. Every operation of auth and chat takes
// one, and checks what it may do.
type Actor struct {
	UserID    UserID
	SessionID SessionID
}

// User is an account. Queries of Bun leave out accounts that are being removed. Others must have a
// condition on removed_at.
type User struct {
	bun.BaseModel `bun:"table:users,alias:u"`

	ID          UserID `bun:",pk,type:uuid"`
	Email       string // as the user wrote it; EmailKey is unique
	EmailKey    string
	Nickname    string
	NicknameKey string
	DisplayName *string
	About       *string
	SearchKey   string // nickname and display name, folded
	CreatedAt   time.Time

	EmailVerifiedAt  *time.Time
	ShowPresence     bool
	SendReadReceipts bool

	// RemovedAt is when the removal of the account began. The personal data was deleted then.
	RemovedAt *time.Time `bun:",soft_delete"`
}

// Credentials is not part of User, so that no query for users can return a password hash.
type Credentials struct {
	bun.BaseModel `bun:"table:credentials"`

	UserID       UserID `bun:",pk,type:uuid"`
	PasswordHash string // argon2id, in PHC string format
	UpdatedAt    time.Time
}

// Session is one device of one user, from signing in to signing out.
type Session struct {
	bun.BaseModel `bun:"table:sessions,alias:s"`

	ID         SessionID `bun:",pk,type:uuid"`
	UserID     UserID    `bun:",type:uuid"`
	CreatedAt  time.Time
	LastUsedAt time.Time
	ExpiresAt  time.Time // when its refresh token expires; every refresh moves it
	RevokedAt  *time.Time
	UserAgent  *string
	IP         *string `bun:"ip"`
}

// SessionSecrets has the hashes of a session's refresh tokens. The tokens are not stored.
type SessionSecrets struct {
	bun.BaseModel `bun:"table:sessions,alias:s"`

	Session      `bun:",extend"`
	RefreshHash  []byte // SHA-256 of the valid token
	PreviousHash []byte // SHA-256 of the token before it, to detect reuse
	RotatedAt    *time.Time
}

// OneTimeToken is the hash of a token in a mailed link, and its purpose.
type OneTimeToken struct {
	bun.BaseModel `bun:"table:one_time_tokens"`

	Hash      []byte `bun:",pk"` // SHA-256
	Purpose   string
	UserID    UserID  `bun:",type:uuid"`
	Email     *string // the new address, if the token confirms one
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    *time.Time
}

// AuditEntry is one event of an account, for the operator.
type AuditEntry struct {
	bun.BaseModel `bun:"table:audit_log"`

	ID        uuid.UUID `bun:",pk,type:uuid"`
	At        time.Time
	Action    string
	UserID    *UserID    `bun:",type:uuid"`
	SessionID *SessionID `bun:",type:uuid"`
	IP        *string    `bun:"ip"`
	UserAgent *string
}

type ConversationKind string

const (
	Group  ConversationKind = "GROUP"
	Direct ConversationKind = "DIRECT"
)

// Conversation is a group, or a direct conversation of two users. Queries of Bun leave out
// conversations that have ended and are being deleted. Those have no members, so queries through a
// membership do not find them either.
type Conversation struct {
	bun.BaseModel `bun:"table:conversations,alias:c"`

	ID        ConversationID `bun:",pk,type:uuid"`
	Kind      ConversationKind
	Title     string
	Untitled  bool    // no one set the title: it is made of nicknames
	DirectKey *string // the two user ids, sorted; nil in a group
	History   History
	// MembersMayRename lets all members rename the group; otherwise only the owner and admins may.
	MembersMayRename bool
	LastSeq          int64
	LastMessageSeq   int64 // 0 if there is none
	CreatedAt        time.Time
	LastActivityAt   time.Time // of the newest event that is not an edit, deletion or reaction

	EndedAt *time.Time `bun:",soft_delete"` // when it ended, while it is being deleted
}

// History is how much of the messages from before their joining new members see.
type History string

const (
	FromStart   History = "FROM_START"
	FromJoining History = "FROM_JOINING"
)

type Role string

const (
	Owner  Role = "OWNER"
	Admin  Role = "ADMIN"
	Member Role = "MEMBER"
)

type ConversationMember struct {
	bun.BaseModel `bun:"table:conversation_members,alias:cm"`

	ConversationID ConversationID `bun:",pk,type:uuid"`
	UserID         UserID         `bun:",pk,type:uuid"`
	Role           Role
	JoinedAt       time.Time
	JoinedSeq      int64 // the event that made them a member
	HiddenSeq      int64 // they see the events after this one; 0 means all
	LastReadSeq    int64
	MutedUntil     *time.Time
	ArchivedSeq    int64 // archived until a message comes after this event; 0 if not archived
	Pinned         bool
	Draft          *string
	Position       int64 // of its last change, its beginning included; see Event.Position
}

// Departure is the newest end of a user's membership.
type Departure struct {
	bun.BaseModel `bun:"table:departures,alias:d"`

	UserID         UserID         `bun:",pk,type:uuid"`
	ConversationID ConversationID `bun:",pk,type:uuid"`
	Seq            int64          // of the event member_removed
	Position       int64
}

// Node is a running server. The others read from it whether it is alive.
type Node struct {
	bun.BaseModel `bun:"table:nodes,alias:n"`

	ID         NodeID    `bun:",pk,type:uuid"`
	SeenAt     time.Time // the last heartbeat, by the clock of the database if it has one
	AliveUntil time.Time // unless the next heartbeat comes before
}

// Presence is a user who has a live connection on a node, or had one a moment ago.
type Presence struct {
	bun.BaseModel `bun:"table:presences,alias:p"`

	UserID UserID `bun:",pk,type:uuid"`
	NodeID NodeID `bun:",pk,type:uuid"`
}

// Sighting is when a user was last seen.
type Sighting struct {
	bun.BaseModel `bun:"table:sightings,alias:sg"`

	UserID     UserID `bun:",pk,type:uuid"`
	LastSeenAt *time.Time
	Position   int64 // of the last change; see Event.Position
}

// Forever is the end of a mute that has no end.
//
//nolint:gochecknoglobals // a constant
var Forever = time.Date(9999, time.December, 31, 23, 59, 59, 999_999_000, time.UTC)

// Unread is how many messages of others a member has not read, and how many of these mention the
// member.
type Unread struct {
	Messages int
	Mentions int
}

// ID returns the id of the membership in the API.
func (m *ConversationMember) ID() MemberID {
	return MemberID{Conversation: m.ConversationID, User: m.UserID}
}

type EventKind string

const (
	ConversationCreated EventKind = "conversation_created"
	MessageAdded        EventKind = "message_added"
	MessageEdited       EventKind = "message_edited"
	MessageDeleted      EventKind = "message_deleted"
	ReactionAdded       EventKind = "reaction_added"
	ReactionRemoved     EventKind = "reaction_removed"
	ConversationRenamed EventKind = "conversation_renamed"
	SettingsChanged     EventKind = "conversation_settings_changed"
	MemberAdded         EventKind = "member_added"
	MemberRemoved       EventKind = "member_removed"
	MemberRoleChanged   EventKind = "member_role_changed"
	HistoryRestored     EventKind = "history_restored"
)

// Event is one durable change of a conversation. The seqs of a conversation start at 1 and have no
// gaps, except the range before an event of the kind HistoryRestored.
type Event struct {
	bun.BaseModel `bun:"table:events,alias:e"`

	ConversationID ConversationID `bun:",pk,type:uuid"`
	Seq            int64          `bun:",pk"`
	Kind           EventKind
	ActorID        *UserID         `bun:",type:uuid"` // nil after the account was removed
	MessageID      *MessageID      `bun:",type:uuid"`
	Data           json.RawMessage // depends on the kind; see the structs with its name
	At             time.Time
	// Position orders events across conversations: on PostgreSQL the id of the writing transaction,
	// on SQLite a counter.
	Position int64
	// StoredMark is the Mark of an event other than message_added; 0 in events from before marks.
	StoredMark Mark `bun:"mark,nullzero"`

	// Before is the Mark of the event with the seq before this one; 0 if it is not known. Only new
	// events have it, on their way to feeds.
	Before  Mark     `bun:"-"`
	Message *Message `bun:"-"` // the message of MessageID
}

// ConversationCreatedData is everything that the conversation began with.
type ConversationCreatedData struct {
	Kind             ConversationKind `json:"kind"`
	Title            string           `json:"title"`
	History          History          `json:"history"`
	MembersMayRename bool             `json:"membersMayRename"`
	Members          []MemberData     `json:"members"`
}

// ConversationRenamedData has the new title.
type ConversationRenamedData struct {
	Title string `json:"title"`
}

// SettingsChangedData has the new settings.
type SettingsChangedData struct {
	MembersMayRename bool `json:"membersMayRename"`
}

// MemberAddedData is the new member.
type MemberAddedData = MemberData

// MemberData is a member in the data of an event.
type MemberData struct {
	UserID UserID `json:"userId"`
	Role   Role   `json:"role"`
}

// MemberRemovedData is the member who left or was removed.
type MemberRemovedData struct {
	UserID UserID `json:"userId"`
}

// HistoryRestoredData is the first seq of the range that the event leaves out. The range ends
// before the event.
type HistoryRestoredData struct {
	First int64 `json:"first"`
}

// MemberRoleChangedData is the member with the new role.
type MemberRoleChangedData = MemberData

// ReactionData is a reaction that was added or removed, and how many reactions with this emoji the
// message has now.
type ReactionData struct {
	UserID UserID `json:"userId"`
	Emoji  string `json:"emoji"`
	Count  int    `json:"count"`
}

type Message struct {
	bun.BaseModel `bun:"table:messages,alias:m"`

	ID             MessageID      `bun:",pk,type:uuid"`
	ConversationID ConversationID `bun:",type:uuid"`
	Seq            int64
	AuthorID       *UserID `bun:",type:uuid"` // nil after the account was removed
	Content        string
	ReplyToID      *MessageID `bun:",type:uuid"`
	CreatedAt      time.Time
	EditedAt       *time.Time
	DeletedAt      *time.Time
	IdempotencyKey *string
	// RequestHash is the SHA-256 of the input that came with the key; nil after the message was
	// deleted.
	RequestHash []byte
}

// Mention is a member who is mentioned in a message.
type Mention struct {
	bun.BaseModel `bun:"table:mentions,alias:mn"`

	ConversationID ConversationID `bun:",pk,type:uuid"`
	UserID         UserID         `bun:",pk,type:uuid"`
	Seq            int64          `bun:",pk"`
	MessageID      MessageID      `bun:",type:uuid"`
}

// Reaction is one emoji of one user for one message.
type Reaction struct {
	bun.BaseModel `bun:"table:reactions,alias:r"`

	ConversationID ConversationID `bun:",pk,type:uuid"`
	MessageID      MessageID      `bun:",pk,type:uuid"`
	UserID         UserID         `bun:",pk,type:uuid"`
	Emoji          string         `bun:",pk"`
	CreatedAt      time.Time
}

// ReactionGroup is the reactions to a message with the same emoji.
type ReactionGroup struct {
	MessageID     MessageID
	Emoji         string
	Count         int
	ViewerReacted bool
}
