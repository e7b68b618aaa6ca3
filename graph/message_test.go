package graph_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// obj and list are objects and lists as encoding/json decodes them.
type (
	obj  = map[string]any
	list = []any
)

// must sends an operation that has to succeed.
func (s *api) must(caller person, query string, variables obj) answer {
	s.t.Helper()
	a := s.do(caller.token, query, variables)
	if codes := a.codes(); codes != nil {
		s.t.Fatalf("%.100s: %v %+v", query, codes, a)
	}
	return a
}

// mustSay sends a message, and returns its id.
func (s *api) mustSay(caller person, conversation, content string, replyTo ...string) string {
	s.t.Helper()
	in := obj{"conversationId": conversation, "content": content}
	for _, id := range replyTo {
		in["replyToId"] = id
	}
	return s.must(caller, sendMessage, obj{"in": in}).str(s.t, "sendMessage.message.id")
}

func (s *api) mustDirect(caller, other person) string {
	s.t.Helper()
	return s.must(caller,
		`mutation($id: ID!) { openDirectConversation(input: {userId: $id}) { conversation { id }
			userErrors { code path } } }`,
		obj{"id": other.id}).str(s.t, "openDirectConversation.conversation.id")
}

func (s *api) mustReact(caller person, message, emoji string) {
	s.t.Helper()
	s.must(caller, addReaction+` { userErrors { code path } } }`,
		obj{"in": obj{"messageId": message, "emoji": emoji}})
}

func (s *api) mustRead(caller person, conversation string, seq int) {
	s.t.Helper()
	s.must(caller, markRead+` { userErrors { code path } } }`,
		obj{"in": obj{"conversationId": conversation, "seq": seq}})
}

// The starts of operations, up to the selection of the payload.
const (
	addReaction      = `mutation($in: AddReactionInput!) { addReaction(input: $in)`
	removeReaction   = `mutation($in: RemoveReactionInput!) { removeReaction(input: $in)`
	editMessage      = `mutation($in: EditMessageInput!) { editMessage(input: $in)`
	deleteMessage    = `mutation($in: DeleteMessageInput!) { deleteMessage(input: $in)`
	replyMessage     = `mutation($in: SendMessageInput!) { sendMessage(input: $in)`
	markRead         = `mutation($in: MarkReadInput!) { markRead(input: $in)`
	updateMembership = `mutation($in: UpdateMembershipInput!) { updateMembership(input: $in)`
	saveDraft        = `mutation($in: SaveDraftInput!) { saveDraft(input: $in)`

	wholeMessage = ` { message {
		content deletedAt author { nickname } replyTo { content } mentions { nickname }
		reactions { emoji count viewerReacted users { nodes { nickname } } }
	} userErrors { code path } } }`
	onlyErrors = ` { userErrors { code path } } }`
)

// step is one operation of a story: its caller, its input, the errors or, without any, what its
// payload has.
type step struct {
	name   string
	caller person
	query  string
	in     obj
	codes  []string
	want   obj // of the payload's first object; nil is not compared
}

func (s *api) run(t *testing.T, steps []step) {
	t.Helper()
	for _, step := range steps {
		a := s.do(step.caller.token, step.query, obj{"in": step.in})
		if diff := cmp.Diff(step.codes, a.codes()); diff != "" {
			t.Errorf("%s: %s\n%+v", step.name, diff, a)
			continue
		}
		for root, payload := range a.Data {
			fields, _ := payload.(obj)
			delete(fields, "userErrors")
			for name, got := range fields {
				if step.codes != nil && got != nil {
					t.Errorf("%s: %s was refused, and has %s: %v", step.name, root, name, got)
				}
				if diff := cmp.Diff(any(step.want), got); step.want != nil && diff != "" {
					t.Errorf("%s: %s", step.name, diff)
				}
			}
		}
	}
}

// A message is sent, edited, reacted to and deleted, step by step, and each step has its answer.
func TestMessagesOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("cat"),
			s.mustRegister("eve")
		id, other := s.mustConversation(ann, bob, cat), s.mustConversation(bob, ann)
		first, elsewhere := s.mustSay(bob, id, "first"), s.mustSay(bob, other, "elsewhere")
		nowhere := model.NewMessageID().String()
		named := func(name string) obj { return obj{"nickname": name} }
		nodes := func(names ...string) obj {
			users := list{}
			for _, name := range names {
				users = append(users, named(name))
			}
			return obj{"nodes": users}
		}
		message := func(content string, change obj) obj {
			m := obj{
				"content": content, "deletedAt": nil, "author": named("bob"), "replyTo": nil,
				"mentions": list{}, "reactions": list{},
			}
			maps.Copy(m, change)
			return m
		}
		s.run(t, []step{
			{
				"reply and mention", bob, replyMessage + wholeMessage,
				obj{"conversationId": id, "content": "@CAT look, not @eve", "replyToId": first},
				nil,
				message("@CAT look, not @eve",
					obj{"replyTo": obj{"content": "first"}, "mentions": list{named("cat")}}),
			},
			{
				"reply to another conversation", bob, replyMessage + wholeMessage,
				obj{"conversationId": id, "content": "x", "replyToId": elsewhere},
				[]string{"NOT_FOUND input.replyToId"},
				nil,
			},
			{
				"reply to nothing", bob, replyMessage + wholeMessage,
				obj{"conversationId": id, "content": "x", "replyToId": nowhere},
				[]string{"NOT_FOUND input.replyToId"},
				nil,
			},
			{
				"reply to another kind", bob, replyMessage + wholeMessage,
				obj{"conversationId": id, "content": "x", "replyToId": id},
				[]string{"BAD_USER_INPUT"},
				nil,
			},

			{
				"edit", bob, editMessage + wholeMessage,
				obj{"messageId": first, "content": " 1st @ann "},
				nil,
				message("1st @ann", obj{"mentions": list{named("ann")}}),
			},
			{
				"edit: blank", bob, editMessage + wholeMessage,
				obj{"messageId": first, "content": " "},
				[]string{"REQUIRED input.content"},
				nil,
			},
			{
				"edit: NUL", bob, editMessage + wholeMessage,
				obj{"messageId": first, "content": "a\x00"},
				[]string{"INVALID input.content"},
				nil,
			},
			{
				"edit: by the owner", ann, editMessage + wholeMessage,
				obj{"messageId": first, "content": "mine"},
				[]string{"FORBIDDEN"},
				nil,
			},
			{
				"edit: by a non-member", eve, editMessage + wholeMessage,
				obj{"messageId": first, "content": "mine"},
				[]string{"NOT_FOUND"},
				nil,
			},
			{
				"edit: nothing", bob, editMessage + wholeMessage,
				obj{"messageId": nowhere, "content": "x"},
				[]string{"NOT_FOUND"},
				nil,
			},
			{
				"edit: another kind", bob, editMessage + wholeMessage,
				obj{"messageId": bob.id, "content": "x"},
				[]string{"BAD_USER_INPUT"},
				nil,
			},
			{
				"edit: not a time", bob, editMessage + wholeMessage,
				obj{"messageId": first, "content": "x", "expectedEditedAt": "now"},
				[]string{"BAD_USER_INPUT"},
				nil,
			},

			{
				"react", ann, addReaction + wholeMessage,
				obj{"messageId": first, "emoji": "❤"},
				nil,
				message("1st @ann", obj{
					"mentions": list{named("ann")},
					"reactions": list{obj{
						"emoji": "❤️", "count": 1.0, "viewerReacted": true,
						"users": nodes("ann"),
					}},
				}),
			},
			{
				"react again, otherwise written", ann, addReaction + wholeMessage,
				obj{"messageId": first, "emoji": "❤️"},
				nil, message("1st @ann", obj{
					"mentions": list{named("ann")},
					"reactions": list{obj{
						"emoji": "❤️", "count": 1.0, "viewerReacted": true,
						"users": nodes("ann"),
					}},
				}),
			},
			{
				"react with another", cat, addReaction + onlyErrors,
				obj{"messageId": first, "emoji": "👍🏽"},
				nil, nil,
			},
			{
				"react with the same", bob, addReaction + wholeMessage,
				obj{"messageId": first, "emoji": "❤️"},
				nil, message("1st @ann", obj{
					"mentions": list{named("ann")},
					"reactions": list{
						obj{
							"emoji": "❤️", "count": 2.0, "viewerReacted": true,
							"users": nodes("ann", "bob"),
						},
						obj{
							"emoji": "👍🏽", "count": 1.0, "viewerReacted": false,
							"users": nodes("cat"),
						},
					},
				}),
			},
			{
				"react: a word", ann, addReaction + wholeMessage,
				obj{"messageId": first, "emoji": "ok"},
				[]string{"INVALID input.emoji"},
				nil,
			},
			{
				"react: two emoji", ann, addReaction + wholeMessage,
				obj{"messageId": first, "emoji": "👍👍"},
				[]string{"INVALID input.emoji"},
				nil,
			},
			{
				"react: a non-member", eve, addReaction + wholeMessage,
				obj{"messageId": first, "emoji": "👍"},
				[]string{"NOT_FOUND"},
				nil,
			},
			{
				"react: another kind", ann, addReaction + wholeMessage,
				obj{"messageId": id, "emoji": "👍"},
				[]string{"BAD_USER_INPUT"},
				nil,
			},
			{
				"take back", ann, removeReaction + wholeMessage,
				obj{"messageId": first, "emoji": "❤"},
				nil, message("1st @ann", obj{
					"mentions": list{named("ann")},
					"reactions": list{ // in the order of their first remaining reactors
						obj{
							"emoji": "👍🏽", "count": 1.0, "viewerReacted": false,
							"users": nodes("cat"),
						},
						obj{
							"emoji": "❤️", "count": 1.0, "viewerReacted": false,
							"users": nodes("bob"),
						},
					},
				}),
			},
			{
				"take back a reaction that does not exist", ann, removeReaction + onlyErrors,
				obj{"messageId": first, "emoji": "👍🏽"},
				nil, nil,
			},
			{
				"take back a word", ann, removeReaction + wholeMessage,
				obj{"messageId": first, "emoji": "ok"},
				[]string{"INVALID input.emoji"},
				nil,
			},
			{
				"take back: a non-member", eve, removeReaction + wholeMessage,
				obj{"messageId": first, "emoji": "👍"},
				[]string{"NOT_FOUND"},
				nil,
			},

			{
				"delete: another member's", cat, deleteMessage + wholeMessage,
				obj{"messageId": first},
				[]string{"FORBIDDEN"},
				nil,
			},
			{
				"delete: a non-member", eve, deleteMessage + wholeMessage,
				obj{"messageId": first},
				[]string{"NOT_FOUND"},
				nil,
			},
			{
				"delete: another kind", ann, deleteMessage + wholeMessage,
				obj{"messageId": ann.id},
				[]string{"BAD_USER_INPUT"},
				nil,
			},
			{
				"delete: the owner", ann,
				`mutation($in: DeleteMessageInput!) { deleteMessage(input: $in) { message {
				content mentions { id } reactions { emoji } author { nickname } }
				userErrors { code path } } }`,
				obj{"messageId": first},
				nil,
				obj{
					"content": "", "mentions": list{}, "reactions": list{}, "author": named("bob"),
				},
			},
			{"delete again", bob, deleteMessage + onlyErrors, obj{"messageId": first}, nil, nil},
			{
				"edit a deleted message", bob, editMessage + wholeMessage,
				obj{"messageId": first, "content": "back"},
				[]string{"CONFLICT input.messageId"},
				nil,
			},
			{
				"react to a deleted message", bob, addReaction + wholeMessage,
				obj{"messageId": first, "emoji": "👍"},
				[]string{"CONFLICT input.messageId"},
				nil,
			},
		})

		a := s.must(cat,
			`query($id: ID!) { conversation(id: $id) {
				lastSeq messages { nodes { seq content replyTo { content } mentions { nickname } } }
			lastMessage { content } } }`, obj{"id": id})
		want := obj{
			"lastSeq": 9.0, "lastMessage": obj{"content": "@CAT look, not @eve"},
			"messages": obj{"nodes": list{
				obj{"seq": 2.0, "content": "", "replyTo": nil, "mentions": list{}},
				obj{
					"seq": 3.0, "content": "@CAT look, not @eve", "replyTo": obj{"content": ""},
					"mentions": list{named("cat")},
				},
			}},
		}
		if diff := cmp.Diff(any(want), a.at(t, "conversation")); diff != "" {
			t.Error(diff)
		}
	})
}

// A message has at most 20 different emoji. A further reaction with one of them is allowed.
func TestReactionLimitOverTheWire(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	m := s.mustSay(ann, s.mustConversation(ann, bob), "react!")
	for i := range 20 {
		s.mustReact(ann, m, string(rune('😀'+i)))
	}
	s.run(t, []step{
		{
			"one more", bob, addReaction + wholeMessage,
			obj{"messageId": m, "emoji": "🚀"},
			[]string{"LIMIT_REACHED input.emoji"},
			nil,
		},
		{"one of them", bob, addReaction + onlyErrors, obj{"messageId": m, "emoji": "😀"}, nil, nil},
	})
	a := s.must(bob,
		`query($id: ID!) { node(id: $id) { ... on Message {
			reactions { emoji count users(first: 1) {
		edges { cursor node { nickname } } pageInfo {
		hasNextPage endCursor } } } } } }`, obj{"id": m})
	if got := len(a.at(t, "node.reactions").([]any)); got != 20 {
		t.Errorf("%d kinds", got)
	}
	if got := a.at(t, "node.reactions.0.count"); got != 2.0 {
		t.Errorf("the first is there %v times", got)
	}
	next := s.must(bob,
		`query($id: ID!, $after: String) { node(id: $id) {
			... on Message { reactions { users(first: 1, after: $after) {
		nodes { nickname } pageInfo { hasNextPage } } } } } }`, obj{
			"id":    m,
			"after": a.str(t, "node.reactions.0.users.pageInfo.endCursor"),
		})
	want := obj{"nodes": list{obj{"nickname": "bob"}}, "pageInfo": obj{"hasNextPage": false}}
	if diff := cmp.Diff(any(want), next.at(t, "node.reactions.0.users")); diff != "" {
		t.Error(diff)
	}
}

// Without expectedEditedAt an edit overwrites any other. With null or a time it overwrites only a
// message that was never edited, or edited at that time.
func TestExpectedEditedAtOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		m := s.mustSay(ann, s.mustConversation(ann, bob), "0")
		conflict := []string{"CONFLICT input.expectedEditedAt"}
		edit := func(content string, expected obj) answer {
			in := obj{"messageId": m, "content": content}
			maps.Copy(in, expected)
			return s.do(ann.token, editMessage+
				` { message { content editedAt } userErrors { code path } } }`, obj{"in": in})
		}
		expect := func(at any) obj { return obj{"expectedEditedAt": at} }
		var edits []string
		for _, c := range []struct {
			content  string
			expected func() obj
			want     []string
		}{
			// never edited, and they think it was
			{"1", func() obj { return expect("2026-11-22T10:15:30Z") }, conflict},
			{"1", func() obj { return expect(nil) }, nil},
			{"2", func() obj { return expect(nil) }, conflict},
			{"2", func() obj { return expect(edits[0]) }, nil},
			{"3", func() obj { return expect(edits[0]) }, conflict},
			{"3", func() obj { return nil }, nil},
			{"3", func() obj { return expect(edits[0]) }, nil}, // it has that content already
		} {
			a := edit(c.content, c.expected())
			if diff := cmp.Diff(c.want, a.codes()); diff != "" {
				t.Fatalf("%s: %s", c.content, diff)
			}
			if c.want == nil {
				edits = append(edits, a.str(t, "editMessage.message.editedAt"))
				if got := a.str(t, "editMessage.message.content"); got != c.content {
					t.Errorf("its content is %s, not %s", got, c.content)
				}
			}
		}
		if edits[0] >= edits[1] || edits[1] >= edits[2] || edits[2] != edits[3] {
			t.Errorf("edited at %v", edits)
		}
	})
}

// Each mutation of a document sees the changes of those before it.
func TestMutationsInOneDocumentSeeEachOther(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		id := s.mustConversation(ann, bob)
		m := s.mustSay(bob, id, "@ann 2")
		s.mustSay(bob, id, "3")
		s.mustSay(bob, id, "4 @ann")
		a := s.must(ann, `mutation($c: ID!, $m: ID!) {
			a: markRead(input: {conversationId: $c, seq: 2}) { member { ...read } }
			b: markRead(input: {conversationId: $c, seq: 99}) { member { ...read } }
			c: updateMembership(input: {conversationId: $c, archived: true, pinned: true}) {
			member { archived pinned } }
			d: saveDraft(input: {conversationId: $c, content: "so"}) {
			conversation { draft viewerMember { archived } } }
			e: addReaction(input: {messageId: $m, emoji: "👍"}) { message { ...reacted } }
			f: addReaction(input: {messageId: $m, emoji: "🎉"}) { message { ...reacted } }
			g: removeReaction(input: {messageId: $m, emoji: "👍"}) { message { ...reacted } }
			h: sendMessage(input: {conversationId: $c, content: "5", replyToId: $m}) {
			message { seq replyTo { content } conversation {
				lastSeq lastMessage { content } draft viewerMember { archived unreadCount } } } }
			i: deleteMessage(input: {messageId: $m}) { message { content ...reacted } }
			j: sendMessage(input: {conversationId: $c, content: "10", replyToId: $m}) {
			message { seq replyTo { content } conversation {
				lastSeq lastMessage { content } viewerMember { lastReadSeq } } } }
		}
		fragment read on ConversationMember { lastReadSeq unreadCount unreadMentionCount }
		fragment reacted on Message { reactions {
		emoji count users { nodes { nickname } } } }`, obj{"c": id, "m": m})
		reaction := func(emoji string) obj {
			return obj{
				"emoji": emoji, "count": 1.0,
				"users": obj{"nodes": list{obj{"nickname": "ann"}}},
			}
		}
		want := obj{
			"a": obj{"member": obj{
				"lastReadSeq": 2.0, "unreadCount": 2.0,
				"unreadMentionCount": 1.0,
			}},
			"b": obj{"member": obj{
				"lastReadSeq": 4.0, "unreadCount": 0.0,
				"unreadMentionCount": 0.0,
			}},
			"c": obj{"member": obj{"archived": true, "pinned": true}},
			"d": obj{"conversation": obj{"draft": "so", "viewerMember": obj{"archived": true}}},
			"e": obj{"message": obj{"reactions": list{reaction("👍")}}},
			"f": obj{"message": obj{"reactions": list{reaction("👍"), reaction("🎉")}}},
			"g": obj{"message": obj{"reactions": list{reaction("🎉")}}},
			"h": obj{"message": obj{
				"seq": 8.0, "replyTo": obj{"content": "@ann 2"},
				"conversation": obj{
					"lastSeq": 8.0, "lastMessage": obj{"content": "5"}, "draft": "so",
					"viewerMember": obj{"archived": false, "unreadCount": 0.0},
				},
			}},
			"i": obj{"message": obj{"content": "", "reactions": list{}}},
			"j": obj{"message": obj{"seq": 10.0, "replyTo": obj{"content": ""}, "conversation": obj{
				"lastSeq": 10.0, "lastMessage": obj{"content": "10"},
				"viewerMember": obj{"lastReadSeq": 4.0},
			}}},
		}
		if diff := cmp.Diff(want, a.Data); diff != "" {
			t.Error(diff)
		}
	})
}
