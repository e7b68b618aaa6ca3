package chat

import (
	"context"
	"slices"

	"parley/model"
	"parley/store"
)

// listText is the SQL of a list that each of many parents has, such as the messages of each of the
// conversations. ?1 is the actor, and ?2... are the ids of the parents.
type listText struct {
	parents string // follows FROM: the tables of the parents
	visible string // follows WHERE: the parents that are asked for and that the actor may see
	parent  string // the columns of a parent that T has, each with a comma after it; may be empty
	items   string // follows FROM: the table of the items
	alias   string // of that table
	of      string // follows WHERE: the items of one parent
	order   store.Order
}

// The parents of a list of a conversation are the actor's memberships in the conversations.
const (
	viewers          = "conversation_members AS viewer"
	viewersOfThoseIn = "viewer.user_id = ?1 AND viewer.conversation_id IN (?2...)"
)

// The parents of a list of a message are the messages m, joined with the actor's membership.
//
// Both databases must begin with the messages. A plan that begins with viewer reads all messages of
// the actor's conversations. PostgreSQL plans a MATERIALIZED query by itself, and SQLite begins
// with the left side of a CROSS JOIN.
const (
	messagesWithIDs = `(
		WITH found AS MATERIALIZED (
			SELECT id, conversation_id, seq, author_id FROM messages WHERE id IN (?2...)
		) SELECT * FROM found
	) AS m`
	messageVisible = "viewer.conversation_id = m.conversation_id AND viewer.user_id = ?1 " +
		"AND m.seq > viewer.hidden_seq"
)

// readPages reads the same page of the list of each parent in one statement. The statement stops
// reading each list where its page ends, unlike one that numbers the items of all parents. The
// items come in any order.
func readPages[T any, ID ~[16]byte](
	ctx context.Context, s *Service, actor model.Actor, ids []ID, list listText,
	window store.Window, keyset []any,
) ([]*T, error) {
	columns, args := "?TableColumns", []any{actor.UserID, store.IDs(ids)}
	if !s.db.Postgres() {
		columns = list.alias + ".rowid"
	}
	page, args := window.Continue(
		"SELECT "+columns+" FROM "+list.items+" WHERE "+list.of, list.order, args, keyset...)
	text := "SELECT " + list.parent + "?TableColumns FROM " + list.parents
	if s.db.Postgres() {
		text += " JOIN LATERAL (" + page + ") AS " + list.alias + " ON true WHERE " + list.visible
	} else { // SQLite has no LATERAL
		text += ", " + list.items + " WHERE " + list.visible +
			" AND " + list.alias + ".rowid IN (" + page + ")"
	}
	return store.Read[T](ctx, s.db, text, args...)
}

// cutEach sorts the items of each parent into the list's order, and makes them its page.
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
			slices.Reverse(list) // Cut takes the items in the order of the query
		}
		pages[p] = store.Cut(w, list)
	}
	return pages
}
