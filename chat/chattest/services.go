package chattest

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"parley/batch"
	"parley/chat"
	"parley/feed"
	"parley/live"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
	"parley/store"
)

// Options are the options of packages chat, live and feed that tests change. Zero values are their
// defaults.
type Options struct {
	ReconcileEvery   time.Duration // of live and feed
	MaxReplayed      int
	TypingEvery      time.Duration
	TypingTimeout    time.Duration
	PresenceTimeout  time.Duration
	NodeTimeout      time.Duration
	MaxConversations int
	EditWindow       time.Duration
	Limits           *ratelimit.Accounts
	Sending          batch.Options
	Nodes            *natsbus.Conn
	Log              *slog.Logger

	RequireVerifiedEmail bool

	Feed func(*feed.Options) // changes other options of feed; may be nil
}

type (
	// Chat is an alias, because Services embeds three types that are named Service.
	Chat = chat.Service
	// Live is an alias, like Chat.
	Live = live.Service
	// Feed is an alias, like Chat.
	Feed = feed.Service
)

// Services are the services of one node.
type Services struct {
	DB *store.DB
	*Chat
	*Live
	*Feed
}

// NewServices returns services that do not run.
func NewServices(db *store.DB, opts Options) Services {
	feedOptions := feed.Options{
		ReconcileEvery: opts.ReconcileEvery, MaxReplayed: opts.MaxReplayed, Nodes: opts.Nodes,
		Log: opts.Log,
	}
	if opts.Feed != nil {
		opts.Feed(&feedOptions)
	}
	s := Services{DB: db, Feed: feed.New(db, feedOptions)}
	s.Live = live.New(db, s.Feed, live.Options{
		Limits: opts.Limits, ReconcileEvery: opts.ReconcileEvery, TypingEvery: opts.TypingEvery,
		TypingTimeout: opts.TypingTimeout, PresenceTimeout: opts.PresenceTimeout,
		NodeTimeout: opts.NodeTimeout, Nodes: opts.Nodes, Log: opts.Log,
	})
	s.Chat = chat.New(db, s.Feed, s.Live, chat.Options{
		RequireVerifiedEmail: opts.RequireVerifiedEmail, MaxConversations: opts.MaxConversations,
		Limits: opts.Limits, EditWindow: opts.EditWindow, Sending: opts.Sending, Log: opts.Log,
	})
	return s
}

// Run runs all services until ctx ends.
func (s Services) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { s.Feed.Run(ctx) })
	running.Go(func() { s.Live.Run(ctx) })
	running.Go(func() { s.Chat.Run(ctx) })
	running.Wait()
}
