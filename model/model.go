// Package model holds what is stored, mapped by Bun, and the ids: data without behaviour. Rules
// live in auth and chat.
//
// Times are UTC, cut to microseconds. What must never reach a client (hashes, secrets) stands in
// structs of its own, after which no GraphQL type is named.
package model

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
)

// Actor is who acts: every operation of auth and chat takes one, and checks for itself what they
// may do.
type Actor struct {
	UserID    UserID
	SessionID SessionID
}

// User is a registered person. Queries of Bun leave out accounts that are being removed; others
// name removed_at.
type User struct {
	bun.BaseModel `bun:"table:users,alias:u"`

	ID          UserID `bun:",pk,type:uuid"`
	Email       string // as written; EmailKey is what is unique
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

	// RemovedAt is when the removal of the account was asked for. What says who it was is gone
	// since then.
	RemovedAt *time.Time `bun:",soft_delete"`
}

// Credentials is apart from User, so that no query for people can bring a password hash along.
type Credentials struct {
	bun.BaseModel `bun:"table:credentials"`

	UserID       UserID `bun:",pk,type:uuid"`
	PasswordHash string // argon2id, in PHC string format
	UpdatedAt    time.Time
}

// Session is one device of one person, from signing in to signing out.
type Session struct {
	bun.BaseModel `bun:"table:sessions,alias:s"`

	ID         SessionID `bun:",pk,type:uuid"`
	UserID     UserID    `bun:",type:uuid"`
	CreatedAt  time.Time
	LastUsedAt time.Time
	ExpiresAt  time.Time // when its refresh token ends; moves with every refresh
	RevokedAt  *time.Time
	UserAgent  *string
	IP         *string `bun:"ip"`
}

// SessionSecrets is what a session keeps of its refresh tokens: hashes only.
type SessionSecrets struct {
	bun.BaseModel `bun:"table:sessions,alias:s"`

	Session      `bun:",extend"`
	RefreshHash  []byte // SHA-256 of the token that works
	PreviousHash []byte // SHA-256 of the one before it, to notice a second use
	RotatedAt    *time.Time
}

// OneTimeToken is what a mailed link carries: its hash, and what it is good for.
type OneTimeToken struct {
	bun.BaseModel `bun:"table:one_time_tokens"`

	Hash      []byte `bun:",pk"` // SHA-256
	Purpose   string
	UserID    UserID  `bun:",type:uuid"`
	Email     *string // the new address that the token confirms, where it does
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    *time.Time
}

// AuditEntry is one thing that happened to an account, for its operator.
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

// Conversation is people and what they say to each other. Queries of Bun leave out conversations
// that have ended and are being deleted. They have no members, so that queries through a membership
// do not find them either.
type Conversation struct {
	bun.BaseModel `bun:"table:conversations,alias:c"`

	ID        ConversationID `bun:",pk,type:uuid"`
	Kind      ConversationKind
	Title     string
	Untitled  bool    // nobody gave the title: it is made of nicknames
	DirectKey *string // the two user ids, sorted; nil in a group
	History   History
	// MembersMayRename extends to everybody what else only the owner and the admins may.
	MembersMayRename bool
	LastSeq          int64
	LastMessageSeq   int64 // 0 while there is none
	CreatedAt        time.Time
	LastActivityAt   time.Time // of the newest event that is no edit, deletion or reaction

	EndedAt *time.Time `bun:",soft_delete"` // when it ended, while it is being deleted
}

// History is how much of what was before them new members see.
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
	HiddenSeq      int64 // they see what comes after this event; 0 is everything
	LastReadSeq    int64
	MutedUntil     *time.Time
	ArchivedSeq    int64 // archived until a message comes after this event; 0 when not
	Pinned         bool
	Draft          *string
	Position       int64 // when it began or was changed last, in the terms of Event.Position
}

// Departure is the newest end of somebody's membership.
type Departure struct {
	bun.BaseModel `bun:"table:departures,alias:d"`

	UserID         UserID         `bun:",pk,type:uuid"`
	ConversationID ConversationID `bun:",pk,type:uuid"`
	Seq            int64          // of the event that says so
	Position       int64
}

// Node is a running server, as the others know it.
type Node struct {
	bun.BaseModel `bun:"table:nodes,alias:n"`

	ID NodeID `bun:",pk,type:uuid"`
	// when it gave its last sign of life; by PostgreSQL's clock, where there is one
	SeenAt     time.Time
	AliveUntil time.Time // unless it gives another one before
}

// Presence says that a person has a live connection on a node, or had one until a short while ago.
type Presence struct {
	bun.BaseModel `bun:"table:presences,alias:p"`

	UserID UserID `bun:",pk,type:uuid"`
	NodeID NodeID `bun:",pk,type:uuid"`
}

// Sighting is when somebody was connected last.
type Sighting struct {
	bun.BaseModel `bun:"table:sightings,alias:sg"`

	UserID     UserID `bun:",pk,type:uuid"`
	LastSeenAt *time.Time
	Position   int64 // when they came or went last, in the terms of Event.Position
}

// Forever is when a mute ends that has no end.
var Forever = time.Date(9999, time.December, 31, 23, 59, 59, 999_999_000, time.UTC) //nolint:gochecknoglobals // a constant

// Unread is how much of a conversation somebody has not read: messages of others, and those of them
// that mention them.
type Unread struct {
	Messages int
	Mentions int
}

// ID names the membership to clients.
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
)

// Event is one durable change of a conversation. Its seq orders all of them, from 1, without gaps.
type Event struct {
	bun.BaseModel `bun:"table:events,alias:e"`

	ConversationID ConversationID `bun:",pk,type:uuid"`
	Seq            int64          `bun:",pk"`
	Kind           EventKind
	ActorID        *UserID         `bun:",type:uuid"` // nil once the account is gone
	MessageID      *MessageID      `bun:",type:uuid"`
	Data           json.RawMessage // what the kind needs; see the structs named after it
	At             time.Time
	// Position orders events across conversations: on PostgreSQL the id of the writing transaction,
	// on SQLite a counter.
	Position int64

	Message *Message `bun:"-"` // what MessageID names, where the kind is about a message
}

// ConversationCreatedData says all that the conversation began with.
type ConversationCreatedData struct {
	Kind             ConversationKind `json:"kind"`
	Title            string           `json:"title"`
	History          History          `json:"history"`
	MembersMayRename bool             `json:"membersMayRename"`
	Members          []MemberData     `json:"members"`
}

// ConversationRenamedData says what the conversation is called now.
type ConversationRenamedData struct {
	Title string `json:"title"`
}

// SettingsChangedData says how the conversation is set now.
type SettingsChangedData struct {
	MembersMayRename bool `json:"membersMayRename"`
}

// MemberAddedData says who has become a member, and as what.
type MemberAddedData = MemberData

// MemberData is a member in the data of an event.
type MemberData struct {
	UserID UserID `json:"userId"`
	Role   Role   `json:"role"`
}

// MemberRemovedData says who is a member no longer.
type MemberRemovedData struct {
	UserID UserID `json:"userId"`
}

// MemberRoleChangedData says who has which role now.
type MemberRoleChangedData = MemberData

// ReactionData says who put, or took back, which emoji, and how many have it there now.
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
	AuthorID       *UserID `bun:",type:uuid"` // nil once the account is gone
	Content        string
	ReplyToID      *MessageID `bun:",type:uuid"`
	CreatedAt      time.Time
	EditedAt       *time.Time
	DeletedAt      *time.Time
	IdempotencyKey *string
	// SHA-256 of the input that came with the key; nil once the message is deleted
	RequestHash []byte
}

// Mention is a member whom a message names.
type Mention struct {
	bun.BaseModel `bun:"table:mentions,alias:mn"`

	ConversationID ConversationID `bun:",pk,type:uuid"`
	UserID         UserID         `bun:",pk,type:uuid"`
	Seq            int64          `bun:",pk"`
	MessageID      MessageID      `bun:",type:uuid"`
}

// Reaction is one emoji that one person put to one message.
type Reaction struct {
	bun.BaseModel `bun:"table:reactions,alias:r"`

	ConversationID ConversationID `bun:",pk,type:uuid"`
	MessageID      MessageID      `bun:",pk,type:uuid"`
	UserID         UserID         `bun:",pk,type:uuid"`
	Emoji          string         `bun:",pk"`
	CreatedAt      time.Time
}

// ReactionGroup is all reactions to a message with the same emoji.
type ReactionGroup struct {
	MessageID     MessageID
	Emoji         string
	Count         int
	ViewerReacted bool
}
