package chat

import (
	"context"
	"slices"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
)

// pageEach reads the same page of a list for each of many parents, in one statement. q is a query
// for the items without a condition; parents is what stands after FROM and names the parents; page
// is one parent's page, which refers to the parent, and whose items are called alias there and in
// q. Unlike a query that numbers the items of all parents, each page stops where it ends. The items
// come in any order.
func (s *Service) pageEach(
	ctx context.Context, q *bun.SelectQuery, alias, parents string, page *bun.SelectQuery,
	narrow func(*bun.SelectQuery) *bun.SelectQuery, dest any,
) error {
	name := bun.Safe(alias)
	if s.db.Postgres() {
		q = q.ModelTableExpr(parents).Join("JOIN LATERAL (?) AS ? ON true", page, name)
	} else {
		q = q.TableExpr(parents).Where("?.rowid IN (?)", name, page.ColumnExpr("?.rowid", name))
	}
	return store.Error(q.Apply(narrow).Scan(ctx, dest))
}

// pageText is the text of one parent's page: the page of a list that belongs to a conversation.
type pageText struct {
	// of the items; where refers to the parent, the actor's membership, as viewer
	from, where string
	alias       string // of the items
	order       store.Order
}

// readPages is pageEach for the lists that are read most: of each of the conversations that the
// actor is in.
func readPages[T any](
	ctx context.Context, s *Service, actor model.Actor, ids []model.ConversationID, of pageText,
	window store.Window, position []any,
) ([]*T, error) {
	const parents = "viewer.user_id = ?1 AND viewer.conversation_id IN (?2...)"
	columns, args := "?TableColumns", []any{actor.UserID, store.IDs(ids)}
	if !s.db.Postgres() {
		columns = of.alias + ".rowid"
	}
	page, args := window.Continue("SELECT "+columns+" FROM "+of.from+" WHERE "+of.where, of.order,
		args, position...)
	text := "SELECT ?TableColumns FROM conversation_members AS viewer JOIN LATERAL (" + page +
		") AS " + of.alias + " ON true WHERE " + parents
	if !s.db.Postgres() {
		text = "SELECT ?TableColumns FROM conversation_members AS viewer, " + of.from + " WHERE " +
			parents +
			" AND " + of.alias + ".rowid IN (" + page + ")"
	}
	return store.Read[T](ctx, s.db, text, args...)
}

// cutEach makes a slice for each parent of what its page has, in the list's order.
func cutEach[K comparable, T any](
	w store.Window, parents []K, items []T, parent func(T) K, compare func(a, b T) int,
) map[K]store.Page[T] {
	found := map[K][]T{}
	for _, item := range items {
		found[parent(item)] = append(found[parent(item)], item)
	}
	pages := make(map[K]store.Page[T], len(parents))
	for _, p := range parents {
		list := found[p]
		slices.SortFunc(list, compare)
		if w.Backwards {
			slices.Reverse(list) // the order of the walk
		}
		pages[p] = store.Cut(w, list)
	}
	return pages
}
