package graph_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// The main job, from registering to reading what was sent.
func TestStory(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat := s.mustRegister("Ann"), s.mustRegister("Bob"), s.mustRegister("Cat")

		a := s.do("",
			`mutation { login(input: {email: "ANN@example.org", password: "a password of Ann"}) {
			viewer { email user { nickname } conversations { nodes { id } } }
			userErrors { code } } }`, nil)
		if got := a.str(t, "login.viewer.email"); got != "Ann@example.org" {
			t.Errorf("the viewer's address is %s", got)
		}
		a = s.do(ann.token, `{ users(search: "b") { nodes { id nickname } } }`, nil)
		if got := a.str(t, "users.nodes.0.id"); got != bob.id {
			t.Errorf("found %s", got)
		}

		a = s.do(ann.token, createConversation, map[string]any{"in": map[string]any{
			"title": "  ", "members": []any{
				map[string]any{"userId": cat.id, "role": "ADMIN"},
				map[string]any{"userId": ann.id},
				map[string]any{"userId": bob.id},
			},
		}})
		conversation := a.at(t, "createConversation.conversation").(map[string]any)
		id := conversation["id"].(string)
		delete(conversation, "id")
		member := func(p person, nickname, role string) any {
			return map[string]any{
				"user": map[string]any{"id": p.id, "nickname": nickname},
				"role": role,
			}
		}
		want := map[string]any{
			"title": "Ann, Cat, Bob", "memberCount": 3.0, "owner": map[string]any{"id": ann.id},
			"viewerMember": map[string]any{"role": "OWNER"},
			// all joined together, so they are ordered by id, that is by age
			"members": map[string]any{"nodes": []any{
				member(ann, "Ann", "OWNER"), member(bob, "Bob", "MEMBER"),
				member(cat, "Cat", "ADMIN"),
			}},
		}
		if diff := cmp.Diff(want, any(conversation)); diff != "" {
			t.Error(diff)
		}

		for _, word := range []string{"one", "two", "three"} {
			s.mustSend(bob, id, word)
		}
		a = s.do(cat.token, `query($id: ID!) { conversation(id: $id) {
			lastSeq lastMessage { content author { nickname } }
			messages(last: 2) { nodes { seq content } pageInfo { hasPreviousPage } } }
			viewer { conversations { nodes { id }
			pageInfo { hasNextPage } } } }`, map[string]any{"id": id})
		if got := a.str(t, "conversation.lastMessage.content"); got != "three" {
			t.Errorf("the last message is %q", got)
		}
		if got := a.str(t, "conversation.messages.nodes.0.content"); got != "two" {
			t.Errorf("the last two messages start with %q", got)
		}
		if got := a.str(t, "viewer.conversations.nodes.0.id"); got != id {
			t.Errorf("the first conversation is %s", got)
		}
	})
}

// The errors of the main job, as the client sees them.
func TestWhatGoesWrong(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("eve")
		id := s.mustConversation(ann, bob)
		noUser := model.NewUserID().String()
		in := func(pairs ...any) map[string]any {
			fields := map[string]any{}
			for i := 0; i < len(pairs); i += 2 {
				fields[pairs[i].(string)] = pairs[i+1]
			}
			return map[string]any{"in": fields}
		}
		members := func(list ...any) any { return append([]any{}, list...) }
		const register = `mutation($in: RegisterInput!) {
			register(input: $in) { tokens { accessToken } userErrors { code message path } } }`
		const login = `mutation($in: LoginInput!) {
			login(input: $in) { tokens { accessToken } userErrors { code message path } } }`
		const refresh = `mutation($in: RefreshSessionInput!) {
			refreshSession(input: $in) { tokens { accessToken }
			userErrors { code message path } } }`
		for name, c := range map[string]struct {
			token     string
			query     string
			variables map[string]any
			want      []string
		}{
			"register: nothing right": {
				"", register, in("email", "no", "nickname", "x", "password", "short"),
				[]string{
					"INVALID input.email", "TOO_SHORT input.nickname",
					"TOO_SHORT input.password",
				},
			},
			"register: both taken": {
				"", register, in("email", "ANN@example.org", "nickname", "ANN", "password",
					"long enough"),
				[]string{"TAKEN input.email", "TAKEN input.nickname"},
			},
			"register: missing fields": {
				"", register, in("email", "x@example.org"),
				[]string{"BAD_USER_INPUT", "BAD_USER_INPUT"},
			},
			"register: a number for a text": {
				"", register, in("email", 5, "nickname", "xx", "password", "long enough"),
				[]string{"BAD_USER_INPUT"},
			},
			"login: wrong password": {
				"", login, in("email", "ann@example.org", "password", "wrong"),
				[]string{"INVALID_CREDENTIALS input.password"},
			},
			"login: unknown address": {
				"", login, in("email", "zoe@example.org", "password", "wrong"),
				[]string{"INVALID_CREDENTIALS input.password"},
			},
			"refresh: not a token": {
				"", refresh, in("refreshToken", "x"),
				[]string{"TOKEN_EXPIRED input.refreshToken"},
			},

			"create: no other member": {
				ann.token, createConversation, in("members", members()),
				[]string{"REQUIRED input.members"},
			},
			"create: only oneself": {
				ann.token, createConversation,
				in("members", members(in("userId",
					ann.id)["in"])),
				[]string{"REQUIRED input.members"},
			},
			"create: unknown person": {
				ann.token, createConversation, in("members",
					members(in("userId", bob.id)["in"], in("userId", noUser)["in"])),
				[]string{"NOT_FOUND input.members.1.userId"},
			},
			"create: twice": {
				ann.token, createConversation, in("members",
					members(in("userId", bob.id)["in"], in("userId", bob.id)["in"])),
				[]string{"CONFLICT input.members.1.userId"},
			},
			"create: a second owner": {
				ann.token, createConversation, in("members",
					members(in("userId", bob.id, "role", "OWNER")["in"])),
				[]string{"CONFLICT input.members.0.role"},
			},
			"create: a long title": {
				ann.token, createConversation, in("title", strings.Repeat("x", 201), "members",
					members(in("userId", bob.id)["in"])),
				[]string{"TOO_LONG input.title"},
			},
			"create: not an id": {
				ann.token, createConversation,
				in("members", members(in("userId", "bob")["in"])),
				[]string{"BAD_USER_INPUT"},
			},
			"create: not a role": {
				ann.token, createConversation,
				in("members", members(in("userId", bob.id, "role",
					"KING")["in"])),
				[]string{"BAD_USER_INPUT"},
			},
			"create: not signed in": {
				"", createConversation,
				in("members", members(in("userId", bob.id)["in"])),
				[]string{"UNAUTHENTICATED"},
			},
			"send: blank": {
				ann.token, sendMessage,
				in("conversationId", id, "content", " \n "),
				[]string{"REQUIRED input.content"},
			},
			"send: NUL": {
				ann.token, sendMessage,
				in("conversationId", id, "content", "a\x00b"),
				[]string{"INVALID input.content"},
			},
			"send: too long": {
				ann.token, sendMessage,
				in("conversationId", id, "content",
					strings.Repeat("é", 4001)),
				[]string{"TOO_LONG input.content"},
			},
			"send: an empty key": {
				ann.token, sendMessage,
				in("conversationId", id, "content", "a", "idempotencyKey",
					""),
				[]string{"REQUIRED input.idempotencyKey"},
			},
			"send: a non-member": {
				eve.token, sendMessage,
				in("conversationId", id, "content", "a"),
				[]string{"NOT_FOUND"},
			},
			"send: no conversation": {
				ann.token, sendMessage,
				in("conversationId", model.NewConversationID().String(), "content",
					"a"),
				[]string{"NOT_FOUND"},
			},
			"send: another kind": {
				ann.token, sendMessage,
				in("conversationId", ann.id, "content", "a"),
				[]string{"BAD_USER_INPUT"},
			},
			"page: too large": {
				ann.token, `{ users(first: 101) { nodes { id } } }`, nil,
				[]string{"BAD_USER_INPUT"},
			},
			"page: a foreign cursor": {
				ann.token,
				`{ viewer { conversations(after: "eHg") {
					nodes { id } } } }`, nil,
				[]string{"BAD_USER_INPUT"},
			},
			"user: both ways": {
				ann.token, `{ user(id: "x", nickname: "y") { id } }`, nil,
				[]string{"BAD_USER_INPUT"},
			},
			"user: neither way": {
				ann.token, `{ user { id } }`, nil,
				[]string{"BAD_USER_INPUT"},
			},
			"node: no id": {
				ann.token, `{ node(id: "x") { id } }`, nil,
				[]string{"BAD_USER_INPUT"},
			},
			"unknown field": {
				ann.token, `{ nope }`, nil,
				[]string{"GRAPHQL_VALIDATION_FAILED"},
			},
			"not a document": {ann.token, `{`, nil, []string{"GRAPHQL_PARSE_FAILED"}},
		} {
			a := s.do(c.token, c.query, c.variables)
			if diff := cmp.Diff(c.want, a.codes()); diff != "" {
				t.Errorf("%s: %s\n%+v", name, diff, a)
			}
		}

		a := s.do(eve.token, `query($id: ID!) { conversation(id: $id) { id } node(id: $id) { id }
			nodes(ids: [$id]) { id } }`,
			map[string]any{"id": id})
		if diff := cmp.Diff(map[string]any{"conversation": nil, "node": nil, "nodes": []any{nil}},
			a.Data); diff != "" || a.Errors != nil {
			t.Errorf("an anonymous client sees it: %s %v", diff, a.Errors)
		}
	})
}

func TestLogout(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	if a := s.do(ann.token, `mutation { logout { userErrors { code } } }`, nil); a.Errors != nil {
		t.Fatal(a.Errors)
	}
	if a := s.do(ann.token, `{ viewer { email } }`, nil); !cmp.Equal(a.codes(),
		[]string{"UNAUTHENTICATED"}) {
		t.Errorf("signed out, and still: %v", a)
	}
}
