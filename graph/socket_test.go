package graph_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"parley/auth"
	"parley/graph"
	"parley/store"
	"parley/store/storetest"
)

// client is a minimal graphql-transport-ws client. It can also break the protocol.
type client struct {
	t    testing.TB
	conn *websocket.Conn
	next int
	// received keeps frames of operations that no test step was waiting for yet.
	received map[string][]frame
}

type frame struct {
	ID      string          `json:"id,omitempty"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

func (s *api) dial(
	header http.Header, subprotocols ...string,
) (*websocket.Conn, *http.Response, error) {
	return websocket.Dial(s.t.Context(), s.url,
		&websocket.DialOptions{HTTPHeader: header, Subprotocols: subprotocols})
}

// mustConnect opens a socket and sends nothing on it.
func (s *api) mustConnect() *client {
	s.t.Helper()
	conn, _, err := s.dial(nil, "graphql-transport-ws")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.CloseNow() })
	return &client{t: s.t, conn: conn, received: map[string][]frame{}}
}

// mustDial opens a socket and initialises it.
func (s *api) mustDial(token string, params map[string]any) *client {
	s.t.Helper()
	c := s.mustConnect()
	if token != "" {
		params = map[string]any{"Authorization": "Bearer " + token}
	}
	c.send(frame{Type: "connection_init", Payload: mustJSON(s.t, params)})
	if f := c.read(); f.Type != "connection_ack" {
		s.t.Fatalf("got %+v", f)
	}
	return c
}

func mustJSON(t testing.TB, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *client) send(f frame) {
	c.t.Helper()
	if err := c.conn.Write(c.t.Context(), websocket.MessageText, mustJSON(c.t, f)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) tryRead() (f frame, err error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	_, data, err := c.conn.Read(ctx)
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(data, &f)
}

func (c *client) read() frame {
	c.t.Helper()
	f, err := c.tryRead()
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// closed reads until the server closes, and returns its close frame. No frame of the types in never
// may come before.
func (c *client) closed(never ...string) (code int, reason string) {
	c.t.Helper()
	for {
		f, err := c.tryRead()
		if closing, ok := errors.AsType[websocket.CloseError](err); ok {
			return int(closing.Code), closing.Reason
		}
		if err != nil {
			c.t.Fatal(err)
		}
		for _, kind := range never {
			if f.Type == kind {
				c.t.Errorf("%s came before the close: %s", kind, f.Payload)
			}
		}
	}
}

// operation is one subscription of a client.
type operation struct {
	client *client
	id     string
}

func (c *client) subscribe(query string, variables map[string]any) operation {
	c.t.Helper()
	c.next++
	id := strconv.Itoa(c.next)
	c.send(frame{
		ID: id, Type: "subscribe",
		Payload: mustJSON(c.t, map[string]any{"query": query, "variables": variables}),
	})
	return operation{c, id}
}

func (o operation) frame() frame {
	for {
		if waiting := o.client.received[o.id]; len(waiting) > 0 {
			o.client.received[o.id] = waiting[1:]
			return waiting[0]
		}
		f := o.client.read()
		o.client.received[f.ID] = append(o.client.received[f.ID], f)
	}
}

// message returns the next result: "2 hi by ann".
func (o operation) message(t testing.TB) string {
	t.Helper()
	f := o.frame()
	var a answer
	if err := json.Unmarshal(f.Payload, &a); err != nil || f.Type != "next" {
		t.Fatalf("%+v (%v)", f, err)
	}
	m := a.at(t, "messageAdded").(map[string]any)
	return strconv.Itoa(int(m["seq"].(float64))) + " " + m["content"].(string) + " by " +
		a.str(t, "messageAdded.author.nickname")
}

// failure returns the codes of the error that ends the operation.
func (o operation) failure(t testing.TB) []string {
	t.Helper()
	f := o.frame()
	var a answer
	if err := json.Unmarshal(f.Payload, &a.Errors); err != nil || f.Type != "error" {
		t.Fatalf("%+v: %v", f, err)
	}
	return a.codes()
}

func TestMessageAddedReplaysAndGoesLive(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("eve")
		id := s.mustConversation(ann, bob)
		s.mustSend(ann, id, "before")

		all := s.mustDial(ann.token, nil).
			subscribe(messageAdded, map[string]any{"id": id, "after": 0})
		if got := all.message(t); got != "2 before by ann" {
			t.Errorf("replayed %s", got)
		}
		last := s.mustDial(bob.token, nil).
			subscribe(messageAdded, map[string]any{"id": id, "after": 2})
		s.mustSend(bob, id, "live")
		for _, o := range []operation{all, last} {
			if got := o.message(t); got != "3 live by bob" {
				t.Errorf("live came %s", got)
			}
		}

		for name, c := range map[string]struct {
			token string
			vars  map[string]any
			want  string
		}{
			"a non-member":  {eve.token, map[string]any{"id": id}, "NOT_FOUND"},
			"not signed in": {"", map[string]any{"id": id}, "UNAUTHENTICATED"},
			"not an id":     {ann.token, map[string]any{"id": "x"}, "BAD_USER_INPUT"},
			"beyond the end": {
				ann.token,
				map[string]any{"id": id, "after": 99},
				"HISTORY_CHANGED",
			},
			"before the start": {
				ann.token,
				map[string]any{"id": id, "after": -1},
				"BAD_USER_INPUT",
			},
		} {
			if got := s.mustDial(c.token, nil).subscribe(messageAdded, c.vars).
				failure(t); !cmp.Equal(got, []string{c.want}) {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
}

func TestQueriesAndMutationsOverTheSocket(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	o := s.mustDial(ann.token, nil).subscribe(`{ viewer { email } }`, nil)
	if f := o.frame(); f.Type != "next" || !strings.Contains(string(f.Payload), "ann@example.org") {
		t.Errorf("got %+v", f)
	}
	if f := o.frame(); f.Type != "complete" {
		t.Errorf("got %+v", f)
	}
}

func TestSocketHandshake(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), func(o *graph.Options, _ *auth.Options) {
		o.AllowedOrigins = []string{"https://app.example.org"}
	})
	for name, c := range map[string]struct {
		subprotocol, origin string
		want                int
	}{
		"the right one":    {"graphql-transport-ws", "", 101},
		"the old protocol": {"graphql-ws", "", 400},
		"none":             {"", "", 400},
		"a listed page":    {"graphql-transport-ws", "https://app.example.org", 101},
		"the own page":     {"graphql-transport-ws", s.url, 101},
		"a foreign page":   {"graphql-transport-ws", "https://evil.example.org", 403},
		"a nested frame":   {"graphql-transport-ws", "null", 403},
	} {
		header := http.Header{}
		if c.origin != "" {
			header.Set("Origin", c.origin)
		}
		var protocols []string
		if c.subprotocol != "" {
			protocols = []string{c.subprotocol}
		}
		conn, res, err := s.dial(header, protocols...)
		if res == nil || res.StatusCode != c.want {
			t.Errorf("%s: %v %v", name, res, err)
		}
		if conn != nil {
			_ = conn.CloseNow()
		}
	}
}

func TestSocketInitialisation(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	for name, c := range map[string]struct {
		first frame
		want  int
	}{
		"a bad token": {frame{
			Type:    "connection_init",
			Payload: json.RawMessage(`{"Authorization":"Bearer x"}`),
		}, 4403},
		"no bearer": {frame{
			Type:    "connection_init",
			Payload: json.RawMessage(`{"Authorization":"x"}`),
		}, 4403},
		"too early": {frame{
			Type: "subscribe", ID: "1",
			Payload: json.RawMessage(`{"query":"{ __typename }"}`),
		}, 4401},
		"no such message": {frame{Type: "hello"}, 4400},
	} {
		socket := s.mustConnect()
		socket.send(c.first)
		if code, reason := socket.closed("connection_ack"); code != c.want || reason == "" {
			t.Errorf("%s: closed with %d %q", name, code, reason)
		}
	}
	// A client that is not a browser may send the token with the upgrade.
	ann := s.mustRegister("ann")
	conn, _, err := s.dial(http.Header{"Authorization": bearer(ann.token)}, "graphql-transport-ws")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	c := &client{t: t, conn: conn, received: map[string][]frame{}}
	c.send(frame{Type: "connection_init"})
	c.read()
	if f := c.subscribe(`{ viewer { email } }`, nil).
		frame(); !strings.Contains(string(f.Payload), "ann@example.org") {
		t.Errorf("got %+v", f)
	}
}

// A socket ends with its session, with its token, and with the server; never with "complete",
// after which a client does not come back.
func TestSocketEnds(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		id := s.mustConversation(ann, bob)
		follow := func(p person) *client {
			c := s.mustDial(p.token, nil)
			o := c.subscribe(messageAdded, map[string]any{"id": id, "after": 0})
			s.mustSend(bob, id, "so that it is known to be live")
			o.message(t)
			return c
		}

		c := follow(ann)
		s.do(ann.token, `mutation { logout { userErrors { code } } }`, nil)
		if code, reason := c.closed("complete", "error"); code != 4403 ||
			!strings.Contains(reason, "session has ended") {
			t.Errorf("signed out: %d %q", code, reason)
		}

		c = follow(bob)
		s.graph.Drain(t.Context())
		if code, _ := c.closed("complete", "error"); code != 1012 {
			t.Errorf("the server stops: %d", code)
		}
		if _, res, _ := s.dial(nil, "graphql-transport-ws"); res == nil ||
			res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a stopping server took a socket: %v", res)
		}
	})
}

func TestSocketEndsWithItsToken(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t),
		func(_ *graph.Options, o *auth.Options) { o.AccessTTL = 2 * time.Second })
	ann := s.mustRegister("ann")
	if code, reason := s.mustDial(ann.token, nil).closed(); code != 4403 ||
		!strings.Contains(reason, "expired") {
		t.Errorf("closed with %d %q", code, reason)
	}
}

func TestTooLargeForASocket(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t),
		func(o *graph.Options, _ *auth.Options) { o.MaxBodyBytes = 1000 })
	c := s.mustDial("", nil)
	c.subscribe(`{ viewer { email } } #`+strings.Repeat("x", 2000), nil)
	if code, _ := c.closed("next"); code != int(websocket.StatusMessageTooBig) {
		t.Errorf("closed with %d", code)
	}
}

// next is the data of a subscription's next message, at its root field.
func (o operation) next(t testing.TB, field string) map[string]any {
	t.Helper()
	f := o.frame()
	var payload struct {
		Data   map[string]map[string]any
		Errors json.RawMessage
	}
	if err := json.Unmarshal(f.Payload, &payload); f.Type != "next" || err != nil ||
		payload.Errors != nil {
		t.Fatalf("got %s %s (%v)", f.Type, f.Payload, err)
	}
	return payload.Data[field]
}

// wantNext compares a subscription's next message.
func (o operation) wantNext(t *testing.T, field string, want obj) {
	t.Helper()
	if diff := cmp.Diff(want, obj(o.next(t, field))); diff != "" {
		t.Errorf("%s (-want +got):\n%s", field, diff)
	}
}

func (o operation) wantFailure(t *testing.T, code string) {
	t.Helper()
	if codes := o.failure(t); !cmp.Equal(codes, []string{code}) {
		t.Errorf("got %v, want %s", codes, code)
	}
}

// However a connection breaks, it is released.
func TestUnresponsiveSocketsAreClosed(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	c := s.mustConnect()
	c.send(frame{Type: "connection_init", Payload: json.RawMessage(`[]`)})
	if code, _ := c.closed("connection_ack"); code != 4400 {
		t.Errorf("closed with %d", code)
	}
}

func TestOperationsOfOneSocketAreBounded(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))
	c := s.mustDial(ann.token, nil)
	following := make([]operation, 100)
	for i := range following {
		following[i] = c.subscribe(messageAdded, map[string]any{"id": id, "after": 0})
	}
	s.mustSend(ann, id, "hi")
	for _, o := range following {
		o.message(t)
	}
	if got := c.subscribe(`{ viewer { email } }`, nil).
		failure(t); !cmp.Equal(got, []string{"RATE_LIMITED"}) {
		t.Errorf("one more: %v", got)
	}
	c.send(frame{ID: following[0].id, Type: "complete"})
	for {
		// once the server has seen that one has ended
		f := c.subscribe(`{ viewer { email } }`, nil).frame()
		if !strings.Contains(string(f.Payload), "RATE_LIMITED") {
			return
		}
	}
}
