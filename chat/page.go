package chat

import (
	"context"
	"strings"

	"github.com/uptrace/bun"

	"parley/store"
)

// eachOf runs many queries of the same columns as one statement: the same page of a list for each of many parents. Unlike one
// query that numbers the rows of all parents, each of these stops where its page ends. The rows of each come in its order.
func eachOf(ctx context.Context, db *store.DB, queries []*bun.SelectQuery, dest any) error {
	if len(queries) == 0 {
		return nil
	}
	parts := make([]string, len(queries))
	args := make([]any, len(queries))
	for i, q := range queries {
		parts[i], args[i] = "SELECT * FROM (?) AS page", q
	}
	// A query that reads, as the store sees it: on SQLite it does not wait for who writes.
	return store.Error(db.NewSelect().TableExpr("("+strings.Join(parts, " UNION ALL ")+") AS pages", args...).Scan(ctx, dest))
}

// cutEach makes a slice for each parent of what its query has found.
func cutEach[K comparable, T any](w store.Window, parents []K, found map[K][]T) map[K]store.Slice[T] {
	slices := make(map[K]store.Slice[T], len(parents))
	for _, parent := range parents {
		slices[parent] = store.Cut(w, found[parent])
	}
	return slices
}
