package auth

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/text"
)

const userList = 'u' // the letter of this list's cursors

// UserCursor is where a person stands among all people.
func UserCursor(u *model.User) string { return store.NewCursor(userList).Text(u.NicknameKey).String() }

// SearchUsers lists everybody by nickname, or those whose nickname or display name contains the
// search.
func (s *Service) SearchUsers(
	ctx context.Context, actor model.Actor, search string, page store.PageArgs,
) (store.Page[*model.User], error) {
	var none store.Page[*model.User]
	window, err := page.Window(store.DefaultPage{First: 20})
	if err != nil {
		return none, err
	}
	if err := s.opts.Accounts.Take(ctx, actor.UserID, ratelimit.Searches.Times(1)); err != nil {
		return none, err
	}
	var found []*model.User
	q := s.db.NewSelect().Model(&found)
	if text.Clean(search) != "" {
		if search = lookup(search); search == "" {
			return none, nil
		}
		q = q.Where(`u.search_key LIKE ? ESCAPE '!'`, "%"+likeEscaper.Replace(search)+"%")
	}
	var position []any
	if window.Cursor != "" {
		c := store.ReadCursor(userList, window.Cursor)
		position = []any{c.ReadText()}
		if err := c.Done(); err != nil {
			return none, err
		}
	}
	if err := window.Apply(q, store.Order{Columns: []string{"u.nickname_key"}}, position...).Scan(ctx); err != nil {
		return none, store.Error(err)
	}
	return store.Cut(window, found), nil
}

// maxLookup is longer than any name or address.
const maxLookup = 512

// lookup brings what somebody is looked up by into the form that is compared; empty for what nobody
// can be called.
func lookup(s string) string {
	s = text.Clean(s)
	if text.Problem(s, false) != "" || len(s) > maxLookup {
		return ""
	}
	return text.Fold(s)
}

var likeEscaper = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_") //nolint:gochecknoglobals // a constant

// Users returns the people with these ids; who is not there is missing from the map.
func (s *Service) Users(ctx context.Context, ids []model.UserID) (map[model.UserID]*model.User, error) {
	found, err := store.Read[model.User](ctx, s.db, `SELECT ?TableColumns FROM users AS u WHERE u.id IN (?1...) AND u.removed_at IS NULL`,
		store.IDs(ids))
	if err != nil {
		return nil, err
	}
	byID := make(map[model.UserID]*model.User, len(found))
	for _, u := range found {
		byID[u.ID] = u
	}
	return byID, nil
}

// UserByNickname returns nil where there is none.
func (s *Service) UserByNickname(ctx context.Context, _ model.Actor, nickname string) (*model.User, error) {
	u := new(model.User)
	err := s.db.NewSelect().Model(u).Where("u.nickname_key = ?", lookup(nickname)).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // nobody has it
	}
	return u, store.Error(err)
}
