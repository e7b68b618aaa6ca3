package main

import (
	"context"
	"errors"
	"fmt"

	"parley/chat"
	"parley/feed"
	"parley/internal/parallel"
	"parley/live"
	"parley/migrations"
	"parley/model"
	"parley/store"
)

// fixture is a database with people.
type fixture struct {
	db     *store.DB
	feed   *feed.Service
	live   *live.Service
	chat   *chat.Service
	people []model.Actor
}

// newFixture creates the tables and the people. They have no passwords, because they never sign in.
func newFixture(ctx context.Context, url string, people int) (_ *fixture, err error) {
	db, err := store.Open(ctx, url, store.Options{})
	if err != nil {
		return nil, err
	}
	f := &fixture{db: db, feed: feed.New(db, feed.Options{})}
	f.live = live.New(db, f.feed, live.Options{})
	f.chat = chat.New(db, f.feed, f.live, chat.Options{})
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if err := f.flush(ctx, false); err != nil {
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
		f.people = append(f.people, model.Actor{
			UserID:    users[i].ID,
			SessionID: model.NewSessionID(),
		})
	}
	if people > 0 {
		if _, err := db.NewInsert().Model(&users).Exec(ctx); err != nil {
			return nil, err
		}
	}
	return f, f.flush(ctx, true)
}

// flush turns flushing commits to disk off, to prepare faster, and on again. It does nothing on
// PostgreSQL, where commits at the same time share their flush.
func (f *fixture) flush(ctx context.Context, on bool) error {
	if f.db.Postgres() {
		return nil
	}
	pragma := "PRAGMA synchronous = OFF"
	if on {
		pragma = "PRAGMA synchronous = FULL"
	}
	_, err := f.db.ExecContext(ctx, pragma) // on the only connection that writes
	return err
}

func (f *fixture) close() error { return f.db.Close() }

// sender owns every conversation, and sends every message.
func (f *fixture) sender() model.Actor { return f.people[0] }

// conversation creates a conversation of all people.
func (f *fixture) conversation(ctx context.Context) (model.ConversationID, error) {
	title := "Everybody"
	in := chat.CreateConversation{Title: &title}
	for _, p := range f.people[1:] {
		in.Members = append(in.Members, &chat.NewMember{UserID: p.UserID, Role: model.Member})
	}
	c, err := f.chat.CreateConversation(ctx, f.sender(), in)
	if err != nil {
		return model.ConversationID{}, err
	}
	return c.ID, nil
}

func (f *fixture) conversations(ctx context.Context, n int) ([]model.ConversationID, error) {
	ids := make([]model.ConversationID, n)
	if err := f.flush(ctx, false); err != nil {
		return nil, err
	}
	err := inParallel(ctx, n, func(ctx context.Context, i int) (err error) {
		ids[i], err = f.conversation(ctx)
		return err
	})
	return ids, errors.Join(err, f.flush(ctx, true))
}

// inParallel calls fn with every number below n, some calls at a time, and stops at the first
// error.
func inParallel(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	return parallel.Each(ctx, n, 16, fn)
}
