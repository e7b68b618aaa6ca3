package graph

import (
	"context"
	"maps"
	"slices"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/chat"
	"parley/model"
	"parley/store"
)

// lookahead reads from the operation what will be asked of the items of a list, and looks it up for
// all of them at once: so that a list takes as many statements as it has kinds of things in it,
// however long it is, and no field waits for others.
type lookahead struct {
	*loaders
	viewer    model.UserID
	variables map[string]any
	people    map[model.UserID]struct{} // looked up last, all together
}

// foresee runs look for the items of the field that ctx belongs to.
func foresee[T any](ctx context.Context, items []T, look func(*lookahead, context.Context, asked, []T)) {
	if field := graphql.GetFieldContext(ctx); field != nil {
		foreseeAsked(ctx, askedOf(field.Field.Selections), items, look)
	}
}

// foreseeIn runs look for the one thing that a mutation shows, in the field of its payload that has
// this name.
func foreseeIn[T any](ctx context.Context, name string, thing *T, look func(*lookahead, context.Context, asked, []*T)) {
	if field := graphql.GetFieldContext(ctx); field != nil && thing != nil {
		foreseeAsked(ctx, askedOf(field.Field.Selections).under(name), []*T{thing}, look)
	}
}

// foresee looks up what is asked of the event that an operation is executed for, if anything that
// has to be looked up: its followers wait.
func (item *given) foresee(ctx context.Context) {
	e := item.Event
	if e == nil || e.Message == nil {
		return
	}
	root := askedOf(graphql.GetOperationContext(ctx).Operation.SelectionSet)
	event := root.under("conversationEvents")
	message := root.under("messageAdded")
	maps.Copy(message, event.under("message")) // of an operation that has only one of the two
	if event.has("actor") || message.has("author", "conversation", "replyTo", "mentions", "reactions", "seenBy") {
		foreseeAsked(ctx, message, []*model.Message{e.Message}, func(l *lookahead, ctx context.Context, a asked, list []*model.Message) {
			l.messagesHave(ctx, a, list)
			if event.has("actor") {
				l.person(e.ActorID)
			}
		})
	}
}

func foreseeAsked[T any](ctx context.Context, a asked, items []T, look func(*lookahead, context.Context, asked, []T)) {
	l, err := loadersOf(ctx)
	if err != nil || len(items) == 0 {
		return
	}
	who, err := actor(ctx)
	if err != nil {
		return
	}
	ahead := &lookahead{
		loaders: l, viewer: who.UserID, variables: graphql.GetOperationContext(ctx).Variables,
		people: map[model.UserID]struct{}{},
	}
	look(ahead, ctx, a, items)
	l.users.foresee(ctx, slices.Collect(maps.Keys(ahead.people)))
}

// asked is what a selection asks for, by name: fragments are resolved, and connections passed
// through. Conditions are not looked at; what is foreseen in vain costs a statement and nothing
// else.
type asked map[string][]*ast.Field

func askedOf(sets ...ast.SelectionSet) asked {
	found, seen := asked{}, map[*ast.FragmentDefinition]bool{}
	for _, set := range sets {
		found.add(set, seen)
	}
	return found
}

// add goes through each fragment once, however often it is spread: in a short document that can be
// billions of times.
func (a asked) add(set ast.SelectionSet, seen map[*ast.FragmentDefinition]bool) {
	for _, selection := range set {
		switch s := selection.(type) {
		case *ast.Field:
			switch s.Name {
			case "edges", "node", "nodes":
				a.add(s.SelectionSet, seen)
			default:
				a[s.Name] = append(a[s.Name], s)
			}
		case *ast.InlineFragment:
			a.add(s.SelectionSet, seen)
		case *ast.FragmentSpread:
			if !seen[s.Definition] {
				seen[s.Definition] = true
				a.add(s.Definition.SelectionSet, seen)
			}
		}
	}
}

func (a asked) has(names ...string) bool {
	for _, name := range names {
		if a[name] != nil {
			return true
		}
	}
	return false
}

// under is what is asked of a field's value.
func (a asked) under(name string) asked {
	sets := make([]ast.SelectionSet, len(a[name]))
	for i, f := range a[name] {
		sets[i] = f.SelectionSet
	}
	return askedOf(sets...)
}

// windows are the pages that are asked for of a connection.
func (l *lookahead) windows(a asked, name string, byDefault store.DefaultPage) (list []store.Window) {
	for _, f := range a[name] {
		arguments := f.ArgumentMap(l.variables)
		var p store.PageArgs
		if n, ok := arguments["first"].(int64); ok {
			p.First = new(int(n))
		}
		if n, ok := arguments["last"].(int64); ok {
			p.Last = new(int(n))
		}
		p.After, _ = arguments["after"].(string)
		p.Before, _ = arguments["before"].(string)
		if w, err := p.Window(byDefault); err == nil { // else the field says what is wrong with it
			list = append(list, w)
		}
	}
	return list
}

func pagesOf[K comparable](parents []K, windows []store.Window) (pages []pageOf[K]) {
	for _, w := range windows {
		for _, parent := range parents {
			pages = append(pages, pageOf[K]{parent, w})
		}
	}
	return pages
}

func (l *lookahead) person(id *model.UserID) {
	if id != nil {
		l.people[*id] = struct{}{}
	}
}

func (l *lookahead) conversationsHave(ctx context.Context, a asked, list []*model.Conversation) {
	ids := make([]model.ConversationID, 0, len(list))
	var direct []model.ConversationID
	for _, c := range list {
		l.conversations.know(c.ID, c)
		ids = append(ids, c.ID)
		if c.Kind == model.Direct {
			direct = append(direct, c.ID)
		}
	}
	if a.has("title") {
		for _, id := range l.partners.foresee(ctx, direct) {
			l.person(&id)
		}
	}
	if a.has("memberCount") {
		l.memberCounts.foresee(ctx, ids)
	}
	if a.has("owner") {
		for _, owner := range l.owners.foresee(ctx, ids) {
			l.person(&owner.UserID)
		}
	}
	if a.has("viewerMember", "draft") {
		l.membersHave(ctx, a.under("viewerMember"), slices.Collect(maps.Values(l.memberships.foresee(ctx, ids))))
	}
	if a.has("members") {
		var members []*model.ConversationMember
		for _, slice := range l.members.foresee(ctx, pagesOf(ids, l.windows(a, "members", membersPage))) {
			members = append(members, slice.Items...)
		}
		l.membersHave(ctx, a.under("members"), members)
	}
	if a.has("messages") {
		var messages []*model.Message
		for _, slice := range l.messagePages.foresee(ctx, pagesOf(ids, l.windows(a, "messages", messagesPage))) {
			messages = append(messages, slice.Items...)
		}
		l.messagesHave(ctx, a.under("messages"), messages)
	}
	if a.has("lastMessage") {
		l.messagesHave(ctx, a.under("lastMessage"), slices.Collect(maps.Values(l.lastMessages.foresee(ctx, ids))))
	}
}

func (l *lookahead) membersHave(ctx context.Context, a asked, list []*model.ConversationMember) {
	var mine []model.ConversationID
	for _, m := range list {
		if m.UserID == l.viewer {
			mine = append(mine, m.ConversationID)
		}
		if a.has("user", "lastReadSeq") {
			l.person(&m.UserID)
		}
	}
	if a.has("lastReadSeq") {
		l.person(&l.viewer)
	}
	if a.has("unreadCount", "unreadMentionCount") {
		l.unread.foresee(ctx, mine)
	}
}

func (l *lookahead) messagesHave(ctx context.Context, a asked, list []*model.Message) {
	var ids, replies []model.MessageID
	conversations := map[model.ConversationID]*model.Conversation{}
	for _, m := range list {
		ids = append(ids, m.ID)
		conversations[m.ConversationID] = nil
		if m.ReplyToID != nil {
			replies = append(replies, *m.ReplyToID)
		}
		if a.has("author") {
			l.person(m.AuthorID)
		}
	}
	if a.has("conversation") {
		l.conversationsHave(ctx, a.under("conversation"), slices.Collect(maps.Values(l.conversations.foresee(ctx, slices.Collect(maps.Keys(conversations))))))
	}
	if a.has("replyTo") {
		l.messagesHave(ctx, a.under("replyTo"), slices.Collect(maps.Values(l.messages.foresee(ctx, replies))))
	}
	if a.has("mentions") {
		for _, people := range l.mentioned.foresee(ctx, ids) {
			for _, id := range people {
				l.person(&id)
			}
		}
	}
	if a.has("reactions") {
		l.reactionsHave(ctx, a.under("reactions"), slices.Collect(maps.Values(l.reactions.foresee(ctx, ids))))
	}
	if a.has("seenBy") {
		for _, slice := range l.seenBy.foresee(ctx, pagesOf(ids, l.windows(a, "seenBy", peoplePage))) {
			for _, m := range slice.Items {
				l.person(&m.UserID)
			}
		}
	}
}

func (l *lookahead) reactionsHave(ctx context.Context, a asked, list [][]*model.ReactionGroup) {
	if !a.has("users") {
		return
	}
	var groups []chat.EmojiOn
	for _, of := range list {
		for _, g := range of {
			groups = append(groups, chat.EmojiOn{MessageID: g.MessageID, Emoji: g.Emoji})
		}
	}
	for _, slice := range l.reactors.foresee(ctx, pagesOf(groups, l.windows(a, "users", peoplePage))) {
		for _, reactor := range slice.Items {
			l.person(&reactor.UserID)
		}
	}
}
