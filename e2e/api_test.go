package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/internal/client"
)

// answer is the API's answer to one request.
type answer struct {
	Status int `json:"-"` // of HTTP
	client.Answer
}

// code returns the code of the only error: "" if there is none.
func (a answer) code() string { return codeOf(a.Errors) }

func codeOf(list []client.Error) string {
	switch len(list) {
	case 0:
		return ""
	case 1:
		return list[0].Extensions.Code
	}
	return fmt.Sprintf("%d errors", len(list))
}

// variables of an operation.
type variables map[string]any

// post sends one operation. An error means that there is no answer, not that the answer has errors.
func (s *server) post(ctx context.Context, token, query string, vars variables) (answer, error) {
	body, err := json.Marshal(client.Operation{Query: query, Variables: vars})
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := client.NewRequest(ctx, s.api, token, body)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Accept", "application/graphql-response+json, application/json;q=0.9")
	status, text, err := client.Do(s.http, r)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: status}
	return a, json.Unmarshal(text, &a)
}

// person is a user with one session. Its methods may be called by several goroutines.
type person struct {
	*server
	ID       string
	Nickname string
	Email    string
	Password string
	tokens   tokens
}

type tokens struct {
	AccessToken  string
	RefreshToken string
	ExpiresAt    time.Time
}

// ask sends an operation as p, and returns the answer, with or without errors.
func (p *person) ask(query string, vars variables) answer {
	p.t.Helper()
	a, err := p.post(p.t.Context(), p.tokens.AccessToken, query, vars)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// get sends an operation as p, and returns the data. Errors fail the test.
func get[T any](p *person, query string, vars variables) (data T) {
	p.t.Helper()
	a := p.ask(query, vars)
	if a.Errors != nil {
		p.t.Fatalf("%s\nanswer: %+v", query, a.Errors)
	}
	if err := json.Unmarshal(a.Data, &data); err != nil {
		p.t.Fatal(err)
	}
	return data
}

// wants sends an operation as p, and compares the data with want, in JSON.
func (p *person) wants(want, query string, vars variables) {
	p.t.Helper()
	a := p.ask(query, vars)
	if a.Errors != nil || a.Status != http.StatusOK {
		p.t.Errorf("%s\nanswer: %d, %+v", query, a.Status, a.Errors)
	}
	wantJSON(p.t, query, want, a.Data)
}

func wantJSON(t *testing.T, what, want string, got json.RawMessage) {
	t.Helper()
	var w, g any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("the wanted data is not JSON: %v: %s", err, want)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// anonymous returns a client that is not signed in.
func (s *server) anonymous() *person { return &person{server: s} }

const signedInFields = `tokens { accessToken refreshToken expiresAt } viewer { user { id } } userErrors { code message path }`

type signedIn struct {
	Tokens tokens
	Viewer struct{ User struct{ ID string } }
}

// register registers a user.
func (s *server) register(nickname string) *person {
	s.t.Helper()
	p := &person{
		server: s, Nickname: nickname, Email: nickname + "@example.org",
		Password: "the password of " + nickname,
	}
	data := get[struct{ Register signedIn }](p,
		`mutation ($input: RegisterInput!) { register(input: $input) {`+signedInFields+`} }`,
		variables{"input": variables{
			"email": p.Email, "nickname": nickname,
			"password": p.Password,
		}})
	p.ID, p.tokens = data.Register.Viewer.User.ID, data.Register.Tokens
	return p
}

// registerAll registers several users.
func (s *server) registerAll(nicknames ...string) []*person {
	s.t.Helper()
	people := make([]*person, len(nicknames))
	for i, nickname := range nicknames {
		people[i] = s.register(nickname)
	}
	return people
}

// loginAgain signs the same user in with another session.
func (p *person) loginAgain() *person {
	p.t.Helper()
	twin := *p
	data := get[struct{ Login signedIn }](p,
		`mutation ($input: LoginInput!) { login(input: $input) {`+signedInFields+`} }`,
		variables{"input": variables{"email": p.Email, "password": p.Password}})
	twin.tokens = data.Login.Tokens
	return &twin
}

func (p *person) logout() {
	p.t.Helper()
	p.wants(`{"logout": {"userErrors": []}}`, `mutation { logout { userErrors { code } } }`, nil)
}

// refresh trades the refresh token, as a client does before the access token expires.
func (p *person) refresh() {
	p.t.Helper()
	twin := person{server: p.server} // the old access token may have expired
	data := get[struct{ RefreshSession signedIn }](&twin,
		`mutation ($token: String!) { refreshSession(input: {refreshToken: $token}) {`+
			signedInFields+`} }`,
		variables{"token": p.tokens.RefreshToken})
	p.tokens = data.RefreshSession.Tokens
}

// converse creates a conversation with others, and returns its id.
func (p *person) converse(others ...*person) string {
	p.t.Helper()
	members := make([]variables, len(others))
	for i, other := range others {
		members[i] = variables{"userId": other.ID}
	}
	data := get[struct {
		CreateConversation struct{ Conversation struct{ ID string } }
	}](p,
		`mutation ($input: CreateConversationInput!) { createConversation(input: $input) { conversation { id } } }`,
		variables{"input": variables{"members": members}})
	return data.CreateConversation.Conversation.ID
}

// message has the fields that all readers select, so that their messages can be compared.
type message struct {
	ID        string `json:"id"`
	Seq       int64  `json:"seq"`
	Content   string `json:"content"`
	CreatedAt string `json:"createdAt"`
	Author    struct {
		Nickname string `json:"nickname"`
	} `json:"author"`
}

const messageFields = `id seq content createdAt author { nickname }`

// errNoAnswer means that the outcome of a send is unknown.
var errNoAnswer = errors.New("no answer")

// trySend sends a message. It does not fail the test, so any goroutine may call it.
func (p *person) trySend(
	ctx context.Context, conversation, content, key string,
) (m message, err error) {
	a, err := p.post(ctx, p.tokens.AccessToken,
		`mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message {`+
			messageFields+`} userErrors { code } } }`,
		variables{"input": variables{
			"conversationId": conversation, "content": content,
			"idempotencyKey": key,
		}})
	if err != nil {
		return m, errors.Join(errNoAnswer, err)
	}
	var data struct{ SendMessage struct{ Message *message } }
	if a.Errors != nil {
		return m, fmt.Errorf("send: %+v", a.Errors)
	}
	if err := json.Unmarshal(a.Data, &data); err != nil {
		return m, err
	}
	if data.SendMessage.Message == nil {
		return m, fmt.Errorf("send: %s", a.Data)
	}
	return *data.SendMessage.Message, nil
}

// send sends a message. Its content is its idempotency key too.
func (p *person) send(conversation, content string) message {
	p.t.Helper()
	m, err := p.trySend(p.t.Context(), conversation, content, content)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// listed returns all messages of a conversation, page by page.
func (p *person) listed(conversation string) (all []message) {
	p.t.Helper()
	var after *string
	for {
		type page struct {
			Conversation struct {
				Messages struct {
					Nodes    []message
					PageInfo struct {
						HasNextPage bool
						EndCursor   *string
					}
				}
			}
		}
		messages := get[page](p, `query ($id: ID!, $after: String) { conversation(id: $id) {
			messages(first: 100, after: $after) { nodes {`+messageFields+`} pageInfo { hasNextPage endCursor } }
		} }`, variables{"id": conversation, "after": after}).Conversation.Messages
		all = append(all, messages.Nodes...)
		if !messages.PageInfo.HasNextPage {
			return all
		}
		after = messages.PageInfo.EndCursor
	}
}
