package graph

import (
	"context"

	"parley/errs"
	"parley/live"
	"parley/model"
)

// user finds a user by id or by nickname.
func (r *queryResolver) user(ctx context.Context, id, nickname *string) (*model.User, error) {
	viewer, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case (id == nil) == (nickname == nil):
		return nil, errs.New(errs.BadUserInput, "Give either id or nickname.")
	case nickname != nil:
		return r.Auth.UserByNickname(ctx, viewer, *nickname)
	}
	key, err := parseID[model.UserID]("id", *id)
	if err != nil {
		return nil, err
	}
	prefetchRoots(ctx, viewer)
	return loadUser(ctx, key)
}

// presence is whether a user is online, or nil if the viewer may not know.
func presence(ctx context.Context, id model.UserID) (*live.Presence, error) {
	l, err := loadersOf(ctx)
	if err != nil {
		return nil, err
	}
	found, err := l.presences.thunk(ctx, id)()
	if err != nil || found.UserID != id {
		return nil, err
	}
	return &found, nil
}
