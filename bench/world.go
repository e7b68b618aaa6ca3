package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"parley/chat"
	"parley/feed"
	"parley/live"
	"parley/migrations"
	"parley/model"
	"parley/store"
)

// world is a database with people in it.
type world struct {
	db     *store.DB
	feed   *feed.Service
	live   *live.Service
	chat   *chat.Service
	people []model.Actor
}

// newWorld makes the tables and the people, who have no passwords, because they never sign in.
func newWorld(ctx context.Context, url string, people int) (_ *world, err error) {
	db, err := store.Open(ctx, url, store.Options{})
	if err != nil {
		return nil, err
	}
	w := &world{db: db, feed: feed.New(db, feed.Options{})}
	w.live = live.New(db, w.feed, live.Options{})
	w.chat = chat.New(db, w.feed, w.live, chat.Options{})
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := w.flush(ctx, false); err != nil {
		return nil, err
	}
	if _, err := migrations.Up(ctx, db.DB); err != nil {
		return nil, err
	}
	users := make([]*model.User, people)
	for i := range users {
		name := fmt.Sprintf("person%d", i)
		users[i] = &model.User{
			ID: model.NewUserID(), Email: name + "@example.org", EmailKey: name + "@example.org",
			Nickname: name, NicknameKey: name, SearchKey: name, CreatedAt: db.Now(),
		}
		w.people = append(w.people, model.Actor{UserID: users[i].ID, SessionID: model.NewSessionID()})
	}
	if people > 0 {
		if _, err := db.NewInsert().Model(&users).Exec(ctx); err != nil {
			return nil, err
		}
	}
	return w, w.flush(ctx, true)
}

// flush turns the flushing of commits to disk off, where that can be done, for what is only
// prepared; and on again.
func (w *world) flush(ctx context.Context, on bool) error {
	if w.db.Postgres() {
		return nil // commits that come together share their flush there
	}
	pragma := "PRAGMA synchronous = OFF"
	if on {
		pragma = "PRAGMA synchronous = FULL"
	}
	_, err := w.db.ExecContext(ctx, pragma) // on the only connection that writes
	return err
}

func (w *world) close() error { return w.db.Close() }

// sender is who owns every conversation and sends every message.
func (w *world) sender() model.Actor { return w.people[0] }

// conversation has everybody in it.
func (w *world) conversation(ctx context.Context) (model.ConversationID, error) {
	title := "Everybody"
	in := chat.CreateConversation{Title: &title}
	for _, p := range w.people[1:] {
		in.Members = append(in.Members, &chat.NewMember{UserID: p.UserID, Role: model.Member})
	}
	c, err := w.chat.CreateConversation(ctx, w.sender(), in)
	if err != nil {
		return model.ConversationID{}, err
	}
	return c.ID, nil
}

func (w *world) conversations(ctx context.Context, n int) ([]model.ConversationID, error) {
	ids := make([]model.ConversationID, n)
	if err := w.flush(ctx, false); err != nil {
		return nil, err
	}
	err := atOnce(ctx, n, func(ctx context.Context, i int) (err error) {
		ids[i], err = w.conversation(ctx)
		return err
	})
	return ids, errors.Join(err, w.flush(ctx, true))
}

// atOnce calls fn with every number below n, a few calls at a time, and stops at the first error.
func atOnce(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	const atATime = 16
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range min(n, atATime) {
		workers.Go(func() {
			for i := range numbers {
				if ctx.Err() != nil {
					continue
				}
				if err := fn(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	workers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
