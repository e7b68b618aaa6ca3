package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"parley/store/storetest"
)

// socket is a WebSocket that carries one operation at a time. It is for tests that need many
// sockets, or do what no client library does.
type socket struct {
	*websocket.Conn
	t *testing.T
}

// connect opens a socket with the access token of p, if there is one.
func (p *person) connect() *socket {
	p.t.Helper()
	s, err := p.tryConnect()
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// tryConnect is like connect, but returns an error if the server refuses the token.
func (p *person) tryConnect() (*socket, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, p.api, &websocket.DialOptions{
		Subprotocols: []string{"graphql-transport-ws"}, HTTPClient: p.http,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.CloseNow() })
	begin := map[string]any{"type": "connection_init"}
	if p.tokens.AccessToken != "" {
		begin["payload"] = map[string]string{"Authorization": "Bearer " + p.tokens.AccessToken}
	}
	var ack frame
	if err := errors.Join(wsjson.Write(ctx, conn, begin),
		wsjson.Read(ctx, conn, &ack)); err != nil {
		return nil, err
	}
	if ack.Type != "connection_ack" {
		p.t.Fatalf("got %q instead of connection_ack", ack.Type)
	}
	return &socket{conn, p.t}, nil
}

type frame struct {
	Type    string
	Payload json.RawMessage
}

// ask runs a query or a mutation over the socket.
func (s *socket) ask(query string, vars variables) (a answer) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	err := wsjson.Write(ctx, s.Conn, map[string]any{
		"id": "1", "type": "subscribe",
		"payload": map[string]any{"query": query, "variables": vars},
	})
	for err == nil {
		var f frame
		if err = wsjson.Read(ctx, s.Conn, &f); err != nil {
			break
		}
		switch f.Type {
		case "complete":
			return a
		case "next":
			err = json.Unmarshal(f.Payload, &a)
		case "error":
			s.t.Fatalf("%s\nanswer: %s", query, f.Payload)
		}
	}
	s.t.Fatal(err)
	return a
}

// wantClosed waits until the server closes the socket with 4403 and a reason, and returns when that
// was.
func (s *socket) wantClosed() time.Time {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for {
		if _, _, err := s.Read(ctx); err != nil {
			wantForbidden(s.t, err)
			return time.Now()
		}
	}
}

func wantForbidden(t *testing.T, err error) {
	t.Helper()
	if e, ok := errors.AsType[websocket.CloseError](err); !ok || e.Code != 4403 || e.Reason == "" {
		t.Errorf("the socket has ended with %v, want 4403 and a reason", err)
	}
}

const refreshSession = `mutation ($token: String!) { refreshSession(input: {refreshToken: $token}) {` + signedInFields + `} }`

// TestRefreshOverSocket checks that a socket lives as long as the tokens that are traded over it,
// and that it refuses the tokens of other users.
func TestRefreshOverSocket(t *testing.T) {
	t.Parallel()
	srv := mustServe(t, "PARLEY_ACCESS_TTL=3s")
	ada, grace := srv.register("ada"), srv.register("grace")
	ada.refresh()
	left, renewed := ada.connect(), ada.connect()

	a := left.ask(refreshSession, variables{"token": grace.tokens.RefreshToken})
	if a.code() != "FORBIDDEN" {
		t.Errorf("with grace's token: %s %+v, want FORBIDDEN", a.Data, a.Errors)
	}
	grace.refresh()
	grace.wants(`{"viewer": {"user": {"nickname": "grace"}}}`, viewerNickname, nil)

	first := ada.tokens.ExpiresAt
	// A JWT counts in seconds: a token that is refreshed sooner may expire at the same second.
	<-time.After(time.Until(first.Add(-2 * time.Second)))
	a = renewed.ask(refreshSession, variables{"token": ada.tokens.RefreshToken})
	var data struct{ RefreshSession signedIn }
	if err := json.Unmarshal(a.Data, &data); err != nil || a.Errors != nil {
		t.Fatalf("with ada's own token: %v %+v", err, a.Errors)
	}
	second := data.RefreshSession.Tokens.ExpiresAt
	if !second.After(first) {
		t.Fatalf("the new access token ends at %v, the old one at %v", second, first)
	}

	if at := left.wantClosed(); at.Before(first) {
		t.Errorf("the socket with grace's token was closed at %v, want not before %v", at, first)
	}
	a = renewed.ask(viewerNickname, nil)
	wantJSON(t, "after the old end", `{"viewer": {"user": {"nickname": "ada"}}}`, a.Data)
	if at := renewed.wantClosed(); at.Before(second) {
		t.Errorf("the renewed socket was closed at %v, want not before %v", at, second)
	}
}

// at returns the same user on another node.
func (p *person) at(other *server) *person {
	twin := *p
	twin.server = other
	return &twin
}

// session returns the id of the session of p.
func (p *person) session() (id string) {
	p.t.Helper()
	data := get[struct {
		Viewer struct {
			Sessions []struct {
				ID      string
				Current bool
			}
		}
	}](p, `{ viewer { sessions { id current } } }`, nil)
	for _, s := range data.Viewer.Sessions {
		if s.Current {
			id = s.ID
		}
	}
	return id
}

// TestTwoNodes ends sessions on one node, and checks that their sockets end on the other.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	database := on(storetest.PostgresURL(t))
	const secret = "PARLEY_JWT_SECRET=the same on both nodes, and long enough"
	here, there := mustServe(t, database, secret), mustServe(t, database, secret)
	for _, end := range []struct {
		nickname     string // names what ends the session
		mutation     string
		asking, twin bool // the sessions that end
	}{
		{"logout", `{ done: logout`, true, false},
		{"revoke", `($twin: ID!) { done: revokeSession(input: {sessionId: $twin})`, false, true},
		{"others", `{ done: revokeOtherSessions`, false, true},
		{
			"change",
			`($password: String!) { done: changePassword(input: {oldPassword: $password, newPassword: "quite another one"})`, false, true,
		},
		{
			"delete", `($password: String!) { done: deleteAccount(input: {password: $password})`, true,
			true,
		},
	} {
		asking := here.register(end.nickname)
		twin := asking.loginAgain()
		sockets := map[*socket]bool{asking.at(there).connect(): end.asking, twin.at(there).
			connect(): end.twin}
		vars := variables{"password": asking.Password, "twin": twin.session()}
		begin := time.Now()
		asking.wants(`{"done": {"userErrors": []}}`,
			`mutation `+end.mutation+` { userErrors { code message } } }`, vars)
		for socket, ends := range sockets {
			if ends {
				t.Logf("%s on one node has closed the socket on the other after %v", end.nickname,
					socket.wantClosed().Sub(begin))
				continue
			}
			wantJSON(t, end.nickname+": the other session",
				`{"viewer": {"user": {"nickname": "`+end.nickname+`"}}}`,
				socket.ask(viewerNickname, nil).Data)
		}
	}
}
