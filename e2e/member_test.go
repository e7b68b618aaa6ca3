package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The libraries of docs/accounts.md.
const (
	apollo = "apollo"
	urql   = "urql"
)

// member is a user with an application on one of the libraries.
type member struct {
	*follower
	nickname string
	// counts of events, by type; "renewed over" has the transport, "closed with" the code
	seen map[string]int
}

// join starts an application.
func (s *server) join(library, nickname string, clockBehind time.Duration) *member {
	s.t.Helper()
	return &member{&follower{script: mustRun(s.t, "member.js", map[string]any{
		"api": s.api, "client": library, "clockBehind": clockBehind.Milliseconds(),
	})}, nickname, map[string]int{}}
}

// step takes the next event, and counts it.
func (m *member) step() event {
	m.t.Helper()
	e := m.event()
	switch e.Type {
	case "renewed":
		m.seen["renewed over "+e.Reason]++
	case "closed":
		m.seen[fmt.Sprintf("closed with %d", e.Code)]++
	default:
		m.seen[e.Type]++
	}
	return e
}

// wait takes events until one was seen so many times.
func (m *member) wait(what string, times int) {
	m.t.Helper()
	for m.seen[what] < times {
		m.step()
	}
}

// ask runs a query or a mutation, and returns its answer, with or without errors.
func (m *member) ask(query string, vars variables) answer {
	m.t.Helper()
	m.instruct(map[string]any{"query": query, "variables": vars})
	for {
		if e := m.step(); e.Type == "done" {
			return e.Result
		}
	}
}

// do runs a query or a mutation, and reads its data. Errors fail the test.
func (m *member) do(into any, query string, vars variables) {
	m.t.Helper()
	a := m.ask(query, vars)
	if a.Errors != nil {
		m.t.Fatalf("%s: %s\nanswer: %+v", m.nickname, query, a.Errors)
	}
	if err := json.Unmarshal(a.Data, into); err != nil {
		m.t.Fatal(err)
	}
}

// register registers the user, whom the application keeps signed in.
func (m *member) register() (id string) {
	m.t.Helper()
	var data struct{ Register signedIn }
	m.do(&data, `mutation ($input: RegisterInput!) { register(input: $input) {`+signedInFields+
		`} }`, variables{"input": variables{
		"email": strings.ReplaceAll(m.nickname, " ", ".") + "@example.org", "nickname": m.nickname,
		"password": "the password of " + m.nickname,
	}})
	return data.Register.Viewer.User.ID
}

func (m *member) converse(others ...string) (conversation string) {
	m.t.Helper()
	members := make([]variables, len(others))
	for i, id := range others {
		members[i] = variables{"userId": id}
	}
	var data struct {
		CreateConversation struct{ Conversation struct{ ID string } }
	}
	m.do(&data,
		`mutation ($input: CreateConversationInput!) { createConversation(input: $input) { conversation { id } userErrors { code } } }`,
		variables{"input": variables{"members": members}})
	return data.CreateConversation.Conversation.ID
}

func (m *member) subscribe(conversation string, afterSeq int64) {
	m.t.Helper()
	m.instruct(map[string]any{
		"query":     follow,
		"variables": variables{"conversationId": conversation, "afterSeq": afterSeq},
	})
}

func (m *member) send(conversation, content string) message {
	m.t.Helper()
	var data struct{ SendMessage struct{ Message message } }
	m.do(&data, `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message {`+
		messageFields+`} userErrors { code } } }`,
		variables{"input": variables{
			"conversationId": conversation, "content": content,
			"idempotencyKey": content,
		}})
	return data.SendMessage.Message
}

// wantAll is like that of a follower, but allows any other events before the last message.
func (m *member) wantAll(want []message) {
	m.t.Helper()
	for m.last() < want[len(want)-1].Seq {
		m.step()
	}
	wantMessages(m.t, m.nickname, want, m.messages)
}

// wantNone checks that events were not seen.
func (m *member) wantNone(events ...string) {
	m.t.Helper()
	for _, what := range events {
		if n := m.seen[what]; n > 0 {
			m.t.Errorf("%s: %d times %q, want none; all events: %v", m.nickname, n, what, m.seen)
		}
	}
}

const viewerNickname = `query { viewer { user { nickname } } }`

func (m *member) wantSignedIn() {
	m.t.Helper()
	var data struct {
		Viewer struct{ User struct{ Nickname string } }
	}
	m.do(&data, viewerNickname, nil)
	if got := data.Viewer.User.Nickname; got != m.nickname {
		m.t.Errorf("the viewer is %q, want %s", got, m.nickname)
	}
}

// TestLibraries lets two users talk through several lifetimes of an access token, one with Apollo
// Client and one with urql, set up as in docs/accounts.md. Both stay signed in, and no socket is
// closed.
func TestLibraries(t *testing.T) {
	t.Parallel()
	const life = 3 * time.Second
	srv := mustServe(t, "PARLEY_ACCESS_TTL="+life.String())
	ada, grace := srv.join(apollo, "ada", 0), srv.join(urql, "grace", 0)
	both := []*member{ada, grace}
	if a := ada.ask(viewerNickname, nil); a.code() != "UNAUTHENTICATED" {
		t.Errorf("before signing in: %+v", a.Errors)
	}
	ada.register()
	conversation := ada.converse(grace.register())

	// Without a socket, the first request after the end trades the tokens.
	<-time.After(life)
	before := map[*member]int{}
	for _, m := range both {
		m.wantSignedIn()
		if m.seen["renewed over http"] == 0 {
			t.Errorf("%s goes on with the first access token: %v", m.nickname, m.seen)
		}
		m.subscribe(conversation, 0)
		m.wait("connected", 1)
		before[m] = m.seen["renewed over http"]
	}

	var sent []message
	for begin, round := time.Now(), 1; time.Since(begin) < 3*life; round++ {
		for _, m := range both {
			m.wait("renewed over socket", round)
			m.wantSignedIn()
			sent = append(sent, m.send(conversation, fmt.Sprintf("%s %d", m.nickname, round)))
		}
	}
	for _, m := range both {
		m.wantAll(sent)
		m.wantNone("closed with 4403", "closed with 1006", "ended", "signed-out")
		if n := m.seen["renewed over http"]; n != before[m] || m.seen["connected"] != 1 {
			t.Errorf("%s has not renewed over one socket alone: %v", m.nickname, m.seen)
		}
	}

	// Signing out ends the subscription and the socket, which does not reconnect.
	var out struct{}
	for _, m := range both {
		m.do(&out, `mutation { logout { userErrors { code } } }`, nil)
		m.wait("closed with 4403", 1)
		m.wait("ended", 1)
		if a := m.ask(viewerNickname, nil); a.code() != "UNAUTHENTICATED" {
			t.Errorf("%s, after signing out: %+v", m.nickname, a.Errors)
		}
	}
}

// TestAnotherSignsIn signs another user in to an application that is signed in already. The socket
// and the subscriptions become those of the new user.
func TestAnotherSignsIn(t *testing.T) {
	t.Parallel()
	srv := mustServe(t)
	grace := srv.register("grace")
	for _, m := range []*member{srv.join(apollo, "ada", 0), srv.join(urql, "linus", 0)} {
		m.register()
		conversation := m.converse(grace.ID)
		m.subscribe(conversation, 0)
		m.wantAll([]message{m.send(conversation, "mine")})
		m.nickname = "another " + m.nickname
		m.register()
		m.wait("connected", 2)
		m.wait("ended", 1) // NOT_FOUND: this user is not a member
		m.wantSignedIn()
		grace.send(conversation, "not yours")
		if len(m.messages) != 1 {
			t.Errorf("%s has received %+v", m.nickname, m.messages)
		}
	}
}

// TestLibrariesWithWrongClock sets the clocks of both devices an hour late, so that access tokens
// expire unexpectedly. Requests are refused and repeated, and the socket is closed and reconnects.
// No message is lost or doubled.
func TestLibrariesWithWrongClock(t *testing.T) {
	t.Parallel()
	const life = 3 * time.Second
	srv := mustServe(t, "PARLEY_ACCESS_TTL="+life.String())
	ada, grace := srv.join(apollo, "ada", time.Hour), srv.join(urql, "grace", time.Hour)
	both := []*member{ada, grace}
	ada.register()
	conversation := ada.converse(grace.register())
	for _, m := range both {
		m.subscribe(conversation, 0)
		m.wait("connected", 1)
	}
	var sent []message
	for round := 1; round <= 2; round++ {
		for _, m := range both {
			m.wait("closed with 4403", round)
			// While one socket reconnects, the others continue.
			sent = append(sent, m.send(conversation, fmt.Sprintf("%s %d", m.nickname, round)))
			m.wait("connected", round+1)
			sent = append(sent, m.send(conversation, fmt.Sprintf("%s %d again", m.nickname, round)))
		}
	}
	for _, m := range both {
		m.wantAll(sent)
		m.wantNone("ended", "signed-out", "closed with 1006")
		if m.seen["renewed over socket"] > 0 {
			t.Errorf("%s has renewed in time after all: %v", m.nickname, m.seen)
		}
	}

	// Without a socket, only an answer shows that the token has expired.
	linus, barbara := srv.join(apollo, "linus", time.Hour), srv.join(urql, "barbara", time.Hour)
	for _, m := range []*member{linus, barbara} {
		m.register()
	}
	<-time.After(life)
	for _, m := range []*member{linus, barbara} {
		m.wantSignedIn()
		if m.seen["unauthenticated"] != 1 || m.seen["renewed over http"] != 1 {
			t.Errorf("%s: %v, want one refusal and one renewal", m.nickname, m.seen)
		}
	}
}
