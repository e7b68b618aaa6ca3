// Package graph is the GraphQL edge: it translates between the schema and packages auth, chat, live
// and feed, which have the rules. It knows no SQL. Resolvers are a few lines. What is the same for
// all of them has a file of its own: identity, gate, errors, loaders, prefetching, connections,
// limits.
//
// # Concurrency
//
// The fields of one response are executed on several goroutines.
//
// A subscription to one conversation is normally served by broadcast.go, and has no goroutine while
// it waits: the conversation's feed calls it, or, while it catches up, a goroutine of package feed.
// Any other subscription has two goroutines: stream follows, and the one of package wire executes
// what the operation selects of each item. Package wire documents how results reach the client.
package graph

import "parley/model"

// Resolver resolves the fields that are not fields or methods of their Go types.
type Resolver struct {
	Services
	users *batcher[model.UserID, *model.User] // for all responses of this node
	slots *slots
}
