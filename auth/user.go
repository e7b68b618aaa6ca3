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

// UserCursor returns the cursor of a user in the list of SearchUsers.
func UserCursor(u *model.User) string {
	return store.NewCursor(userList).Text(u.NicknameKey).String()
}

// usersByNickname is the order of SearchUsers.
func usersByNickname() store.Order { return store.Order{Columns: []string{"u.nickname_key"}} }

// SearchUsers lists the users whose nickname or display name contains the search, or all users if
// it is blank, in the order of their nicknames. A page has 20 by default.
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
	query, args := `SELECT ?TableColumns FROM users AS u WHERE u.removed_at IS NULL`, []any(nil)
	if text.Clean(search) != "" {
		if search = lookup(search); search == "" {
			return none, nil
		}
		query += ` AND u.search_key LIKE ?1 ESCAPE '!'`
		args = append(args, "%"+likeEscaper.Replace(search)+"%")
	}
	var keyset []any
	if window.Cursor != "" {
		c := store.ReadCursor(userList, window.Cursor)
		keyset = []any{c.ReadText()}
		if err := c.Done(); err != nil {
			return none, err
		}
	}
	query, args = window.Continue(query, usersByNickname(), args, keyset...)
	found, err := store.Read[model.User](ctx, s.db, query, args...)
	if err != nil {
		return none, err
	}
	return store.Cut(window, found), nil
}

// maxLookup is the maximum length of a name or address that is looked up, in bytes; all are
// shorter.
const maxLookup = 512

// lookup folds a name, an address or a search as its column is folded. It returns "" for text that
// no name and no address can contain.
func lookup(s string) string {
	s = text.Clean(s)
	if text.Problem(s, false) != "" || len(s) > maxLookup {
		return ""
	}
	return text.Fold(s)
}

//nolint:gochecknoglobals // a constant
var likeEscaper = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// Users returns the users with these ids. The map has no entry for an id that has no user.
func (s *Service) Users(
	ctx context.Context, ids []model.UserID,
) (map[model.UserID]*model.User, error) {
	found, err := store.Read[model.User](ctx, s.db,
		`SELECT ?TableColumns FROM users AS u WHERE u.id IN (?1...) AND u.removed_at IS NULL`,
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

// UserByNickname returns the user with a nickname, or nil if there is none.
func (s *Service) UserByNickname(
	ctx context.Context, _ model.Actor, nickname string,
) (*model.User, error) {
	u := new(model.User)
	err := s.db.NewSelect().Model(u).Where("u.nickname_key = ?", lookup(nickname)).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // no user has it
	}
	return u, store.Error(err)
}
