package graph

import (
	"context"
	"errors"
	"sync"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/chat"
	"parley/errs"
	"parley/feed"
	"parley/live"
	"parley/model"
)

// loaders are those of one response and one actor. They live no longer than the response, so a long
// subscription never serves what was true an hour ago; and what they find depends on the actor.
type loaders struct {
	users         *loader[model.UserID, *model.User]
	presences     *loader[model.UserID, live.Presence]
	conversations *loader[model.ConversationID, *model.Conversation]
	lastMessages  *loader[model.ConversationID, *model.Message]
	places        *loader[feed.EventKey, feed.Place]
	memberships   *loader[model.ConversationID, *model.ConversationMember]
	owners        *loader[model.ConversationID, *model.ConversationMember]
	partners      *loader[model.ConversationID, model.UserID]
	memberCounts  *loader[model.ConversationID, int]
	unread        *loader[model.ConversationID, model.Unread]
	membersByID   *loader[model.MemberID, *model.ConversationMember]
	members       pages[model.ConversationID, *model.ConversationMember]
	messages      *loader[model.MessageID, *model.Message]
	messagePages  pages[model.ConversationID, *model.Message]
	mentioned     *loader[model.MessageID, []model.UserID]
	reactions     *loader[model.MessageID, []*model.ReactionGroup]
	reactors      pages[chat.EmojiOn, *model.Reaction]
	seenBy        pages[model.MessageID, *model.ConversationMember]
}

func (r *Resolver) newLoaders(actor model.Actor) *loaders {
	l := &loaders{
		users:         newLoader(r.Auth.Users),
		presences:     newLoader(actingAs(actor, r.Live.Presences)),
		conversations: newLoader(actingAs(actor, r.Chat.Conversations)),
		lastMessages:  newLoader(actingAs(actor, charged(r.Chat.LastMessages, one, oneMessage))),
		places:        newLoader(r.Feed.Places),
		memberships:   newLoader(actingAs(actor, r.Chat.Memberships)),
		owners:        newLoader(actingAs(actor, r.Chat.Owners)),
		partners:      newLoader(actingAs(actor, r.Chat.Partners)),
		memberCounts:  newLoader(actingAs(actor, r.Chat.MemberCounts)),
		unread:        newLoader(actingAs(actor, r.Chat.Unread)),
		membersByID:   newLoader(actingAs(actor, r.Chat.MembersByID)),
		members:       newLoader(actingAs(actor, byPage(r.Chat.Members))),
		messages:      newLoader(actingAs(actor, charged(r.Chat.MessagesByID, one, oneMessage))),
		messagePages: newLoader(actingAs(actor,
			charged(byPage(r.Chat.Messages), pageLimit, messagesOfPage))),
		mentioned: newLoader(actingAs(actor, r.Chat.Mentioned)),
		reactions: newLoader(actingAs(actor, r.Chat.Reactions)),
		reactors:  newLoader(actingAs(actor, byPage(r.Chat.Reactors))),
		seenBy:    newLoader(actingAs(actor, byPage(r.Chat.SeenBy))),
	}
	l.users.batcher = r.users
	return l
}

// responseLoaders are the loaders of one response, by actor: a mutation that signs in changes it.
type responseLoaders struct {
	resolver *Resolver
	mu       sync.Mutex // guards byActor
	byActor  map[model.Actor]*loaders
}

// used reports whether anything was looked up.
func (l *responseLoaders) used() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byActor) > 0
}

type loadersKey struct{}

// newResponseLoaders returns a context with loaders that have not looked anything up.
func (r *Resolver) newResponseLoaders(ctx context.Context) (context.Context, *responseLoaders) {
	l := &responseLoaders{resolver: r, byActor: map[model.Actor]*loaders{}}
	return context.WithValue(ctx, loadersKey{}, l), l
}

// withLoaders gives each response its own loaders.
func (r *Resolver) withLoaders(
	ctx context.Context, next graphql.ResponseHandler,
) *graphql.Response {
	ctx, l := r.newResponseLoaders(ctx)
	if item := itemOf(ctx); item != nil {
		item.loaders = l
		item.prefetch(ctx)
	}
	return next(ctx)
}

// withLoadersOfRoot gives each root field of a mutation its own loaders: it must not see what was
// true before the mutation.
func (r *Resolver) withLoadersOfRoot(
	ctx context.Context, next graphql.RootResolver,
) graphql.Marshaler {
	if graphql.GetOperationContext(ctx).Operation.Operation == ast.Mutation {
		ctx, _ = r.newResponseLoaders(ctx)
	}
	return next(ctx)
}

func loadersOf(ctx context.Context) (*loaders, error) {
	viewer, err := actor(ctx)
	if err != nil {
		return nil, err
	}
	response, ok := ctx.Value(loadersKey{}).(*responseLoaders)
	if !ok {
		return nil, errors.New("loaders are used outside a response")
	}
	response.mu.Lock()
	defer response.mu.Unlock()
	found := response.byActor[viewer]
	if found == nil {
		found = response.resolver.newLoaders(viewer)
		response.byActor[viewer] = found
	}
	return found, nil
}

// load looks one key up. The zero value is what does not exist, or what the actor may not see.
func load[K comparable, V any](
	ctx context.Context, choose func(*loaders) *loader[K, V], key K,
) (V, error) {
	l, err := loadersOf(ctx)
	if err != nil {
		var zero V
		return zero, err
	}
	return choose(l).thunk(ctx, key)()
}

// byConversation and byMessage are loaders with such a key.
type (
	byConversation[V any] = *loader[model.ConversationID, V]
	byMessage[V any]      = *loader[model.MessageID, V]
)

func loadUser(ctx context.Context, key model.UserID) (*model.User, error) {
	return load(ctx, func(l *loaders) *loader[model.UserID, *model.User] { return l.users }, key)
}

// loadUsers looks users up, in the order of their ids. It leaves out those who no longer exist.
func loadUsers(ctx context.Context, ids []model.UserID) ([]*model.User, error) {
	l, err := loadersOf(ctx)
	if err != nil {
		return nil, err
	}
	thunks := make([]func() (*model.User, error), len(ids))
	for i, id := range ids {
		thunks[i] = l.users.thunk(ctx, id)
	}
	users := make([]*model.User, 0, len(ids))
	for _, thunk := range thunks {
		u, err := thunk()
		if err != nil {
			return nil, err
		}
		if u != nil {
			users = append(users, u)
		}
	}
	return users, nil
}

func loadMessage(ctx context.Context, key model.MessageID) (*model.Message, error) {
	return load(ctx, func(l *loaders) byMessage[*model.Message] { return l.messages }, key)
}

func loadConversation(ctx context.Context, key model.ConversationID) (*model.Conversation, error) {
	return load(ctx,
		func(l *loaders) byConversation[*model.Conversation] { return l.conversations }, key)
}

func loadMembership(
	ctx context.Context, key model.ConversationID,
) (*model.ConversationMember, error) {
	return load(ctx,
		func(l *loaders) byConversation[*model.ConversationMember] { return l.memberships }, key)
}

func loadMember(ctx context.Context, key model.MemberID) (*model.ConversationMember, error) {
	type byMember = *loader[model.MemberID, *model.ConversationMember]
	return load(ctx, func(l *loaders) byMember { return l.membersByID }, key)
}

func loadUnread(ctx context.Context, key model.ConversationID) (model.Unread, error) {
	return load(ctx, func(l *loaders) byConversation[model.Unread] { return l.unread }, key)
}

// Errors of a field that is never null, when its object was found but its value no longer exists.
var (
	errNoMember  = errs.New(errs.Forbidden, "You are no longer a member of this conversation.")
	errNoAccount = errs.New(errs.NotFound, "The account has been removed.")
)

// required returns what was looked up for such a field, or the error missing if nothing was found.
func required[T any](found *T, err, missing error) (*T, error) {
	if found == nil && err == nil {
		return nil, missing
	}
	return found, err
}
