package graph_test

import (
	"bufio"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"parley/auth"
	"parley/graph"
	"parley/store"
	"parley/store/storetest"
)

func TestLiveConnectionsOfAnAccountAreBounded(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t),
		func(o *graph.Options, _ *auth.Options) { o.MaxConnections = 2 })
	ann, bob := s.mustRegister("Ann"), s.mustRegister("Bob")
	id := s.mustConversation(ann, bob)
	first := s.mustDial(ann.token, nil)
	s.mustDial(ann.token, nil)
	refused := func() {
		t.Helper()
		c := s.mustConnect()
		c.send(frame{
			Type:    "connection_init",
			Payload: mustJSON(t, map[string]any{"Authorization": "Bearer " + ann.token}),
		})
		if code, reason := c.closed("connection_ack"); code != 1013 || reason == "" {
			t.Errorf("closed with %d %s", code, reason)
		}
	}
	refused()
	refused()
	s.mustDial(bob.token, nil) // another account has its own limit

	// An end makes room; the server notices it a moment after the client.
	if err := first.conn.CloseNow(); err != nil {
		t.Fatal(err)
	}
	for {
		c := s.mustConnect()
		c.send(frame{
			Type:    "connection_init",
			Payload: mustJSON(t, map[string]any{"Authorization": "Bearer " + ann.token}),
		})
		if f, err := c.tryRead(); err == nil && f.Type == "connection_ack" {
			o := c.subscribe(
				`subscription($id: ID!) { messageAdded(conversationId: $id, afterSeq: 0) {
					seq content author { nickname } } }`, map[string]any{"id": id})
			s.mustSend(bob, id, "there is room")
			if got := o.message(t); got != "2 there is room by Bob" {
				t.Errorf("got %s", got)
			}
			return
		}
	}
}

// Anonymous clients of one address have as many connections as an account, of both kinds together.
func TestLiveConnectionsOfAnonymousClientsAreBounded(t *testing.T) {
	t.Parallel()
	loopback := []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("::1/128"),
	}
	s := mustServe(t, storetest.MustSQLite(t), func(o *graph.Options, _ *auth.Options) {
		o.MaxConnections, o.TrustedProxies = 2, loopback
	})
	ann := s.mustRegister("Ann")
	tries := func(ip string) *client {
		t.Helper()
		conn, _, err := s.dial(http.Header{"X-Forwarded-For": {ip}}, "graphql-transport-ws")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.CloseNow() })
		c := &client{t: t, conn: conn, received: map[string][]frame{}}
		c.send(frame{Type: "connection_init"})
		return c
	}
	opens := func(ip string) *client {
		t.Helper()
		c := tries(ip)
		if f := c.read(); f.Type != "connection_ack" {
			t.Fatalf("%s: got %+v", ip, f)
		}
		return c
	}
	refused := func(ip string) {
		t.Helper()
		if code, reason := tries(ip).closed("connection_ack"); code != 1013 ||
			!strings.Contains(reason, "without signing in") {
			t.Errorf("%s: closed with %d %s", ip, code, reason)
		}
	}
	request := func(method, ip, query string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.url+"?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Accept": {"text/event-stream"}, "X-Forwarded-For": {ip}}
		transport := new(http.Transport)
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = res.Body.Close()
			transport.CloseIdleConnections()
		})
		return res
	}
	readAll := func(res *http.Response) []byte {
		t.Helper()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const first, same, other = "2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"
	socket := opens(first)
	stream := request(http.MethodGet, first,
		"token="+string(readAll(request(http.MethodPut, first, ""))))
	if b, err := stream.Body.Read(make([]byte, 1)); b != 1 || err != nil { // it has started
		t.Fatal(err)
	}
	refused(first)
	refused(same)
	opens(other)
	s.mustDial(ann.token, nil) // an account has its own limit

	const name = "query=%7B__typename%7D"
	if got := readAll(request(http.MethodGet, first, name)); !strings.Contains(string(got),
		"RATE_LIMITED") {
		t.Errorf("one more stream: %s", got)
	}
	if got := readAll(request(http.MethodGet, other, name)); !strings.Contains(string(got),
		"Query") {
		t.Errorf("a stream from elsewhere: %s", got)
	}

	// An end makes room; the server notices it a moment after the client.
	_ = socket.conn.CloseNow()
	_ = stream.Body.Close()
	for range 2 {
		for f, err := tries(same).tryRead(); err != nil || f.Type != "connection_ack"; {
			f, err = tries(same).tryRead()
		}
	}
	refused(first)
}

// TestAStreamIsOfOneAccount: the token of a stream lets no other client run operations on it, or
// end those of its owner.
func TestAStreamIsOfOneAccount(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, eve := s.mustRegister("ann"), s.mustRegister("eve")
		_, token := s.request(http.MethodPut, "", nil,
			http.Header{"Authorization": bearer(ann.token)})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			s.url+"?token="+string(token), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{
			"Accept":        {"text/event-stream"},
			"Authorization": bearer(ann.token),
		}
		transport := new(http.Transport)
		defer transport.CloseIdleConnections()
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		lines := bufio.NewScanner(res.Body)
		lines.Scan() // the stream has started
		for _, c := range []struct {
			caller string
			as     []string
			want   int
		}{
			{"another account", bearer(eve.token), http.StatusForbidden},
			{"an anonymous client", nil, http.StatusForbidden},
			{"the account", bearer(ann.token), http.StatusAccepted},
		} {
			body := mustJSON(t, obj{
				"query":      `{ viewer { user { nickname } } }`,
				"extensions": obj{"operationId": "1"},
			})
			header := http.Header{
				"Content-Type":                 {"application/json"},
				"X-GraphQL-Event-Stream-Token": {string(token)},
			}
			if c.as != nil {
				header["Authorization"] = c.as
			}
			if status, answer := s.post(body, header); status != c.want {
				t.Errorf("%s: %d %s", c.caller, status, answer)
			}
			if c.want != http.StatusForbidden {
				continue
			}
			delete(header, "Content-Type")
			if status, answer := s.request(http.MethodDelete, "?operationId=1", nil,
				header); status != c.want {
				t.Errorf("%s ends an operation: %d %s", c.caller, status, answer)
			}
		}
		for lines.Scan() {
			if text := lines.Text(); strings.HasPrefix(text, "data: ") {
				if !strings.Contains(text, `"nickname":"ann"`) {
					t.Errorf("the stream has %s", text)
				}
				break
			}
		}
	})
}
