package graph

import (
	"context"
	"maps"
	"slices"

	"github.com/99designs/gqlgen/graphql"

	"parley/chat"
	"parley/model"
	"parley/store"
)

// prefetcher looks up what the selection of a list needs, for all items at once, before their
// fields are executed. So a list takes one statement for each kind of thing in it, however long it
// is, and its fields find their values in the loaders without waiting for a batch.
//
// A method such as ofMessages looks up what a selection needs for items of that type, and then what
// it needs for the values it found. Only users are collected on the way. They are looked up at the
// end, all together.
type prefetcher struct {
	*loaders
	viewer    model.UserID
	variables map[string]any
	userIDs   map[model.UserID]struct{}
}

// prefetchFunc is a method of prefetcher, such as ofMessages.
type prefetchFunc[T any] func(*prefetcher, context.Context, selection, []T)

// prefetch looks up what the selection of the field in ctx needs for its items.
func prefetch[T any](ctx context.Context, items []T, of prefetchFunc[T]) {
	if field := graphql.GetFieldContext(ctx); field != nil {
		prefetchSelection(ctx, selectionOf(field.Field.Selections), items, of)
	}
}

// prefetchIn is prefetch for the one item that a mutation returns, in a field of its payload.
func prefetchIn[T any](ctx context.Context, name string, item *T, of prefetchFunc[*T]) {
	if field := graphql.GetFieldContext(ctx); field != nil && item != nil {
		prefetchSelection(ctx, selectionOf(field.Field.Selections).under(name), []*T{item}, of)
	}
}

// prefetch looks up what the operation needs for the event that it is executed for. If the event
// itself has everything, it does not touch the loaders: then the answer needs no check for removals
// (see broadcastSubscription.makeForAll).
func (item *streamItem) prefetch(ctx context.Context) {
	e := item.Event
	if e == nil || e.Message == nil {
		return
	}
	// The operation has one of the two fields.
	root := selectionOf(graphql.GetOperationContext(ctx).Operation.SelectionSet)
	event := root.under("conversationEvents")
	message := root.under("messageAdded")
	maps.Copy(message, event.under("message"))
	if !event.has("actor") &&
		!message.has("author", "conversation", "replyTo", "mentions", "reactions", "seenBy") {
		return
	}
	of := func(p *prefetcher, ctx context.Context, s selection, list []*model.Message) {
		p.ofMessages(ctx, s, list)
		if event.has("actor") {
			p.addUser(e.ActorID)
		}
	}
	prefetchSelection(ctx, message, []*model.Message{e.Message}, of)
}

func prefetchSelection[T any](ctx context.Context, s selection, items []T, of prefetchFunc[T]) {
	l, err := loadersOf(ctx)
	if err != nil || len(items) == 0 {
		return
	}
	viewer, err := actor(ctx)
	if err != nil {
		return
	}
	p := &prefetcher{
		loaders: l, viewer: viewer.UserID, userIDs: map[model.UserID]struct{}{},
		variables: graphql.GetOperationContext(ctx).Variables,
	}
	of(p, ctx, s, items)
	p.users.prefetch(ctx, slices.Collect(maps.Keys(p.userIDs)))
}

// windows are the pages that a selection asks for of a list. A field with wrong arguments has none:
// it reports the error itself.
func (p *prefetcher) windows(
	s selection, name string, byDefault store.DefaultPage,
) (list []store.Window) {
	for _, f := range s[name] {
		arguments := f.ArgumentMap(p.variables)
		var args store.PageArgs
		if n, ok := arguments["first"].(int64); ok {
			args.First = new(int(n))
		}
		if n, ok := arguments["last"].(int64); ok {
			args.Last = new(int(n))
		}
		args.After, _ = arguments["after"].(string)
		args.Before, _ = arguments["before"].(string)
		if w, err := args.Window(byDefault); err == nil {
			list = append(list, w)
		}
	}
	return list
}

// values returns the values of a map, in any order.
func values[K comparable, V any](m map[K]V) []V { return slices.Collect(maps.Values(m)) }

// pagesOf returns the keys of the same pages of several parents.
func pagesOf[K comparable](parents []K, windows []store.Window) (pages []pageOf[K]) {
	for _, w := range windows {
		for _, parent := range parents {
			pages = append(pages, pageOf[K]{parent, w})
		}
	}
	return pages
}

func (p *prefetcher) addUser(id *model.UserID) {
	if id != nil {
		p.userIDs[*id] = struct{}{}
	}
}

func (p *prefetcher) ofConversations(ctx context.Context, s selection, list []*model.Conversation) {
	ids := make([]model.ConversationID, 0, len(list))
	var direct []model.ConversationID
	for _, c := range list {
		p.conversations.prime(c.ID, c)
		ids = append(ids, c.ID)
		if c.Kind == model.Direct {
			direct = append(direct, c.ID)
		}
	}
	if s.has("title") {
		for _, id := range p.partners.prefetch(ctx, direct) {
			p.addUser(&id)
		}
	}
	if s.has("eventsCursor") {
		p.places.prefetch(ctx, newestEvents(list))
	}
	if s.has("memberCount") {
		p.memberCounts.prefetch(ctx, ids)
	}
	if s.has("owner") {
		for _, owner := range p.owners.prefetch(ctx, ids) {
			p.addUser(&owner.UserID)
		}
	}
	if s.has("viewerMember", "draft") {
		p.ofMembers(ctx, s.under("viewerMember"), values(p.memberships.prefetch(ctx, ids)))
	}
	if s.has("members") {
		var members []*model.ConversationMember
		keys := pagesOf(ids, p.windows(s, "members", membersPage))
		for _, page := range p.members.prefetch(ctx, keys) {
			members = append(members, page.Items...)
		}
		p.ofMembers(ctx, s.under("members"), members)
	}
	if s.has("messages") {
		var messages []*model.Message
		keys := pagesOf(ids, p.windows(s, "messages", messagesPage))
		for _, page := range p.messagePages.prefetch(ctx, keys) {
			messages = append(messages, page.Items...)
		}
		p.ofMessages(ctx, s.under("messages"), messages)
	}
	if s.has("lastMessage") {
		p.ofMessages(ctx, s.under("lastMessage"), values(p.lastMessages.prefetch(ctx, ids)))
	}
}

func (p *prefetcher) ofMembers(ctx context.Context, s selection, list []*model.ConversationMember) {
	var mine []model.ConversationID
	for _, m := range list {
		if m.UserID == p.viewer {
			mine = append(mine, m.ConversationID)
		}
		if s.has("user", "lastReadSeq") {
			p.addUser(&m.UserID)
		}
	}
	if s.has("lastReadSeq") {
		p.addUser(&p.viewer)
	}
	if s.has("unreadCount", "unreadMentionCount") {
		p.unread.prefetch(ctx, mine)
	}
}

func (p *prefetcher) ofMessages(ctx context.Context, s selection, list []*model.Message) {
	var ids, replies []model.MessageID
	conversations := map[model.ConversationID]struct{}{}
	for _, m := range list {
		ids = append(ids, m.ID)
		conversations[m.ConversationID] = struct{}{}
		if m.ReplyToID != nil {
			replies = append(replies, *m.ReplyToID)
		}
		if s.has("author") {
			p.addUser(m.AuthorID)
		}
	}
	if s.has("conversation") {
		found := p.conversations.prefetch(ctx, slices.Collect(maps.Keys(conversations)))
		p.ofConversations(ctx, s.under("conversation"), values(found))
	}
	if s.has("replyTo") {
		p.ofMessages(ctx, s.under("replyTo"), values(p.messages.prefetch(ctx, replies)))
	}
	if s.has("mentions") {
		for _, userIDs := range p.mentioned.prefetch(ctx, ids) {
			for _, id := range userIDs {
				p.addUser(&id)
			}
		}
	}
	if s.has("reactions") {
		p.ofReactions(ctx, s.under("reactions"), values(p.reactions.prefetch(ctx, ids)))
	}
	if s.has("seenBy") {
		keys := pagesOf(ids, p.windows(s, "seenBy", usersPage))
		for _, page := range p.seenBy.prefetch(ctx, keys) {
			for _, m := range page.Items {
				p.addUser(&m.UserID)
			}
		}
	}
}

func (p *prefetcher) ofReactions(ctx context.Context, s selection, list [][]*model.ReactionGroup) {
	if !s.has("users") {
		return
	}
	var groups []chat.EmojiOn
	for _, of := range list {
		for _, g := range of {
			groups = append(groups, chat.EmojiOn{MessageID: g.MessageID, Emoji: g.Emoji})
		}
	}
	keys := pagesOf(groups, p.windows(s, "users", usersPage))
	for _, page := range p.reactors.prefetch(ctx, keys) {
		for _, reactor := range page.Items {
			p.addUser(&reactor.UserID)
		}
	}
}
