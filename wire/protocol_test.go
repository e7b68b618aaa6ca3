package wire

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"parley/errs"
)

// TestProtocol has a rule of graphql-transport-ws in each row: the messages of a client, and those
// of the server, in order. A want that begins with a number is a close code and a part of its
// reason.
func TestProtocol(t *testing.T) {
	t.Parallel()
	const init, ack = `{"type":"connection_init"}`, `{"type":"connection_ack"}`
	long := strings.Repeat("x", maxID+1)
	for name, c := range map[string]struct {
		send []string
		want []string
	}{
		"initialisation": {[]string{init}, []string{ack}},
		"initialisation with a payload": {[]string{
			`{"type":"connection_init","payload":{"token":"good"}}`,
		}, []string{ack}},
		"initialisation with null": {[]string{
			`{"type":"connection_init","payload":null}`,
		}, []string{ack}},
		"initialisation with a list": {
			[]string{`{"type":"connection_init","payload":[]}`},
			[]string{"4400 payload of connection_init"},
		},
		"initialisation with a text": {
			[]string{`{"type":"connection_init","payload":"x"}`},
			[]string{"4400 payload of connection_init"},
		},
		"initialisation is refused": {
			[]string{
				`{"type":"connection_init","payload":{"token":"bad"}}`,
			},
			[]string{"4403 The token is not valid."},
		},
		"initialisation cannot be looked at": {[]string{
			`{"type":"connection_init","payload":{"token":"later"}}`,
		}, []string{"1013 Try again."}},
		"a second initialisation": {
			[]string{init, init},
			[]string{ack, "4429 Too many initialisation requests"},
		},
		"a second before the first is acknowledged": {
			[]string{`{"type":"connection_init","payload":{"token":"slow"}}`, init},
			[]string{"4429 Too many"},
		},
		"subscribe before initialisation": {
			[]string{subscribe("1", "{ name }")},
			[]string{"4401 Unauthorized"},
		},
		"subscribe before acknowledgement": {
			[]string{
				`{"type":"connection_init","payload":{"token":"slow"}}`,
				subscribe("1", "{ name }"),
			}, []string{"4401 Unauthorized"},
		},

		"not JSON": {[]string{"hello"}, []string{"4400 not valid JSON"}},
		"nothing":  {[]string{""}, []string{"4400 not valid JSON"}},
		"a list":   {[]string{`[{"type":"ping"}]`}, []string{"4400 one JSON object"}},
		"null":     {[]string{`null`}, []string{"4400 one JSON object"}},
		"two at once": {
			[]string{`{"type":"ping"}{"type":"ping"}`},
			[]string{"4400 not valid JSON"},
		},
		"no type": {[]string{`{"id":"1"}`}, []string{"4400 no type"}},
		"an unknown type": {
			[]string{`{"type":"start","id":"1"}`},
			[]string{"4400 no message of this type"},
		},
		"a type in other case": {
			[]string{`{"type":"Ping"}`},
			[]string{"4400 no message of this type"},
		},
		"a field in other case": {[]string{`{"Type":"ping"}`}, []string{"4400 no type"}},
		"a number for a type":   {[]string{`{"type":1}`}, []string{"4400 no type"}},
		"a server's ack": {
			[]string{`{"type":"connection_ack"}`},
			[]string{"4400 does not send connection_ack"},
		},
		"a server's next": {
			[]string{`{"type":"next","id":"1","payload":{}}`},
			[]string{"4400 does not send next"},
		},
		"a server's error": {
			[]string{`{"type":"error","id":"1","payload":[]}`},
			[]string{"4400 does not send error"},
		},

		"subscribe without an id": {[]string{
			init,
			`{"type":"subscribe","payload":{"query":"{ name }"}}`,
		}, []string{
			ack,
			"4400 needs an id",
		}},
		"subscribe with an empty id": {
			[]string{init, subscribe("", "{ name }")},
			[]string{ack, "4400 needs an id"},
		},
		"subscribe with a number for id": {[]string{
			init,
			`{"id":1,"type":"subscribe","payload":{"query":"{ name }"}}`,
		}, []string{
			ack,
			"4400 needs an id",
		}},
		"subscribe with a long id": {
			[]string{init, subscribe(long, "{ name }")},
			[]string{ack, "4400 at most 256 bytes"},
		},
		"subscribe without a payload": {
			[]string{init, `{"id":"1","type":"subscribe"}`},
			[]string{ack, "4400 payload of subscribe"},
		},
		"subscribe with a text": {[]string{
			init,
			`{"id":"1","type":"subscribe","payload":"{ name }"}`,
		}, []string{
			ack,
			"4400 payload of subscribe",
		}},
		"subscribe without a query": {[]string{
			init,
			`{"id":"1","type":"subscribe","payload":{}}`,
		}, []string{ack, "4400 no query"}},
		"subscribe with a list for query": {[]string{
			init,
			`{"id":"1","type":"subscribe","payload":{"query":[]}}`,
		}, []string{ack, `4400 "query"`}},
		"subscribe with a text for variables": {
			[]string{
				init,
				`{"id":"1","type":"subscribe","payload":{"query":"{ name }","variables":"x"}}`,
			},
			[]string{ack, `4400 "variables"`},
		},
		"subscribe with a number for operationName": {
			[]string{
				init,
				`{"id":"1","type":"subscribe","payload":{"query":"{ name }","operationName":1}}`,
			},
			[]string{ack, `4400 "operationName"`},
		},
		"subscribe with a list for extensions": {
			[]string{
				init,
				`{"id":"1","type":"subscribe","payload":{"query":"{ name }","extensions":[]}}`,
			},
			[]string{ack, `4400 "extensions"`},
		},
		"subscribe with nulls": {
			[]string{
				init,
				`{"id":"1","type":"subscribe","payload":{"query":"{ name }","operationName":null,"variables":null,"extensions":null}}`,
			},
			[]string{
				ack, `{"id":"1","type":"next","payload":{"data":{"name":"parley"}}}`,
				complete("1"),
			},
		},
		"complete without an id": {
			[]string{init, `{"type":"complete"}`},
			[]string{ack, "4400 needs an id"},
		},
		"complete of nothing": {
			[]string{init, `{"type":"complete","id":"9"}`, `{"type":"ping"}`},
			[]string{ack, `{"type":"pong"}`},
		},

		"ping": {[]string{`{"type":"ping"}`}, []string{`{"type":"pong"}`}},
		"ping with a payload": {
			[]string{init, `{"type":"ping","payload":{"at": 5}}`},
			[]string{ack, `{"type":"pong","payload":{"at": 5}}`},
		},
		"ping with a text": {
			[]string{init, `{"type":"ping","payload":"x"}`},
			[]string{ack, "4400 payload of ping"},
		},
		"pong without a ping": {[]string{
			init, `{"type":"pong","payload":{"a":1}}`,
			`{"type":"ping"}`,
		}, []string{ack, `{"type":"pong"}`}},
		"pong with a number": {
			[]string{init, `{"type":"pong","payload":1}`},
			[]string{ack, "4400 payload of pong"},
		},

		"a query": {
			[]string{init, subscribe("q", "{ name }")},
			[]string{
				ack, `{"id":"q","type":"next","payload":{"data":{"name":"parley"}}}`,
				complete("q"),
			},
		},
		"a mutation": {
			[]string{init, subscribe("m", "mutation { rename }")},
			[]string{
				ack, `{"id":"m","type":"next","payload":{"data":{"rename":"parley"}}}`,
				complete("m"),
			},
		},
		"a field that fails": {
			[]string{init, subscribe("q", "{ broken }")},
			[]string{
				ack,
				`{"id":"q","type":"next","payload":{"errors":[{"message":"There is none.","extensions":{"code":"NOT_FOUND"}}],"data":{"broken":null}}}`, complete("q"),
			},
		},
		"a subscription": {
			[]string{init, subscribe("s", "subscription { ticks(to: 2) }")},
			[]string{ack, tick("s", 1), tick("s", 2), complete("s")},
		},
		"an id that needs escapes": {
			[]string{init, subscribe("\"\\\n…", "subscription { ticks(to: 1) }")},
			[]string{ack, tick("\"\\\n…", 1), complete("\"\\\n…")},
		},
		"an id in use": {
			[]string{init, subscribe("s", "subscription { silence }"), subscribe("s", "{ name }")},
			[]string{ack, "4409 Subscriber for s already exists"},
		},
		"an id again after the server's complete": {
			[]string{
				init, subscribe("s", "subscription { ticks(to: 1) }"), "wait", "wait",
				subscribe("s", "subscription { ticks(to: 1) }"),
			},
			[]string{ack, tick("s", 1), complete("s"), tick("s", 1), complete("s")},
		},
		"an id again after the client's complete": {
			[]string{
				init, subscribe("s", "subscription { silence }"), complete("s"),
				subscribe("s", "subscription { ticks(to: 1) }"),
			},
			[]string{ack, tick("s", 1), complete("s")},
		},
		"an id again after an error": {
			[]string{init, subscribe("s", "{ nonsense }"), "wait", subscribe("s", "{ name }")},
			[]string{
				ack, "error s",
				`{"id":"s","type":"next","payload":{"data":{"name":"parley"}}}`, complete("s"),
			},
		},
		"an error is the last message": {
			[]string{
				init, subscribe("s", "subscription { fails }"), "wait", "wait",
				`{"type":"ping"}`,
			},
			[]string{
				ack, `{"id":"s","type":"next","payload":{"data":{"fails":1}}}`,
				failed("s", "FORBIDDEN", "No more."), `{"type":"pong"}`,
			},
		},
		"a subscription that is refused": {
			[]string{init, subscribe("s", "subscription { refused }"), "wait", `{"type":"ping"}`},
			[]string{ack, failed("s", "NOT_FOUND", "There is none."), `{"type":"pong"}`},
		},
		"a document that does not parse": {[]string{
			init, subscribe("s", "{"), "wait",
			`{"type":"ping"}`,
		}, []string{ack, "error s", `{"type":"pong"}`}},
		"a document that does not validate": {[]string{
			init, subscribe("s", "{ x }"), "wait",
			`{"type":"ping"}`,
		}, []string{ack, "error s", `{"type":"pong"}`}},
		"a panic": {
			[]string{init, subscribe("s", "subscription { panics }"), "wait", `{"type":"ping"}`},
			[]string{
				ack, failed("s", "INTERNAL_SERVER_ERROR", "Something went wrong."),
				`{"type":"pong"}`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, conn := c, mustServe(t).dial()
			got := 0
			expect := func() {
				t.Helper()
				want := c.want[got]
				got++
				if want[0] >= '1' && want[0] <= '9' {
					code, reason := conn.closed()
					if number, part, _ := strings.Cut(want, " "); number != itoa(code) ||
						!strings.Contains(reason, part) {
						t.Errorf("closed with %d %q, want %s", code, reason, want)
					}
					return
				}
				if id, ok := strings.CutPrefix(want, "error "); ok {
					_, payload, err := conn.read()
					if err != nil || !strings.HasPrefix(string(payload),
						`{"id":"`+id+`","type":"error","payload":[{"message":`) {
						t.Errorf("got %s %v, want an error of %s", payload, err, id)
					}
					return
				}
				conn.want(want)
			}
			for _, text := range c.send {
				if text == "wait" {
					expect()
					continue
				}
				conn.send(text)
				if got < len(c.want) && c.want[got] == ack && text == init {
					expect()
				}
			}
			for got < len(c.want) {
				expect()
			}
		})
	}
}

func itoa(n int) string { return string(mustMarshal(n)) }

func TestHandshake(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	for name, c := range map[string]struct {
		header string
		status int
		says   string
	}{
		"all right":          {"X: y", 101, ""},
		"the protocol alone": {"Sec-WebSocket-Protocol: graphql-transport-ws", 101, ""},
		"the old protocol": {
			"Sec-WebSocket-Protocol: graphql-ws", 400,
			"offer the subprotocol graphql-transport-ws",
		},
		"no protocol": {
			"Sec-WebSocket-Protocol:", 400,
			"offer the subprotocol graphql-transport-ws",
		},
		"the protocol in other case": {
			"Sec-WebSocket-Protocol: GraphQL-Transport-WS", 400,
			"offer the subprotocol",
		},
		"another version": {"Sec-WebSocket-Version: 8", 400, "has to be 13"},
		"no key":          {"Sec-WebSocket-Key:", 400, "is missing"},
		"a short key":     {"Sec-WebSocket-Key: AAAA", 400, "16 bytes"},
		"no connection":   {"Connection: keep-alive", 400, "Connection: Upgrade"},
	} {
		_, res := f.tryDial(c.header)
		if res.StatusCode != c.status {
			t.Errorf("%s: %s", name, res.Status)
		}
		if c.status == http.StatusSwitchingProtocols {
			// RFC 6455, section 1.3
			if got := res.Header.Get(
				"Sec-WebSocket-Accept"); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Errorf("%s: accepted with %q", name, got)
			}
			if got := res.Header.Get("Sec-WebSocket-Protocol"); got != Subprotocol ||
				res.Header.Get("Sec-WebSocket-Extensions") != "" {
				t.Errorf("%s: %v", name, res.Header)
			}
			continue
		}
		body := make([]byte, 1000)
		n, _ := res.Body.Read(body)
		if text := string(body[:n]); !strings.Contains(text, c.says) ||
			!strings.Contains(text, `"code":"BAD_USER_INPUT"`) {
			t.Errorf("%s: %s", name, text)
		}
		_ = res.Body.Close()
	}
}

func TestHandshakeWithPost(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	status, body := f.request(http.MethodPost, "", `{"query":"{ name }"}`, http.Header{
		"Content-Type": {"application/json"}, "Upgrade": {"websocket"}, "Connection": {"Upgrade"},
	})
	if status != 400 || !strings.Contains(body, "begins with a GET") {
		t.Errorf("%d %s", status, body)
	}
}

// Messages that a client sends directly after its handshake are not lost.
func TestMessagesDirectlyAfterTheHandshake(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	var early strings.Builder
	early.Write(frameOf(finBit|opText, `{"type":"connection_init"}`))
	c, res := f.tryDial("Sec-WebSocket-Protocol: " + Subprotocol + "\r\n\r\n" + early.String())
	if res.StatusCode != 101 {
		t.Fatal(res.Status)
	}
	c.want(`{"type":"connection_ack"}`)
}

func TestNoInitialisation(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.InitTimeout = 50 * time.Millisecond })
	slow, silent := f.dial(), f.dial()
	// Neither parts of a message nor a ping extend the time.
	slow.raw(frameOf(finBit|opPing, "x"))
	slow.raw(frameOf(finBit|opText, `{"type":"connection_init"}`)[:10])
	if code, reason := silent.closed(); code != CloseInitTimeout || reason == "" {
		t.Errorf("closed with %d %q", code, reason)
	}
	if opcode, _, err := slow.read(); err != nil || opcode != opPong {
		t.Errorf("got %d %v, want the answer to the ping", opcode, err)
	}
	if code, _ := slow.closed(); code != CloseInitTimeout {
		t.Errorf("closed with %d", code)
	}
}

// After a client's complete, nothing is sent for that id, even if the subscription has more
// results.
func TestNothingAfterComplete(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	c := f.open()
	c.send(subscribe("s", "subscription { delegated }"))
	op := <-f.delegated
	if !op.Next([]byte(`{"data":{"delegated":1}}`)) {
		t.Fatal("not queued")
	}
	c.want(`{"id":"s","type":"next","payload":{"data":{"delegated":1}}}`)
	c.send(complete("s"))
	c.send(`{"type":"ping"}`)
	c.want(`{"type":"pong"}`)
	op.Complete()
	op.Fail(nil)
	if op.Next([]byte(`{}`)) || op.Put(t.Context(), []byte(`{}`)) == nil {
		t.Error("the operation is over, and goes on")
	}
	c.send(subscribe("s", "subscription { delegated }")) // the id is another operation's now
	again := <-f.delegated
	op.Next([]byte(`{}`))
	again.Complete()
	c.want(complete("s"))
}

func TestEndOfOnConnect(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	c := f.open()
	c.send(subscribe("s", "subscription { silence }"))
	f.endOf(0)(errs.New(errs.Unauthenticated, "The session has ended."))
	if code, reason := c.closed(); code != CloseForbidden || reason != "The session has ended." {
		t.Errorf("closed with %d %q", code, reason)
	}
	eventually(t, "release is called", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.release == 1
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.DrainSpread = 20 * time.Millisecond })
	clients := make([]*client, 20)
	for i := range clients {
		clients[i] = f.open()
		clients[i].send(subscribe("s", "subscription { silence }"))
	}
	f.server.Drain(t.Context())
	for _, c := range clients {
		if code, reason := c.closed(); code != CloseServiceRestart || reason == "" {
			t.Errorf("closed with %d %q", code, reason)
		}
	}
	if _, res := f.tryDial(); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a stopping server accepted a socket: %s", res.Status)
	}
	f.server.Drain(context.Background()) // a second time has nothing to do
}

// Operations that have started when the server stops are answered, and no more of them start.
func TestDrainLetsAnswersFinish(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	busy, idle := f.dial(), f.open()
	busy.send(`{"type":"connection_init","payload":{"token":"waits"}}`)
	busy.want(`{"type":"connection_ack"}`)
	busy.send(subscribe("live", "subscription { delegated }"))
	live := <-f.delegated
	busy.send(subscribe("1", "mutation { rename(to: \"x\") }"))
	<-f.executing
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		f.server.Drain(t.Context())
	}()
	if code, _ := idle.closed(); code != CloseServiceRestart {
		t.Errorf("an idle socket is closed with %d", code)
	}
	eventually(t, "the other one is closing", func() bool {
		live.box.mu.Lock()
		defer live.box.mu.Unlock()
		return live.box.closing
	})
	busy.send(subscribe("2", "{ name }"))
	busy.send(subscribe("3", "subscription { ticks(to: 3) }"))
	busy.send(`{"type":"ping"}`)
	busy.want(`{"type":"pong"}`) // so both were read, and have not started
	live.Next([]byte("{}"))
	busy.want(`{"id":"live","type":"next","payload":{}}`)
	close(f.goOn)
	busy.want(`{"id":"1","type":"next","payload":{"data":{"rename":"parley"}}}`)
	busy.want(complete("1"))
	if code, _ := busy.closed(); code != CloseServiceRestart {
		t.Errorf("closed with %d", code)
	}
	<-drained
}

// An answer that takes longer than the context of Drain is cut off.
func TestDrainHasAnEnd(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	c := f.dial()
	c.send(`{"type":"connection_init","payload":{"token":"waits"}}`)
	c.want(`{"type":"connection_ack"}`)
	c.send(subscribe("1", "{ name }"))
	<-f.executing
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		f.server.Drain(ctx)
	}()
	eventually(t, "new sockets are refused", func() bool {
		_, res := f.tryDial()
		return res.StatusCode == http.StatusServiceUnavailable
	})
	cancel()
	if code, _ := c.closed(); code != CloseServiceRestart {
		t.Errorf("closed with %d", code)
	}
	<-drained
}

// Operations that the executor does not run count too.
func TestTooManyOperationsThatAreDelegated(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.MaxOperations = 2 })
	c := f.open()
	for _, id := range []string{"1", "2"} {
		c.send(subscribe(id, "subscription { delegated }"))
		<-f.delegated
	}
	c.send(subscribe("3", "{ name }"))
	c.want(failed("3", "RATE_LIMITED", "At most 2 operations run on one connection at once."))
}

// A panic in Options.Init ends one socket, and not the process.
func TestPanicInInitialisation(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	c := f.dial()
	c.send(`{"type":"connection_init","payload":{"token":"panic"}}`)
	if code, reason := c.closed(); code != CloseTryAgain || reason == "" {
		t.Errorf("closed with %d %q", code, reason)
	}
	f.open()
}

func TestTooManyOperations(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.MaxOperations = 2 })
	c := f.open()
	c.send(subscribe("1", "subscription { silence }"))
	c.send(subscribe("2", "subscription { silence }"))
	c.send(subscribe("3", "{ name }"))
	c.want(failed("3", "RATE_LIMITED", "At most 2 operations run on one connection at once."))
	c.send(complete("1"))
	for { // once the first has noticed that it is over
		c.send(subscribe("4", "{ name }"))
		_, payload, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(payload), "RATE_LIMITED") {
			c.want(complete("4"))
			return
		}
	}
}
