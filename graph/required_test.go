package graph_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/99designs/gqlgen/graphql"
	"github.com/uptrace/bun"

	"parley/store"
	"parley/store/storetest"
)

// afterFirst does something once, after the first statement of the next operation.
type afterFirst struct{ next atomic.Pointer[func()] }

func (*afterFirst) BeforeQuery(
	ctx context.Context, _ *bun.QueryEvent,
) context.Context {
	return ctx
}

func (f *afterFirst) AfterQuery(ctx context.Context, _ *bun.QueryEvent) {
	if then := f.next.Load(); then != nil && graphql.HasOperationContext(ctx) &&
		f.next.CompareAndSwap(then, nil) {
		(*then)()
	}
}

// TestFieldsOfRemovedObjects removes the viewer from a conversation, and another user's account,
// between the look-up of an object and that of its fields. That is not a mistake, and not an
// internal error either, which mustServe would find in the log.
func TestFieldsOfRemovedObjects(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		found := new(afterFirst)
		db.Watch(found)
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		const (
			isMessage = iota
			isConversation
			isMember
		)
		for i, c := range []struct {
			node         int
			field, asked string
			codes        []string
		}{
			{isMessage, "Message.conversation", `conversation { id }`, []string{"FORBIDDEN"}},
			{isMessage, "Message.replyTo", `replyTo { id }`, nil},
			{isMessage, "Message.mentions", `mentions { id }`, nil},
			{isMessage, "Message.reactions", `reactions { count }`, nil},
			{
				isMessage, "ReactionGroup.users",
				`reactions { users { nodes { id } edges { cursor } } }`, nil,
			},
			{isMessage, "Message.seenBy", `seenBy { nodes { id } edges { cursor } }`, nil},
			{isConversation, "Conversation.title", `title`, nil},
			{isConversation, "Conversation.owner", `owner { id }`, nil},
			{isConversation, "Conversation.memberCount", `memberCount`, nil},
			{
				isConversation, "Conversation.members", `members { nodes { id } edges { cursor } }`,
				nil,
			},
			{
				isConversation, "Conversation.messages",
				`messages { nodes { id } edges { cursor } }`,
				nil,
			},
			{isConversation, "Conversation.lastMessage", `lastMessage { id }`, nil},
			{
				isConversation, "Conversation.viewerMember", `viewerMember { role }`,
				[]string{"FORBIDDEN"},
			},
			{isConversation, "Conversation.draft", `draft`, nil},
			{isMember, "ConversationMember.user", `user { id }`, []string{"NOT_FOUND"}},
			{isMember, "ConversationMember.lastReadSeq", `lastReadSeq`, nil},
		} {
			other := s.mustRegister(fmt.Sprint("other", i))
			id := s.mustConversation(ann, bob, other)
			nodes := []string{
				s.mustSay(ann, id, "Hello @bob", s.mustSay(ann, id, "before")), id,
				s.mustMember(ann, id, other),
			}
			s.mustReact(ann, nodes[isMessage], "👍")
			found.next.Store(new(func() {
				s.must(ann,
					`mutation($c: ID!, $u: ID!) {
						removeMember(input: {conversationId: $c, userId: $u}) {
						userErrors { code path } } }`,
					obj{"c": id, "u": bob.id})
				s.must(other,
					`mutation($p: String!) { deleteAccount(input: {password: $p}) {
						userErrors { code path } } }`,
					obj{"p": fmt.Sprint("a password of other", i)})
			}))
			got := s.do(bob.token, `query($id: ID!) { node(id: $id) { __typename
				... on Message { `+onlyOf(c.node == isMessage, c.asked)+` }
				... on Conversation { `+onlyOf(c.node == isConversation, c.asked)+` }
				... on ConversationMember { `+onlyOf(c.node == isMember,
				c.asked)+` } } }`, obj{"id": nodes[c.node]})
			if !slices.Equal(got.codes(), c.codes) || found.next.Load() != nil {
				t.Errorf("%s: %+v, want %v", c.field, got, c.codes)
			}
		}
	})
}

func onlyOf(is bool, asked string) string {
	if !is {
		return "id"
	}
	return asked
}

// mustMember returns the id of a membership.
func (s *api) mustMember(caller person, conversation string, of person) string {
	s.t.Helper()
	a := s.must(caller,
		`query($id: ID!) { conversation(id: $id) { members { nodes { id user { id } } } } }`,
		obj{"id": conversation})
	for _, node := range a.at(s.t, "conversation.members.nodes").(list) {
		m := node.(obj)
		if m["user"].(obj)["id"] == of.id {
			return m["id"].(string)
		}
	}
	s.t.Fatalf("no membership of %s in %+v", of.id, a)
	return ""
}
