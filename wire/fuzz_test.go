package wire

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzSocket checks that no bytes on a WebSocket, in any pieces, cause a panic, that the socket
// ends, and that the server sends messages, and a close frame last.
func FuzzSocket(f *testing.F) {
	const init = `{"type":"connection_init","payload":{}}`
	text := func(s string) []byte { return frameOf(finBit|opText, s) }
	f.Add(slices.Concat(text(init), text(subscribe("1", "{ name }")), text(complete("1"))),
		uint8(0), false)
	f.Add(slices.Concat(text(init), text(subscribe("1", "subscription { ticks(to: 3) }")),
		frameOf(finBit|opClose, "\x03\xe8bye")), uint8(7), false)
	f.Add(slices.Concat(frameOf(opText, init[:5]), frameOf(finBit|opPing, "x"),
		frameOf(finBit|opContinuation, init[5:])), uint8(1), false)
	f.Add(frameOf(finBit|compressedBit|opText,
		"\xaaV*\xa9,HU\xb2RJ\xce\xcf\xcbKM.\xc9\xcc\xcf\x8b\xcf\xcc\xcb,Q\xaa\x05\x00"), uint8(3),
		true)
	f.Add(text(`{"type":"connection_init","payload":{"token":"bad","a":1e999,"b":"\ud800"}}`),
		uint8(0), true)
	f.Fuzz(func(t *testing.T, b []byte, chunk uint8, deflates bool) {
		const soon = 2 * time.Millisecond
		fx := mustServeInMemory(t, func(o *Options) {
			o.MaxMessage, o.Compression = 4<<10, true
			o.InitTimeout, o.MessageTimeout, o.PingInterval, o.Linger = soon, soon, soon, soon
		})
		offer := "X: x"
		if deflates {
			offer = "Sec-WebSocket-Extensions: permessage-deflate"
		}
		c := fx.dial(offer)
		go func() {
			for part := range slices.Chunk(b, 1+int(chunk)) {
				if _, err := c.conn.Write(part); err != nil {
					return
				}
			}
			_, _ = c.conn.Write(frameOf(finBit|opClose, ""))
		}()
		over := false
		for {
			opcode, payload, err := c.read() // which knows what a frame of a server looks like
			if err != nil {
				break
			}
			var m struct{ Type string }
			switch {
			case over:
				t.Fatalf("%q: after the close frame came %d %q", b, opcode, payload)
			case opcode == opClose:
				over = true
			case opcode == opText && json.Unmarshal(payload, &m) == nil && m.Type != "":
			case (opcode == opPing || opcode == opPong) && len(payload) <= maxControl:
			default:
				t.Fatalf("%q: got %d %q", b, opcode, payload)
			}
		}
		eventually(t, "the socket has ended", func() bool { return fx.connections() == 0 })
	})
}

// FuzzRequests checks that the answer to any request over HTTP has a documented status, and is
// GraphQL.
func FuzzRequests(f *testing.F) {
	f.Add("POST", "", "application/json", "application/graphql-response+json",
		`{"query":"{ name }"}`, "")
	f.Add("GET", "query={name}&variables=%20&extensions={}", "", "text/event-stream;q=0.5, */*;q=0",
		"", "")
	f.Add("GET", "query=subscription{ticks(to:2)}", "", "text/event-stream", "", "")
	f.Add("PUT", "", "", "", "", "")
	f.Add("POST", "token=x", "application/json; charset=utf-8", "text/event-stream",
		`{"query":"{ name }","extensions":{"operationId":"1"}}`, "")
	f.Add("DELETE", "operationId=1", "", "", "", "x")
	f.Add("GET", "documentId=sha256:x", "", "", "", "")
	f.Fuzz(func(t *testing.T, method, query, contentType, accept, body, token string) {
		fx := newFixture(t, func(o *Options) {
			o.MaxMessage, o.ReservationLasts = 4<<10,
				time.Millisecond
		})
		// This ends streams.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, "/", strings.NewReader(body))
		if err != nil {
			t.Skip()
		}
		r.URL.RawQuery = query
		r.Header = http.Header{
			"Content-Type": {contentType}, "Accept": {accept},
			streamHeader: {token},
		}
		if accept == "" {
			r.Header.Del("Accept")
		}
		answer := httptest.NewRecorder()
		fx.server.ServeHTTP(answer, r)
		if answer.Code == http.StatusInternalServerError && ctx.Err() != nil {
			return // cancelled before it started
		}
		if !slices.Contains([]int{
			200, 201, 202, 400, 403, 404, 405, 406, 408, 409, 413, 415, 429,
			503,
		}, answer.Code) {
			t.Fatalf("got %d %s", answer.Code, answer.Body)
		}
		switch media, _, _ := strings.Cut(answer.Header().Get("Content-Type"), ";"); {
		case media == eventStream:
			for line := range strings.Lines(answer.Body.String()) {
				if !slices.ContainsFunc([]string{
					":", "\n", "event: next\n", "event: complete\n",
					"data:",
				}, func(s string) bool { return strings.HasPrefix(line, s) }) {
					t.Fatalf("got the line %q", line)
				}
			}
		case media == "text/plain" && answer.Code == http.StatusCreated,
			answer.Code == http.StatusOK && method == http.MethodDelete:
		default:
			var response map[string]json.RawMessage
			if err := json.Unmarshal(answer.Body.Bytes(), &response); err != nil ||
				response["data"] == nil && response["errors"] == nil {
				t.Fatalf("got %d %s %q", answer.Code, media, answer.Body)
			}
		}
	})
}

// FuzzParams checks that an operation means the same in the body of a POST and in the URL of a GET.
func FuzzParams(f *testing.F) {
	f.Add(
		[]byte(
			`{"query":"{ name }","operationName":"a","variables":{"a":1.50,"b":[null]},"extensions":{"persistedQuery":{"version":1}}}`))
	f.Add([]byte(`{"documentId":"sha256:x","variables":null,"extensions":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseParams(b)
		if err != nil {
			return
		}
		values := url.Values{
			"query": {p.Query}, "operationName": {p.OperationName},
			"documentId": {p.documentID},
		}
		for name, object := range map[string]map[string]any{
			"variables":  p.Variables,
			"extensions": p.Extensions,
		} {
			if object != nil {
				values.Set(name, string(mustMarshal(object)))
			}
		}
		got, problem := readQuery(values)
		if problem != nil {
			t.Fatalf("%s as a GET: %v", b, problem.err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Fatalf("%s as a POST is %+v, as a GET %+v", b, p, got)
		}
	})
}

// FuzzAccept checks that neither the lines nor the case of an Accept header matter.
func FuzzAccept(f *testing.F) {
	f.Add("text/event-stream", "application/json;q=0.5")
	f.Add("*/*;q=NaN", "application/graphql-response+json; charset=utf-8;q=1e-9")
	f.Fuzz(func(t *testing.T, a, b string) {
		media := negotiate(http.Header{"Accept": {a + "," + b}})
		if !slices.Contains([]string{"", graphqlJSON, legacyJSON, eventStream}, media) {
			t.Fatalf("chose %q", media)
		}
		if again := negotiate(http.Header{"Accept": {a, b}}); again != media {
			t.Fatalf("%q and %q: %q, in one line %q", a, b, again, media)
		}
	})
}

// FuzzInit checks that all connection parameters reach Options.Init unchanged, or close the socket.
func FuzzInit(f *testing.F) {
	f.Add([]byte(`{"Authorization":"Bearer x","a":{"b":[1,2.5,1e999]}}`))
	f.Add([]byte(`{"a":1,"a":2,"":null}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := parseMessage(slices.Concat([]byte(`{"type":"connection_init","payload":`),
			payload, []byte("}")))
		if err != nil || m.payload == nil {
			return
		}
		want, err := parseObject(m.payload)
		if err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		got := make(chan map[string]any, 1)
		fx := newFixture(t, func(o *Options) {
			o.Init = func(_ context.Context, params map[string]any) (context.Context, error) {
				got <- params
				return nil, errors.New("enough")
			}
		})
		s := &socket{server: fx.server, cancel: func() {}}
		s.bounds, s.transport, s.writing = &fx.server.bounds, s, true
		s.init(t.Context(), m.payload)
		if names := slices.Sorted(maps.Keys(<-got)); !slices.Equal(names,
			slices.Sorted(maps.Keys(want))) {
			t.Fatalf("%s: got %q", payload, names)
		}
	})
}

// FuzzInflate checks that compressed bytes come out unchanged, and that others cause an error.
func FuzzInflate(f *testing.F) {
	f.Add([]byte("hello"))
	f.Add([]byte("\xf2\x48\xcd\xc9\xc9\x07\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1000
		if out, err := inflate(b, limit); err == nil && len(out) > limit {
			t.Fatalf("%x became %d bytes", b, len(out))
		}
		out, err := inflate([]byte(compress(t, string(b))), len(b))
		if err != nil || string(out) != string(b) {
			t.Fatalf("%x became %x, %v", b, out, err)
		}
	})
}
