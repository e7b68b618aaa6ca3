// Package chat has the rules for conversations: members and their roles, messages, reactions, read
// state and search. It writes changes as events with package feed, which delivers them.
//
// Each exported operation takes the acting user, checks what they may do, and owns its transaction.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. Run deletes ended conversations, and ends with
// its context. Events are published after the commit. Senders never wait for followers.
//
// Lock order of rows: conversations, in order of id → accounts, in order of id. There is one
// exception: package auth locks an account that is being removed before CleanUpAccount locks
// conversations, in order of id. On PostgreSQL this may deadlock with a transaction that holds one
// of these conversations and looked the account up just before it was marked (lockAccounts). The
// database then aborts one of the two, and store retries it.
package chat

import (
	"context"
	"log/slog"
	"time"

	"parley/batch"
	"parley/feed"
	"parley/live"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/wake"
)

// DefaultMaxConversations is the default of Options.MaxConversations.
const DefaultMaxConversations = 5_000

// Options are the settings of a Service. The zero value has the defaults.
type Options struct {
	// RequireVerifiedEmail allows only users with a verified address to create conversations.
	RequireVerifiedEmail bool
	// MaxConversations is how many conversations an account may join; 0 means the default. An
	// account that is in more already stays in them.
	MaxConversations int
	// Limits are the rate limits of accounts for writing and searching; nil means none.
	Limits *ratelimit.Accounts
	// EditWindow is how long a message can be edited after it was sent; 0 means without an end.
	EditWindow time.Duration
	// Sending are the limits of the batches in which messages are stored.
	Sending batch.Options
	Log     *slog.Logger // nil means slog.Default
}

// Service runs the operations on the conversations of one database.
type Service struct {
	db   *store.DB
	opts Options
	feed *feed.Service
	live *live.Service

	sending       *batch.Writer[model.ConversationID, *outgoing]
	sendingSQLite sqliteStatements
	ended         wake.Notifier // notified when a conversation has ended
}

// New returns a service that publishes through feeds and lives. Run must run while it is used.
func New(db *store.DB, feeds *feed.Service, lives *live.Service, opts Options) *Service {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.MaxConversations == 0 {
		opts.MaxConversations = DefaultMaxConversations
	}
	s := &Service{db: db, opts: opts, feed: feeds, live: lives, ended: wake.NewNotifier()}
	s.sending = batch.New[model.ConversationID](s.storeMessages, opts.Sending)
	return s
}

// Run deletes the rows of ended conversations until ctx ends.
func (s *Service) Run(ctx context.Context) { s.sweep(ctx) }
