package graph

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vikstrous/dataloadgen"

	"parley/model"
)

// loaders gather what the fields of one response ask for into few queries. They live for that response only, so that a long
// subscription never serves what was true an hour ago, and for one actor, because what is found depends on who asks.
type loaders struct {
	users         *dataloadgen.Loader[model.UserID, *model.User]
	conversations *dataloadgen.Loader[model.ConversationID, *model.Conversation]
	lastMessages  *dataloadgen.Loader[model.ConversationID, *model.Message]
	memberships   *dataloadgen.Loader[model.ConversationID, *model.ConversationMember]
	owners        *dataloadgen.Loader[model.ConversationID, *model.ConversationMember]
	partners      *dataloadgen.Loader[model.ConversationID, model.UserID]
	memberCounts  *dataloadgen.Loader[model.ConversationID, int]
}

// gathering is how long a loader waits for more keys. The fields of one response that ask for the same thing start together.
const gathering = 500 * time.Microsecond

func (r *Resolver) newLoaders(actor model.Actor) *loaders {
	return &loaders{
		users:         newLoader(r.people.load),
		conversations: newLoader(actingAs(actor, r.Chat.Conversations)),
		lastMessages:  newLoader(actingAs(actor, r.Chat.LastMessages)),
		memberships:   newLoader(actingAs(actor, r.Chat.Memberships)),
		owners:        newLoader(actingAs(actor, r.Chat.Owners)),
		partners:      newLoader(actingAs(actor, r.Chat.Partners)),
		memberCounts:  newLoader(actingAs(actor, r.Chat.MemberCounts)),
	}
}

func newLoader[K comparable, V any](find func(context.Context, []K) (map[K]V, error)) *dataloadgen.Loader[K, V] {
	return dataloadgen.NewMappedLoader(find, dataloadgen.WithWait(gathering))
}

func actingAs[K comparable, V any](
	actor model.Actor, find func(context.Context, model.Actor, []K) (map[K]V, error),
) func(context.Context, []K) (map[K]V, error) {
	return func(ctx context.Context, keys []K) (map[K]V, error) { return find(ctx, actor, keys) }
}

// responseLoaders are the loaders of one response, by who asks.
type responseLoaders struct {
	resolver *Resolver
	mu       sync.Mutex
	byActor  map[model.Actor]*loaders
}

type loadersKey struct{}

// withLoaders gives each response loaders of its own.
func (r *Resolver) withLoaders(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
	fresh := &responseLoaders{resolver: r, byActor: map[model.Actor]*loaders{}}
	return next(context.WithValue(ctx, loadersKey{}, fresh))
}

func loadersOf(ctx context.Context) (*loaders, error) {
	who, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	response, ok := ctx.Value(loadersKey{}).(*responseLoaders)
	if !ok {
		return nil, errors.New("loaders are used outside a response")
	}
	response.mu.Lock()
	defer response.mu.Unlock()
	found := response.byActor[who]
	if found == nil {
		found = response.resolver.newLoaders(who)
		response.byActor[who] = found
	}
	return found, nil
}

// load looks one key up; what is not there, or not for the actor to see, is the zero value.
func load[K comparable, V any](ctx context.Context, choose func(*loaders) *dataloadgen.Loader[K, V], key K) (V, error) {
	var zero V
	l, err := loadersOf(ctx)
	if err != nil {
		return zero, err
	}
	found, err := choose(l).Load(ctx, key)
	if errors.Is(err, dataloadgen.ErrNotFound) {
		return zero, nil
	}
	return found, err
}

func loadUser(ctx context.Context, key model.UserID) (*model.User, error) {
	return load(ctx, func(l *loaders) *dataloadgen.Loader[model.UserID, *model.User] { return l.users }, key)
}

// byConversation names the type of the loaders that are keyed by a conversation.
type byConversation[V any] = *dataloadgen.Loader[model.ConversationID, V]
