// Package chat has every rule about who may do what in a conversation: members and their roles,
// messages, reactions, read state and search. What happens becomes events in package feed, which
// delivers them.
//
// Each exported operation takes the acting user, checks what they may do, and owns its transaction.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. Run deletes ended conversations, and ends with
// its context. Hints about new events leave after the commit. Senders never wait for followers.
//
// Lock order of rows: conversations, in order of id → accounts, in order of id. There is one
// exception: package auth locks an account that is being removed before CleanUpAccount locks
// conversations, in order of id. On PostgreSQL this may deadlock with a transaction that holds one
// of these conversations and looked the account up just before it was marked (lockAccounts). The
// database then ends one of the two, and store retries it.
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

// Options are the settings of a Service. The zero value has the defaults.
type Options struct {
	// RequireVerifiedEmail lets only users with a verified address start conversations.
	RequireVerifiedEmail bool
	// MaxConversations is how many conversations one account is in at most; 0 means 5,000. An
	// account that is in more keeps them.
	MaxConversations int
	// Limits is how fast accounts may write and search; nil limits nothing.
	Limits *ratelimit.Accounts
	// EditWindow is how long after it was sent a message can be edited; 0 means for ever.
	EditWindow time.Duration
	// Sending is how messages share commits.
	Sending batch.Options
	Log     *slog.Logger // nil means slog.Default
}

// Service is the conversations of one database.
type Service struct {
	db   *store.DB
	opts Options
	feed *feed.Service
	live *live.Service

	sending       *batch.Writer[model.ConversationID, *outgoing]
	sendingSQLite sqliteStatements
	ended         wake.Notifier // notified when a conversation has ended
}

// New returns a service that publishes through feeds and lives. Run has to run beside it.
func New(db *store.DB, feeds *feed.Service, lives *live.Service, opts Options) *Service {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.MaxConversations == 0 {
		opts.MaxConversations = 5_000
	}
	s := &Service{db: db, opts: opts, feed: feeds, live: lives, ended: wake.NewNotifier()}
	s.sending = batch.New[model.ConversationID](s.storeMessages, opts.Sending)
	return s
}

// Run deletes what conversations had that have ended, until ctx ends.
func (s *Service) Run(ctx context.Context) { s.sweep(ctx) }
