package graph_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/99designs/gqlgen/graphql"
	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// statements records the statements of requests. It leaves out what a request does not decide: the
// look-up of its session, which is cached, and what runs in the background.
type statements struct {
	mu      sync.Mutex
	list    []string
	batches int // statements for users who were not prefetched, for which a request had to wait
}

func (s *statements) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	// Batches of users run outside of any one request.
	users := strings.Contains(event.Query, `FROM users AS u WHERE u.id `)
	if graphql.HasOperationContext(ctx) || users {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.list = append(s.list, event.Query)
		if users && !graphql.HasOperationContext(ctx) {
			s.batches++
		}
	}
	return ctx
}

func (*statements) AfterQuery(context.Context, *bun.QueryEvent) {}

// drain returns the statements since the last call.
func (s *statements) drain() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, s.list = s.list, nil
	return list
}

// batched returns how many batches of users there were since the last call.
func (s *statements) batched() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, s.batches = s.batches, 0
	return n
}

// crowd is a fixture with much data. The newest two items of each list need as many kinds of
// look-ups as all of them.
type crowd struct {
	*api
	ann    person
	others []person // p0 to p9

	conversations list     // the answer of viewer.conversations, newest first
	group         string   // id of the conversation with many messages
	messages      list     // the answer of conversation.messages, oldest first
	found         list     // the answer of searchMessages, newest first
	ids           []string // of things of all kinds
	nodes         list     // the answers to them
}

const (
	crowdConversations = 20
	crowdMessages      = 50
)

func nickname(n int) string { return fmt.Sprintf("p%d", n) }

func nick(n int) obj { return obj{"nickname": nickname(n)} }

func mustCrowd(t *testing.T, s *api) *crowd {
	t.Helper()
	c := &crowd{api: s, ann: s.mustRegister("ann")}
	for i := range crowdConversations / 2 {
		c.others = append(c.others, s.mustRegister(nickname(i)))
	}
	for i := range crowdConversations / 2 {
		c.addGroup(i)
		if i == crowdConversations/2-1 {
			c.addMessages()
		}
		c.addDirect(i)
	}
	return c
}

// addGroup starts a group of seven with one message, which mentions ann and has two kinds of
// reactions.
func (c *crowd) addGroup(i int) {
	id := c.mustConversation(c.ann, c.others[:6]...)
	author, content := i%6, fmt.Sprintf("@ann engine %d", i)
	m := c.mustSay(c.others[author], id, content)
	c.mustReact(c.ann, m, "👍")
	c.mustReact(c.others[0], m, "👍")
	c.mustReact(c.others[1], m, "🎉")
	members := list{obj{"user": obj{"nickname": "ann"}, "role": "OWNER"}}
	for n := range 4 {
		members = append(members, obj{"user": nick(n), "role": "MEMBER"})
	}
	title := "ann, p0, p1, p2, p3, p4, p5"
	c.group = id
	c.conversations = append(list{obj{
		"title": title, "owner": obj{"nickname": "ann"}, "memberCount": 7.0,
		"lastMessage": obj{
			"author": nick(author), "content": content,
			"reactions": list{obj{"emoji": "👍", "count": 2.0}, obj{"emoji": "🎉", "count": 1.0}},
		},
		"viewerMember": obj{
			"unreadCount": 1.0, "unreadMentionCount": 1.0, "lastReadSeq": 1.0,
			"archived": false,
		},
		"members": obj{"nodes": members},
	}}, c.conversations...)
	c.found = append(list{obj{
		"content": content, "author": nick(author), "conversation": obj{"title": title},
	}}, c.found...)
	c.ids = append(c.ids, id, m)
	c.nodes = append(c.nodes, obj{"__typename": "Conversation", "title": title},
		obj{"__typename": "Message", "content": content})
}

// addDirect starts a direct conversation with two messages; ann has read the first.
func (c *crowd) addDirect(i int) {
	partner := c.others[i]
	id := c.mustDirect(c.ann, partner)
	c.mustSay(partner, id, "hello")
	c.mustRead(c.ann, id, 2)
	m := c.mustSay(partner, id, "the engine")
	c.mustReact(c.ann, m, "❤️")
	c.conversations = append(list{obj{
		"title": nickname(i), "owner": nil, "memberCount": 2.0,
		"lastMessage": obj{
			"author": nick(i), "content": "the engine",
			"reactions": list{obj{"emoji": "❤️", "count": 1.0}},
		},
		"viewerMember": obj{
			"unreadCount": 1.0, "unreadMentionCount": 0.0, "lastReadSeq": 2.0,
			"archived": false,
		},
		"members": obj{"nodes": list{
			obj{"user": obj{"nickname": "ann"}, "role": "MEMBER"},
			obj{"user": nick(i), "role": "MEMBER"},
		}},
	}}, c.conversations...)
	c.found = append(list{obj{
		"content": "the engine", "author": nick(i), "conversation": obj{"title": nickname(i)},
	}}, c.found...)
	c.ids = append(c.ids, partner.id, mustMemberID(c.t, id, partner.id))
	c.nodes = append(c.nodes, obj{"__typename": "User", "nickname": nickname(i)},
		obj{"__typename": "ConversationMember", "user": nick(i)})
}

// addMessages fills the newest group: each message answers the one before it, mentions a user,
// has reactions, and is read.
func (c *crowd) addMessages() {
	before, beforeBy := "", ""
	for i := range crowdMessages {
		author, mentioned := i%3, 3+i%3
		content := fmt.Sprintf("@%s %d", nickname(mentioned), i)
		var replyTo []string
		m := obj{
			"content": content, "author": nick(author), "mentions": list{nick(mentioned)},
			"replyTo": nil,
		}
		if i > 0 {
			replyTo = []string{before}
			m["replyTo"] = obj{"author": obj{"nickname": beforeBy}}
		}
		id := c.mustSay(c.others[author], c.group, content, replyTo...)
		before, beforeBy = id, nickname(author)
		c.mustReact(c.others[3], id, "👍")
		c.mustReact(c.others[4], id, "👍")
		c.mustReact(c.ann, id, "🎉")
		m["reactions"] = list{
			obj{
				"emoji": "👍", "count": 2.0, "viewerReacted": false,
				"users": obj{"nodes": list{nick(3), nick(4)}},
			},
			obj{
				"emoji": "🎉", "count": 1.0, "viewerReacted": true,
				"users": obj{"nodes": list{obj{"nickname": "ann"}}},
			},
		}
		seen := list{}
		for n := range 6 { // three of its five readers, in order of joining
			if n != author && len(seen) < 3 {
				seen = append(seen, nick(n))
			}
		}
		m["seenBy"] = obj{"nodes": seen}
		c.messages = append(c.messages, m)
	}
	for _, p := range c.others[:6] {
		c.mustRead(p, c.group, 1_000_000)
	}
	newest := c.conversations[0].(obj)
	last := c.messages[len(c.messages)-1].(obj)
	newest["lastMessage"] = obj{
		"author": last["author"], "content": last["content"],
		"reactions": list{obj{"emoji": "👍", "count": 2.0}, obj{"emoji": "🎉", "count": 1.0}},
	}
	newest["viewerMember"].(obj)["unreadCount"] = 1.0 + crowdMessages
}

// A page takes one statement for each kind of thing in it, however long it is.
func TestStatementsOfOneRequest(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		counted := new(statements)
		db.Watch(counted)
		c := mustCrowd(t, mustServe(t, db))
		const conversationFields = `title owner { nickname } memberCount
			lastMessage { content author { nickname } reactions { emoji count } }
			viewerMember { unreadCount unreadMentionCount lastReadSeq archived }`
		const messageFields = `content author { nickname } replyTo { author { nickname } }
			mentions { nickname }
			reactions { emoji count viewerReacted users(first: 3) { nodes { nickname } } }`
		for _, q := range []struct {
			name   string
			query  string
			path   string
			stored list
			newest bool // the list has the newest ones last
			want   int
		}{
			{
				"conversations", `query($n: Int) { viewer { conversations(first: $n) { nodes { ` +
					conversationFields + `
					members(first: 5) { nodes { user { nickname } role } } } } } }`,
				"viewer.conversations.nodes", c.conversations, false, 11,
			},
			{
				"conversations, through edges and fragments", `query($n: Int, $five: Int = 5) {
					viewer { conversations(first: $n) { ...page } } }
					fragment page on ConversationConnection {
					nodes: edges { node { ...on Conversation { ` + conversationFields +
					` ...people } } } }
					fragment people on Conversation {
						members(first: $five) { nodes { user { nickname } role } } }`,
				"viewer.conversations.nodes", wrapped(c.conversations), false, 11,
			},
			{
				"messages", `query($id: ID!, $n: Int) {
					conversation(id: $id) { messages(last: $n) { nodes { ` + messageFields + `
					seenBy(first: 3) { nodes { nickname } } } } } }`,
				"conversation.messages.nodes", c.messages, true, 9,
			},
			{
				"search", `query($n: Int) { searchMessages(query: "engine", first: $n) { nodes {
					content author { nickname } conversation { title } } } }`,
				"searchMessages.nodes", c.found, false, 4,
			},
		} {
			for _, n := range []int{2, len(q.stored)} {
				counted.drain()
				a := c.must(c.ann, q.query, obj{"id": c.group, "n": n})
				list := counted.drain()
				if len(list) != q.want {
					t.Errorf("%s: a page of %d took %d statements, not %d:\n%s", q.name, n,
						len(list), q.want, strings.Join(list, "\n"))
				}
				want := q.stored[:n]
				if q.newest {
					want = q.stored[len(q.stored)-n:]
				}
				if diff := cmp.Diff(any(want), a.at(t, q.path)); diff != "" {
					t.Errorf("%s: a page of %d: %s", q.name, n, diff)
				}
			}
		}

		a := c.must(c.ann, `query($ids: [ID!]!) {
			nodes(ids: $ids) { __typename ... on Conversation { title } ... on Message { content }
			... on User { nickname } ... on ConversationMember {
			user { nickname } } } }`, obj{"ids": c.ids[:20]})
		if diff := cmp.Diff(any(c.nodes[:20]), a.at(t, "nodes")); diff != "" {
			t.Errorf("nodes: %s", diff)
		}
	})
}

// What the root fields of a query name is looked up together, and nothing waits for a batch:
// neither below the root nor in the result of a mutation.
func TestRootsAndPayloadsArePrefetched(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		counted := new(statements)
		db.Watch(counted)
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		group, other := s.mustConversation(ann, bob), s.mustConversation(ann, bob)
		message := s.mustSay(bob, group, "hello")
		ids := obj{"group": group, "other": other, "bob": bob.id, "message": message}
		for _, q := range []struct {
			query string
			want  int // statements; 0 is any number
		}{
			{`{ viewer { user { nickname } } a: viewer { user { id } } }`, 1},
			{`query($group: ID!, $other: ID!, $bob: ID!) { a: node(id: $group) { id }
				b: node(id: $other) { id } c: conversation(id: $group) { id }
				d: user(id: $bob) { nickname } e: node(id: $bob) { id }
				viewer { user { nickname } } }`, 2},
			{`query($group: ID!) { node(id: $group) {
				... on Conversation { messages(last: 5) {
				nodes { content author { nickname } } } } } }`, 3},
			{`query($message: ID!) { node(id: $message) {
				... on Message { author { nickname } conversation { owner { nickname } } } } }`, 4},
			{`mutation($group: ID!) { sendMessage(input: {conversationId: $group,
				content: "hello"}) { message {
				author { nickname } conversation { owner { nickname } } } } }`, 0},
			{`mutation($group: ID!) { markRead(input: {conversationId: $group, seq: 2}) {
				member { user { nickname } lastReadSeq unreadCount } } }`, 0},
			{`mutation($group: ID!) { renameConversation(input: {conversationId: $group,
				title: "x"}) { conversation {
				owner { nickname } lastMessage { author { nickname } } } } }`, 0},
		} {
			counted.drain()
			counted.batched()
			s.must(ann, q.query, ids)
			if list := counted.drain(); q.want > 0 && len(list) != q.want {
				t.Errorf("%s took %d statements, not %d:\n%s", q.query, len(list), q.want,
					strings.Join(list, "\n"))
			}
			if n := counted.batched(); n != 0 {
				t.Errorf("%s waited %d times for others", q.query, n)
			}
		}
	})
}

// wrapped makes edges of nodes.
func wrapped(items list) list {
	edges := make(list, len(items))
	for i, item := range items {
		edges[i] = obj{"node": item}
	}
	return edges
}

func mustMemberID(t testing.TB, conversation, user string) string {
	t.Helper()
	c, err1 := model.ParseID[model.ConversationID](conversation)
	u, err2 := model.ParseID[model.UserID](user)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return model.MemberID{Conversation: c, User: u}.String()
}
