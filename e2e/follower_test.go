package e2e

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/internal/client"
)

// The clients that can follow, by their scripts.
const (
	webSocket  = "websocket.js" // graphql-ws
	serverSent = "sse.js"       // graphql-sse
	single     = "single.js"    // graphql-sse, one stream for all operations
)

// follower is a client library that follows one conversation.
type follower struct {
	*script
	messages []message // received so far
}

// event is an event of a script.
type event struct {
	Type   string
	Result answer
	Errors []client.Error
	Code   int
	Reason string
}

// followOptions are the parameters of a follower.
type followOptions struct {
	AccessToken string `json:"accessToken,omitempty"`
	// for a fresh access token with each connection
	RefreshToken   string `json:"refreshToken,omitempty"`
	ConversationID string `json:"conversationId"`
	AfterSeq       *int64 `json:"afterSeq,omitempty"`
	// after the end of the connection, when the test calls reconnect
	Reconnect bool `json:"reconnect"`
	// for a server of a version without cursors; it cannot reconnect
	byNumber bool
}

// follow begins after a number, and continues after the cursor of the last message.
const follow = `subscription ($conversationId: ID!, $after: String, $afterSeq: Int) {
	messageAdded(conversationId: $conversationId, after: $after, afterSeq: $afterSeq) {
		cursor ` + messageFields + `
	}
}`

const followByNumber = `subscription ($conversationId: ID!, $afterSeq: Int) {
	messageAdded(conversationId: $conversationId, afterSeq: $afterSeq) { ` + messageFields + ` }
}`

// follow starts a follower with the access token of p.
func (p *person) follow(script string, options followOptions) *follower {
	p.t.Helper()
	options.AccessToken = p.tokens.AccessToken
	return p.server.follow(script, options)
}

func (s *server) follow(script string, options followOptions) *follower {
	s.t.Helper()
	query := follow
	if options.byNumber {
		query = followByNumber
	}
	return &follower{script: mustRun(s.t, script, struct {
		API   string `json:"api"`
		Query string `json:"query"`
		followOptions
	}{
		API: s.api, followOptions: options,
		Query: query,
	})}
}

// event returns the next event. It keeps a message.
func (f *follower) event() (e event) {
	f.t.Helper()
	line := f.next(&e)
	if e.Type != "next" || e.Result.Errors != nil {
		return e
	}
	var data struct{ MessageAdded *message }
	if err := json.Unmarshal(e.Result.Data, &data); err != nil || data.MessageAdded == nil {
		f.t.Fatalf("%s: no message: %s", f.name, line)
	}
	f.messages = append(f.messages, *data.MessageAdded)
	return e
}

// want takes the next event, which has to be of this type.
func (f *follower) want(kind string) event {
	f.t.Helper()
	e := f.event()
	if e.Type != kind {
		f.t.Fatalf("%s: got %+v, want %q", f.name, e, kind)
	}
	return e
}

// wantMessage takes the next event, which has to be this message.
func (f *follower) wantMessage(want message) {
	f.t.Helper()
	if e := f.want("next"); e.Result.Errors != nil {
		f.t.Fatalf("%s: got %+v, want a message", f.name, e.Result.Errors)
	}
	if diff := cmp.Diff(want, f.messages[len(f.messages)-1]); diff != "" {
		f.t.Errorf("%s: message (-want +got):\n%s", f.name, diff)
	}
}

// wantRefused takes the error that ends the subscription: a message of its own on a WebSocket, the
// last result on a stream.
func (f *follower) wantRefused(code string) {
	f.t.Helper()
	var e event
	var got string
	if f.name == webSocket {
		e = f.want("error")
		got = codeOf(e.Errors)
	} else {
		e = f.want("next")
		got = e.Result.code()
		f.want("complete")
	}
	if got != code {
		f.t.Errorf("%s: got %+v, want %s", f.name, e, code)
	}
}

// wantClosed takes messages until the connection closes. The subscription must not end before.
func (f *follower) wantClosed() event {
	f.t.Helper()
	for {
		switch e := f.event(); {
		case e.Type == "closed":
			return e
		case e.Type != "next" || e.Result.Errors != nil:
			f.t.Fatalf("%s: got %+v, want messages until it is closed", f.name, e)
		}
	}
}

// expired takes the next event of a client whose access token may expire at any time, and reports
// whether it did.
func (f *follower) expired() bool {
	f.t.Helper()
	switch e := f.event(); {
	case e.Type == "closed" && e.Code == 4403 && e.Reason != "":
		return true
	case e.Type != "refreshed" && e.Type != "connected" &&
		(e.Type != "next" || e.Result.Errors != nil):
		f.t.Fatalf("%s: got %+v, want messages, or to be closed with 4403 and a reason", f.name, e)
	}
	return false
}

// last returns the seq of the last received message, or 0.
func (f *follower) last() int64 {
	if len(f.messages) == 0 {
		return 0
	}
	return f.messages[len(f.messages)-1].Seq
}

// reconnect lets the client reconnect.
func (f *follower) reconnect(api string) {
	f.t.Helper()
	f.instruct(map[string]string{"api": api})
}

// until takes messages until a seq.
func (f *follower) until(seq int64) {
	f.t.Helper()
	for f.last() < seq {
		if e := f.want("next"); e.Result.Errors != nil {
			f.t.Fatalf("%s: got %+v instead of seq %d", f.name, e.Result.Errors, seq)
		}
	}
}

// wantAll waits for the last of these messages, and checks that each was received once, in order.
func (f *follower) wantAll(want []message) {
	f.t.Helper()
	f.until(want[len(want)-1].Seq)
	wantMessages(f.t, f.name, want, f.messages)
}

func wantMessages(t *testing.T, name string, want, got []message) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: messages (-want +got):\n%s", name, diff)
	}
}
