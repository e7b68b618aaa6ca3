package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
)

// TestStory uses the main functions of a messenger, over HTTP alone.
func TestStory(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL))
		for _, path := range []string{"livez", "readyz"} {
			srv.wantOK(path)
		}

		ada, grace := srv.register("ada"), srv.register("grace")
		srv.anonymous().wants(
			`{"register": {"tokens": null, "viewer": null, "userErrors": [{"code": "TAKEN", "path": ["input", "nickname"]}]}}`,
			`mutation { register(input: {email: "other@example.org", nickname: "ADA", password: "long enough"}) {
				tokens { accessToken } viewer { email } userErrors { code path }
			} }`, nil)
		srv.anonymous().wants(
			`{"login": {"viewer": null, "userErrors": [{"code": "INVALID_CREDENTIALS", "path": ["input", "password"]}]}}`,
			`mutation { login(input: {email: "ada@example.org", password: "not hers"}) { viewer { email } userErrors { code path } } }`,
			nil)
		srv.anonymous().wants(
			`{"login": {"viewer": {"email": "ada@example.org", "user": {"nickname": "ada"}}, "userErrors": []}}`,
			`mutation { login(input: {email: "ADA@Example.org", password: "the password of ada"}) {
				viewer { email user { nickname } } userErrors { code }
			} }`, nil)

		const viewer = `{ viewer { email user { id nickname } } }`
		ada.wants(
			fmt.Sprintf(
				`{"viewer": {"email": "ada@example.org", "user": {"id": %q, "nickname": "ada"}}}`,
				ada.ID), viewer, nil)
		srv.anonymous().wantRefused("UNAUTHENTICATED", viewer, nil)
		forger := &person{server: srv, tokens: tokens{AccessToken: "nonsense"}}
		forger.wantRefused("UNAUTHENTICATED", viewer, nil)

		ada.wants(
			fmt.Sprintf(
				`{"users": {"nodes": [{"id": %q, "nickname": "grace"}], "pageInfo": {"hasNextPage": false}}}`, grace.ID),
			`{ users(search: "GRA") { nodes { id nickname } pageInfo { hasNextPage } } }`, nil)

		t.Run("conversations", func(t *testing.T) { checkConversations(t, ada, grace) })
		t.Run("messages", func(t *testing.T) { checkMessages(t, ada, grace) })
		t.Run("sessions", func(t *testing.T) { checkSessions(t, ada) })
	})
}

func (s *server) wantOK(path string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.page+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.http.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK ||
		string(body) != "ok\n" {
		s.t.Errorf("%s: %d %q %v", path, resp.StatusCode, body, err)
	}
}

// wantRefused sends an operation as p, and checks that the answer is this error, without data.
func (p *person) wantRefused(code, query string, vars variables) {
	p.t.Helper()
	a := p.ask(query, vars)
	if a.code() != code {
		p.t.Errorf("%s\nanswer: %+v, want %s", query, a.Errors, code)
	}
	var fields map[string]any
	if err := json.Unmarshal(a.Data, &fields); err != nil {
		p.t.Error(err)
	}
	for name, value := range fields {
		if value != nil {
			p.t.Errorf("%s\n%s came with the error: %v", query, name, value)
		}
	}
}

func checkConversations(t *testing.T, ada, grace *person) {
	const create = `mutation ($input: CreateConversationInput!) { createConversation(input: $input) {
		conversation {
			title kind memberCount lastSeq
			owner { nickname } viewerMember { role }
			members { nodes { role user { nickname } } }
		}
		userErrors { code path }
	} }`
	ada.wants(`{"createConversation": {
		"conversation": {
			"title": "Engines", "kind": "GROUP", "memberCount": 2, "lastSeq": 1,
			"owner": {"nickname": "ada"}, "viewerMember": {"role": "OWNER"},
			"members": {"nodes": [
				{"role": "OWNER", "user": {"nickname": "ada"}}, {"role": "ADMIN", "user":
				{"nickname": "grace"}}
			]}
		},
		"userErrors": []
	}}`, create, variables{"input": variables{"title": "Engines", "members": []variables{{"userId": grace.ID, "role": "ADMIN"}}}})

	missing := "user_00000000000000000000000000"
	ada.wants(`{"createConversation": {
		"conversation": null,
		"userErrors": [{"code": "NOT_FOUND", "path": ["input", "members", "1", "userId"]}]
	}}`, create, variables{"input": variables{"members": []variables{{"userId": grace.ID}, {"userId": missing}}}})

	ada.converse(grace)
	grace.converse(ada)
	const list = `query ($after: String) { viewer { conversations(first: 2, after: $after) {
		nodes { title } pageInfo { hasNextPage hasPreviousPage endCursor }
	} } }`
	type page struct {
		Viewer struct {
			Conversations struct {
				Nodes    []struct{ Title string }
				PageInfo struct {
					HasNextPage, HasPreviousPage bool
					EndCursor                    string
				}
			}
		}
	}
	first := get[page](ada, list, nil).Viewer.Conversations
	second := get[page](ada, list,
		variables{"after": first.PageInfo.EndCursor}).Viewer.Conversations
	if !first.PageInfo.HasNextPage || first.PageInfo.HasPreviousPage ||
		second.PageInfo.HasNextPage || !second.PageInfo.HasPreviousPage {
		t.Errorf("pages: %+v, then %+v", first.PageInfo, second.PageInfo)
	}
	var titles []string
	for _, c := range append(first.Nodes, second.Nodes...) {
		titles = append(titles, c.Title)
	}
	if got := fmt.Sprintf("%q", titles); got != `["grace, ada" "ada, grace" "Engines"]` {
		t.Errorf("conversations: %s, want the newest first", got)
	}
}

func checkMessages(t *testing.T, ada, grace *person) {
	conversation := ada.converse(grace)
	const send = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) {
		message { id seq content author { nickname } conversation { lastSeq } } userErrors { code
		path }
	} }`
	hello := variables{"input": variables{
		"conversationId": conversation,
		"content":        "Hello, Grace!", "idempotencyKey": "hello",
	}}
	type sent struct {
		SendMessage struct{ Message struct{ ID string } }
	}
	want := fmt.Sprintf(`{"sendMessage": {
		"message": {"id": %q, "seq": 2, "content": "Hello, Grace!", "author": {"nickname": "ada"},
		"conversation": {"lastSeq": 2}},
		"userErrors": []
	}}`, get[sent](ada, send, hello).SendMessage.Message.ID)
	ada.wants(want, send, hello) // again, with the same key: the same message
	ada.wants(
		`{"sendMessage": {"message": null, "userErrors": [{"code": "CONFLICT", "path": ["input", "idempotencyKey"]}]}}`, send,
		variables{"input": variables{
			"conversationId": conversation, "content": "Goodbye!",
			"idempotencyKey": "hello",
		}})
	ada.wants(
		`{"sendMessage": {"message": null, "userErrors": [{"code": "REQUIRED", "path": ["input", "content"]}]}}`, send,
		variables{"input": variables{"conversationId": conversation, "content": " \n"}})

	for i := range 4 {
		grace.send(conversation, fmt.Sprintf("answer %d", i+1))
	}
	grace.wants(`{"conversation": {
		"newest": {
			"nodes": [{"content": "answer 3"}, {"content": "answer 4"}], "pageInfo":
			{"hasPreviousPage": true, "hasNextPage": false}
		},
		"oldest": {
			"nodes": [{"content": "Hello, Grace!"}, {"content": "answer 1"}], "pageInfo":
			{"hasPreviousPage": false, "hasNextPage": true}
		},
		"lastMessage": {"content": "answer 4"}, "lastSeq": 6
	}}`, `query ($id: ID!) { conversation(id: $id) {
		newest: messages(last: 2) { nodes { content } pageInfo { hasPreviousPage hasNextPage } }
		oldest: messages(first: 2) { nodes { content } pageInfo { hasPreviousPage hasNextPage } }
		lastMessage { content } lastSeq
	} }`, variables{"id": conversation})
	if got := len(grace.listed(conversation)); got != 5 {
		t.Errorf("%d messages are listed, want 5", got)
	}

	linus := ada.register("linus")
	linus.wants(`{"conversation": null}`, `query ($id: ID!) { conversation(id: $id) { title } }`,
		variables{"id": conversation})
	linus.wantRefused("NOT_FOUND", send,
		variables{"input": variables{"conversationId": conversation, "content": "May I?"}})
}

func checkSessions(t *testing.T, ada *person) {
	other := ada.loginAgain()
	old := *other
	other.refresh()
	if other.tokens.RefreshToken == old.tokens.RefreshToken {
		t.Error("the refresh token is the same after its use")
	}
	const viewer = `{ viewer { user { nickname } } }`
	other.wants(`{"viewer": {"user": {"nickname": "ada"}}}`, viewer, nil)
	other.logout()
	other.wantRefused("UNAUTHENTICATED", viewer, nil)
	old.wantRefused("UNAUTHENTICATED", viewer, nil)
	ada.anonymous().
		wants(`{"refreshSession": {"tokens": null, "userErrors": [{"code": "TOKEN_EXPIRED"}]}}`,
			`mutation ($token: String!) { refreshSession(input: {refreshToken: $token}) { tokens { accessToken } userErrors { code } } }`,
			variables{"token": other.tokens.RefreshToken})
	// the first session continues
	ada.wants(`{"viewer": {"user": {"nickname": "ada"}}}`, viewer, nil)
}
