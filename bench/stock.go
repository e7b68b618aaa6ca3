package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler/transport"

	"parley/auth"
	"parley/bench/debug"
	"parley/chat"
	"parley/feed"
	"parley/graph"
	"parley/live"
	"parley/mail"
	"parley/migrations"
	"parley/store"
)

// stockArgument runs this program as a server with the same schema, rules and database as Parley,
// and gqlgen's stock transport for WebSockets, transport.Websocket. It is internal.
const stockArgument = "serve-stock"

// serveStock serves with the data folder PARLEY_DATA_DIR.
func serveStock(ctx context.Context, stdout io.Writer) (err error) {
	debug.Serve()
	dir := os.Getenv("PARLEY_DATA_DIR")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "parley.db"), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := migrations.Up(ctx, db.DB); err != nil {
		return err
	}
	api, run, err := stockAPI(ctx, db, dir)
	if err != nil {
		return err
	}
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(run)
	return serve(ctx, stdout, api)
}

// stockAPI answers requests as Parley does, and WebSockets as gqlgen does. The caller runs run in a
// goroutine.
func stockAPI(
	ctx context.Context, db *store.DB, dir string,
) (api http.Handler, run func(), err error) {
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	secret, err := auth.LoadOrMakeSecret(filepath.Join(dir, "secret"))
	if err != nil {
		return nil, nil, err
	}
	key, err := auth.SecretKey(secret)
	if err != nil {
		return nil, nil, err
	}
	outbox, err := mail.New(db, mail.Options{Log: log})
	if err != nil {
		return nil, nil, err
	}
	feeds := feed.New(db, feed.Options{Log: log})
	lives := live.New(db, feeds, live.Options{Log: log})
	chatService := chat.New(db, feeds, lives, chat.Options{Log: log})
	authService, err := auth.New(db, auth.Options{
		Keys: []auth.Key{key}, Issuer: "parley", AccessTTL: 24 * time.Hour,
		RefreshTTL: 24 * time.Hour, Mail: outbox,
		Link: func(action, token string) string {
			return "http://localhost/" + action + "#" + token
		},
		OnDelete: lives.EndPresence, CleanUp: chatService.CleanUpAccount, Log: log,
	})
	if err != nil {
		return nil, nil, err
	}
	answers := graph.New(graph.Services{
		Auth: authService, Chat: chatService, Live: lives, Feed: feeds,
	}, graph.Options{Log: log})
	sockets := transport.Websocket{
		InitFunc: func(ctx context.Context, params transport.InitPayload) (context.Context,
			*transport.InitPayload, error,
		) {
			ctx, err := answers.Init(ctx, params)
			return ctx, nil, err
		},
	}
	run = func() {
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() { feeds.Run(ctx) })
		running.Go(func() { lives.Run(ctx) })
		running.Go(func() { chatService.Run(ctx) })
		running.Go(func() { authService.Run(ctx) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !sockets.Supports(r) {
			answers.ServeHTTP(w, r)
			return
		}
		sockets.Do(w, r.WithContext(graphql.StartOperationTrace(r.Context())), answers.Executor())
	}), run, nil
}
