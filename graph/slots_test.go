package graph_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/auth"
	"parley/graph"
	"parley/store"
	"parley/store/storetest"
)

const (
	everything = `subscription($after: String) {
		events(after: $after) { cursor event { __typename } } }`
	presences = `subscription { presenceChanged { online } }`
)

// start subscribes, and waits until the stream runs.
func (c *client) start(query string) operation {
	c.t.Helper()
	o := c.subscribe(query, nil)
	if f := o.frame(); f.Type != "next" {
		c.t.Fatalf("%s: got %s %s", query, f.Type, f.Payload)
	}
	return o
}

func (o operation) wantRefused(t *testing.T, code string) {
	t.Helper()
	if got := o.failure(t); !cmp.Equal(got, []string{code}) {
		t.Errorf("got %v, want %s", got, code)
	}
}

// One events subscription runs on a connection. Another is refused, and the first one goes on. Once
// the first one has ended, there is room at once.
func TestEventsRunOnceOnAConnection(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("Ann"), s.mustRegister("Bob")
		c := s.mustDial(ann.token, nil)
		c.subscribe(everything, map[string]any{"after": "ZQ"}).wantRefused(t, "BAD_USER_INPUT")
		first := c.start(everything)
		for range 3 {
			c.subscribe(everything, nil).wantRefused(t, "RATE_LIMITED")
		}
		s.mustConversation(bob, ann)
		if got := first.next(t,
			"events")["event"].(map[string]any)["__typename"]; got != "ConversationJoined" {
			t.Errorf("got %v", got)
		}
		s.mustDial(ann.token, nil).start(everything) // another connection has its own
		for range 20 {
			c.send(frame{ID: first.id, Type: "complete"})
			first = c.start(everything)
		}
	})
}

// The same if the operations of one connection are requests that share a server-sent stream.
func TestEventsRunOnceOnASharedStream(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("Ann")
	send := func(method, token, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{
			"Authorization": bearer(ann.token),
			"Content-Type":  {"application/json"},
		}
		if token != "" {
			req.Header.Set("X-GraphQL-Event-Stream-Token", token)
		}
		if method == http.MethodGet {
			req.Header.Set("Accept", "text/event-stream")
		}
		transport := new(http.Transport)
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close(); transport.CloseIdleConnections() })
		return res
	}
	token, err := io.ReadAll(send(http.MethodPut, "", "").Body)
	if err != nil {
		t.Fatal(err)
	}
	events := readSent(send(http.MethodGet, string(token), "").Body)
	start := func(id string) {
		body, err := json.Marshal(map[string]any{
			"query":      everything,
			"extensions": map[string]any{"operationId": id},
		})
		if err != nil {
			t.Fatal(err)
		}
		if res := send(http.MethodPost, string(token),
			string(body)); res.StatusCode != http.StatusAccepted {
			t.Fatalf("got %s", res.Status)
		}
	}
	start("one")
	if e := next(t, events); !strings.Contains(e.data, "CaughtUp") {
		t.Errorf("got %+v", e)
	}
	start("two")
	if e := next(t, events); !strings.Contains(e.data, "RATE_LIMITED") ||
		!strings.Contains(e.data, `"two"`) {
		t.Errorf("got %+v", e)
	}
}

// runs waits until a stream has delivered something, while more and more happens.
func (s *api) runs(t *testing.T, o operation, ann, bob person) {
	t.Helper()
	told := make(chan frame, 1)
	go func() { told <- o.frame() }()
	for {
		s.mustConversation(bob, ann)
		select {
		case f := <-told:
			if f.Type != "next" {
				t.Fatalf("got %s %s", f.Type, f.Payload)
			}
			return
		default:
		}
	}
}

// The subscriptions of an account over all its conversations are limited on a node, for each field,
// on all connections together.
func TestStreamsOfAnAccountAreBounded(t *testing.T) {
	t.Parallel()
	const most = 2
	s := mustServe(t, storetest.MustSQLite(t),
		func(o *graph.Options, _ *auth.Options) {
			o.MaxStreams = most
		})
	ann, bob := s.mustRegister("Ann"), s.mustRegister("Bob")
	s.mustConversation(ann, bob)
	s.mustDial(bob.token, nil) // so that presenceChanged has a user to report
	for _, query := range []string{
		everything, presences, `subscription { inboxUpdated { conversationId } }`, `subscription {
			conversationAdded { id } }`,
	} {
		var last operation
		for range most {
			last = s.mustDial(ann.token, nil).subscribe(query, nil)
			s.runs(t, last, ann, bob)
		}
		c := s.mustDial(ann.token, nil)
		c.subscribe(query, nil).wantRefused(t, "RATE_LIMITED")
		// another account has its own limit
		s.runs(t, s.mustDial(bob.token, nil).subscribe(query, nil), bob, ann)
		last.client.send(frame{ID: last.id, Type: "complete"})
		s.runs(t, last.client.subscribe(query, nil), ann, bob)
		c.subscribe(query, nil).wantRefused(t, "RATE_LIMITED")
	}
}
