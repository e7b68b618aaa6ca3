package graph

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vikstrous/dataloadgen"

	"parley/chat"
	"parley/errs"
	"parley/live"
	"parley/model"
	"parley/store"
)

// loaders gather what the fields of one response ask for into few queries. They live for that
// response only, so that a long subscription never serves what was true an hour ago, and for one
// actor, because what is found depends on who asks.
type loaders struct {
	users         *loader[model.UserID, *model.User]
	presences     *loader[model.UserID, live.Presence]
	conversations *loader[model.ConversationID, *model.Conversation]
	lastMessages  *loader[model.ConversationID, *model.Message]
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
		memberships:   newLoader(actingAs(actor, r.Chat.Memberships)),
		owners:        newLoader(actingAs(actor, r.Chat.Owners)),
		partners:      newLoader(actingAs(actor, r.Chat.Partners)),
		memberCounts:  newLoader(actingAs(actor, r.Chat.MemberCounts)),
		unread:        newLoader(actingAs(actor, r.Chat.Unread)),
		membersByID:   newLoader(actingAs(actor, r.Chat.MembersByID)),
		members:       newLoader(actingAs(actor, byPage(r.Chat.Members))),
		messages:      newLoader(actingAs(actor, charged(r.Chat.MessagesByID, one, oneMessage))),
		messagePages:  newLoader(actingAs(actor, charged(byPage(r.Chat.Messages), limitOf, pageOfMessages))),
		mentioned:     newLoader(actingAs(actor, r.Chat.Mentioned)),
		reactions:     newLoader(actingAs(actor, r.Chat.Reactions)),
		reactors:      newLoader(actingAs(actor, byPage(r.Chat.Reactors))),
		seenBy:        newLoader(actingAs(actor, byPage(r.Chat.SeenBy))),
	}
	l.users.gather = r.people.load // what is foreseen waits for no other response
	return l
}

// loader looks things up by key: those that are foreseen at once, the others together with what
// fields ask for at the same moment.
type loader[K comparable, V any] struct {
	find func(context.Context, []K) (map[K]V, error)
	// find, unless something else is better for what was not foreseen
	gather func(context.Context, []K) (map[K]V, error)

	// guards what follows; held while looking up, so that nobody looks up the same
	mu       sync.Mutex
	foreseen map[K]bool // whether it is there
	found    map[K]V
	asked    *dataloadgen.Loader[K, V] // made when it is needed, which is seldom
}

// gathering is how long a loader waits for more keys, where what is asked for was not foreseen. It
// is the least: a timer of a process that has nothing else to do may ring a millisecond later.
const gathering = 500 * time.Microsecond

func newLoader[K comparable, V any](find func(context.Context, []K) (map[K]V, error)) *loader[K, V] {
	return &loader[K, V]{find: find, gather: find}
}

// foresee looks up at once what fields are about to ask for. Where it fails, the fields ask
// themselves, and tell.
func (l *loader[K, V]) foresee(ctx context.Context, keys []K) map[K]V {
	l.mu.Lock()
	defer l.mu.Unlock()
	var unknown []K
	for _, key := range keys {
		if _, known := l.foreseen[key]; !known {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 {
		found, err := l.find(ctx, unknown)
		if err != nil {
			return nil
		}
		for _, key := range unknown {
			v, there := found[key]
			l.keep(key, v, there)
		}
	}
	all := make(map[K]V, len(keys))
	for _, key := range keys {
		if l.foreseen[key] {
			all[key] = l.found[key]
		}
	}
	return all
}

// keep remembers what was found; the caller holds the lock.
func (l *loader[K, V]) keep(key K, v V, there bool) {
	if l.foreseen == nil {
		l.foreseen, l.found = map[K]bool{}, map[K]V{}
	}
	l.foreseen[key], l.found[key] = there, v
}

// know has what somebody has read anyway be found.
func (l *loader[K, V]) know(key K, v V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.foreseen[key]; !known {
		l.keep(key, v, true)
	}
}

// ask begins to look one key up; the function that it returns waits for the answer. What is not
// there, or not for the actor to see, is the zero value.
func (l *loader[K, V]) ask(ctx context.Context, key K) func() (V, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.foreseen[key]; known {
		v := l.found[key]
		return func() (V, error) { return v, nil }
	}
	if l.asked == nil {
		l.asked = dataloadgen.NewMappedLoader(l.gather, dataloadgen.WithWait(gathering))
	}
	answer := l.asked.LoadThunk(ctx, key)
	return func() (V, error) {
		v, err := answer()
		if errors.Is(err, dataloadgen.ErrNotFound) {
			err = nil
		}
		return v, err
	}
}

// pageOf names one page of a list that each of many parents has.
type pageOf[K comparable] struct {
	parent K
	window store.Window
}

// pages names the type of the loaders of such lists.
type pages[K comparable, T any] = *loader[pageOf[K], store.Page[T]]

// byPage has a query that is for one page of many parents serve a loader, whose keys may be of
// several pages.
func byPage[K comparable, V any](
	find func(context.Context, model.Actor, []K, store.Window) (map[K]V, error),
) func(context.Context, model.Actor, []pageOf[K]) (map[pageOf[K]]V, error) {
	return func(ctx context.Context, actor model.Actor, pages []pageOf[K]) (map[pageOf[K]]V, error) {
		parents := map[store.Window][]K{}
		for _, p := range pages {
			parents[p.window] = append(parents[p.window], p.parent)
		}
		all := make(map[pageOf[K]]V, len(pages))
		for window, list := range parents {
			found, err := find(ctx, actor, list, window)
			if err != nil {
				return nil, err
			}
			for parent, v := range found {
				all[pageOf[K]{parent, window}] = v
			}
		}
		return all, nil
	}
}

// readAtOnce is how many messages one statement reads: what it brings is counted before the next
// one.
const readAtOnce = 500

// charged reads messages in parts, and ends the execution where they are more than fit into memory.
func charged[K comparable, V any](
	find func(context.Context, model.Actor, []K) (map[K]V, error), size func(K) int, messages func(V) []*model.Message,
) func(context.Context, model.Actor, []K) (map[K]V, error) {
	return func(ctx context.Context, actor model.Actor, keys []K) (map[K]V, error) {
		a := answerOf(ctx)
		if a == nil {
			return find(ctx, actor, keys)
		}
		all := make(map[K]V, len(keys))
		for rest := keys; len(rest) > 0; {
			n, read := 0, 0
			for n < len(rest) && (n == 0 || read+size(rest[n]) <= readAtOnce) {
				read += size(rest[n])
				n++
			}
			found, err := find(ctx, actor, rest[:n])
			rest = rest[n:]
			if err != nil {
				return nil, err
			}
			maps.Copy(all, found)
			for _, v := range found {
				if err := a.chargeRead(messages(v)...); err != nil {
					return nil, err
				}
			}
		}
		return all, nil
	}
}

func one[K any](K) int { return 1 }

func limitOf(p pageOf[model.ConversationID]) int { return p.window.Limit }

func oneMessage(m *model.Message) []*model.Message { return []*model.Message{m} }

func pageOfMessages(slice store.Page[*model.Message]) []*model.Message { return slice.Items }

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

// used reports whether anything was looked up.
func (l *responseLoaders) used() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byActor) > 0
}

type loadersKey struct{}

func (r *Resolver) freshLoaders(ctx context.Context) context.Context {
	return context.WithValue(ctx, loadersKey{}, &responseLoaders{resolver: r, byActor: map[model.Actor]*loaders{}})
}

// withLoaders gives each response loaders of its own.
func (r *Resolver) withLoaders(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
	ctx = r.freshLoaders(ctx)
	if item := givenTo(ctx); item != nil {
		item.loaders, _ = ctx.Value(loadersKey{}).(*responseLoaders)
		item.foresee(ctx)
	}
	return next(ctx)
}

// withLoadersAfterEach gives each mutation of an operation loaders of its own: it must not see what
// was before it.
func (r *Resolver) withLoadersAfterEach(ctx context.Context, next graphql.RootResolver) graphql.Marshaler {
	if graphql.GetOperationContext(ctx).Operation.Operation == ast.Mutation {
		ctx = r.freshLoaders(ctx)
	}
	return next(ctx)
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
func load[K comparable, V any](ctx context.Context, choose func(*loaders) *loader[K, V], key K) (V, error) {
	l, err := loadersOf(ctx)
	if err != nil {
		var zero V
		return zero, err
	}
	return choose(l).ask(ctx, key)()
}

func loadUser(ctx context.Context, key model.UserID) (*model.User, error) {
	return load(ctx, func(l *loaders) *loader[model.UserID, *model.User] { return l.users }, key)
}

// Why a field that is never null has no value: the object that it belongs to was found, and then
// somebody was removed.
var (
	errNoMember  = errs.New(errs.Forbidden, "You are no longer a member of this conversation.")
	errNoAccount = errs.New(errs.NotFound, "The account has been removed.")
)

// there is what was looked up for such a field, or why there is nothing.
func there[T any](found *T, err, gone error) (*T, error) {
	if found == nil && err == nil {
		return nil, gone
	}
	return found, err
}

// byConversation and byMessage name the types of the loaders that are keyed by one.
type (
	byConversation[V any] = *loader[model.ConversationID, V]
	byMessage[V any]      = *loader[model.MessageID, V]
)

func loadMessage(ctx context.Context, key model.MessageID) (*model.Message, error) {
	return load(ctx, func(l *loaders) byMessage[*model.Message] { return l.messages }, key)
}

func loadConversation(ctx context.Context, key model.ConversationID) (*model.Conversation, error) {
	return load(ctx, func(l *loaders) byConversation[*model.Conversation] { return l.conversations }, key)
}

func loadMembership(ctx context.Context, key model.ConversationID) (*model.ConversationMember, error) {
	return load(ctx, func(l *loaders) byConversation[*model.ConversationMember] { return l.memberships }, key)
}

func loadUnread(ctx context.Context, key model.ConversationID) (model.Unread, error) {
	return load(ctx, func(l *loaders) byConversation[model.Unread] { return l.unread }, key)
}

// loadUsers looks people up in the order of their ids; who is gone is left out.
func loadUsers(ctx context.Context, ids []model.UserID) ([]*model.User, error) {
	users := make([]*model.User, 0, len(ids))
	l, err := loadersOf(ctx)
	if err != nil {
		return nil, err
	}
	answers := make([]func() (*model.User, error), len(ids))
	for i, id := range ids {
		answers[i] = l.users.ask(ctx, id)
	}
	for _, answer := range answers {
		u, err := answer()
		if err != nil {
			return nil, err
		}
		if u != nil {
			users = append(users, u)
		}
	}
	return users, nil
}
