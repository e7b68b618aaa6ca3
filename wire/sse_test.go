package wire

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/errs"
)

// events is a stream on the side of the client.
type events struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// stream opens a stream. Its request is cancelled when the test ends.
func (f *fixture) stream(method, query, body string, header http.Header) *events {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	req, err := http.NewRequestWithContext(ctx, method, f.url+query, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header = http.Header{"Accept": {eventStream}, "Content-Type": {legacyJSON}}
	maps.Copy(req.Header, header)
	transport := new(http.Transport)
	res, err := transport.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		cancel()
		_ = res.Body.Close()
		transport.CloseIdleConnections()
	})
	if got := res.Header.Get("Content-Type"); got != eventStream || res.StatusCode != 200 ||
		res.Header.Get("Cache-Control") != "no-store" {
		f.t.Fatalf("%d %s", res.StatusCode, res.Header)
	}
	return &events{f.t, bufio.NewScanner(res.Body), cancel}
}

// line returns the next line that is not empty; "end" at the end of the stream.
func (e *events) line() string {
	for e.lines.Scan() {
		if text := e.lines.Text(); text != "" {
			return text
		}
	}
	return "end"
}

func (e *events) want(lines ...string) {
	e.t.Helper()
	for _, want := range lines {
		got := e.line()
		for got == ":" {
			got = e.line()
		}
		if got != want {
			e.t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func query(text string) string { return string(mustMarshal(map[string]string{"query": text})) }

// TestDistinctConnections is graphql-sse's mode of one stream for one operation.
func TestDistinctConnections(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	for text, want := range map[string][]string{
		"subscription { ticks(to: 2) }": {
			"event: next", `data: {"data":{"ticks":1}}`, "event: next",
			`data: {"data":{"ticks":2}}`, "event: complete", "data:", "end",
		},
		"{ name }": {
			"event: next", `data: {"data":{"name":"parley"}}`,
			"event: complete", "data:", "end",
		},
		"subscription { refused }": {
			"event: next",
			`data: {"errors":[{"message":"There is none.","extensions":{"code":"NOT_FOUND"}}]}`,
			"event: complete", "data:", "end",
		},
		"subscription { fails }": {
			"event: next", `data: {"data":{"fails":1}}`,
			"event: next",
			`data: {"errors":[{"message":"No more.","extensions":{"code":"FORBIDDEN"}}]}`,
			"event: complete", "data:", "end",
		},
		"subscription { panics }": {
			"event: next",
			`data: {"errors":[{"message":"Something went wrong.","extensions":{"code":"INTERNAL_SERVER_ERROR"}}]}`,
			"event: complete", "data:", "end",
		},
	} {
		f.stream(http.MethodPost, "", query(text), nil).want(want...)
	}
	f.stream(http.MethodGet, "?query=%7Bname%7D", "", nil).
		want("event: next", `data: {"data":{"name":"parley"}}`, "event: complete", "data:", "end")
	if status, body := f.request(http.MethodPost, "", "{}",
		http.Header{"Accept": {eventStream}, "Content-Type": {legacyJSON}}); status != 400 {
		t.Errorf("%d %s", status, body)
	}
	f.stream(http.MethodGet, "?operationName=unprepared&query=query+unprepared%7Bname%7D", "", nil).
		want("event: next",
			`data: {"errors":[{"message":"Something went wrong.","extensions":{"code":"INTERNAL_SERVER_ERROR"}}]}`, "event: complete", "data:", "end")
	// The errors of an invalid document are a result, as with POST.
	f.stream(http.MethodGet, "?query=%7B", "", nil).want("event: next")
	const rename, both = "mutation { rename(to: \"x\") }",
		"query A { name } mutation B { rename(to: \"x\") }"
	persisted := string(mustMarshal(
		map[string]any{"persistedQuery": map[string]any{"version": 1, "sha256Hash": Hash(rename)}}))
	f.stream(http.MethodPost, "", `{"query":`+string(mustMarshal(rename))+`,"extensions":`+
		persisted+`}`, nil).want("event: next", `data: {"data":{"rename":"parley"}}`)
	f.stream(http.MethodGet, "?operationName=A&query="+url.QueryEscape(both), "", nil).
		want("event: next", `data: {"data":{"name":"parley"}}`)
	for what, query := range map[string]string{
		"a mutation with GET": "query=" + url.QueryEscape(rename),
		"one of several":      "operationName=B&query=" + url.QueryEscape(both),
		"one by its hash":     "extensions=" + url.QueryEscape(persisted),
		"one by its id":       "documentId=" + Hash(rename),
	} {
		res := f.do(http.MethodGet, "?"+query, "", http.Header{"Accept": {eventStream}})
		_ = res.Body.Close()
		if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "POST" {
			t.Errorf("%s: %s, allowed %q", what, res.Status, res.Header.Get("Allow"))
		}
	}
}

// An operation ends when its client disconnects, with an error when its session ends, and without a
// complete when the server stops.
func TestEndsOfStreams(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	open := func() (*events, *Operation) {
		e := f.stream(http.MethodPost, "", query("subscription { delegated }"), nil)
		op := <-f.delegated
		op.Next([]byte(`1`))
		e.want("event: next", "data: 1")
		return e, op
	}
	left, op := open()
	left.cancel()
	eventually(t, "the operation has ended", func() bool { return !op.Next([]byte(`2`)) })

	ended, op := open()
	f.endOf(1)(errs.New(errs.Unauthenticated, "The session has ended."))
	ended.want("event: next",
		`data: {"errors":[{"message":"The session has ended.","extensions":{"code":"UNAUTHENTICATED"}}]}`,
		"event: complete", "data:", "end")
	if op.Next([]byte(`2`)) {
		t.Error("the operation goes on")
	}

	cut, _ := open()
	f.server.Drain(t.Context())
	cut.want("end")
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.Heartbeat = 10 * time.Millisecond })
	e := f.stream(http.MethodPost, "", query("subscription { silence }"), nil)
	for range 5 {
		if got := e.line(); got != ":" {
			t.Fatalf("got %s", got)
		}
	}
}

// TestSingleConnection is graphql-sse's mode of one stream for all operations.
func TestSingleConnection(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.MaxOperations = 3 })
	status, token := f.request(http.MethodPut, "", "", nil)
	if status != http.StatusCreated || len(token) < 26 {
		t.Fatalf("%d %s", status, token)
	}
	with := http.Header{streamHeader: {token}, "Content-Type": {legacyJSON}}
	start := func(id, text string) (int, string) {
		return f.request(http.MethodPost, "", string(mustMarshal(map[string]any{
			"query": text, "extensions": map[string]any{"operationId": id},
		})), with)
	}
	if status, _ := start("1", "{ name }"); status != http.StatusNotFound {
		t.Errorf("before the stream is there: %d", status)
	}
	e := f.stream(http.MethodGet, "?token="+token, "", nil)
	e.lines.Scan() // a comment: the stream has started
	for name, c := range map[string]struct {
		method, query, body string
		header              http.Header
		status              int
	}{
		"a second stream": {
			http.MethodGet, "?token=" + token, "",
			http.Header{"Accept": {eventStream}},
			409,
		},
		"a stream as JSON": {http.MethodGet, "?token=" + token, "", nil, 406},
		"an unknown token": {
			http.MethodGet, "?token=x", "",
			http.Header{"Accept": {eventStream}},
			404,
		},
		"an operation of it": {
			http.MethodPost, "?token=x", query("{ name }"),
			http.Header{"Content-Type": {legacyJSON}},
			404,
		},
		"no operation id": {http.MethodPost, "", query("{ name }"), with, 400},
		"another account": {
			http.MethodPost, "", query("{ name }"),
			http.Header{
				streamHeader: {token}, "Content-Type": {legacyJSON},
				"Other-Account": {"x"},
			},
			403,
		},
		"ending by another account": {
			http.MethodDelete, "?operationId=1", "",
			http.Header{streamHeader: {token}, "Other-Account": {"x"}},
			403,
		},
		"ending without id":    {http.MethodDelete, "", "", with, 400},
		"ending an unknown id": {http.MethodDelete, "?operationId=9", "", with, 200},
		"ending without any":   {http.MethodDelete, "?operationId=9", "", nil, 404},
	} {
		if status, body := f.request(c.method, c.query, c.body, c.header); status != c.status {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}

	if status, body := start("a", "subscription { ticks(to: 1) }"); status != http.StatusAccepted ||
		body != "" {
		t.Fatalf("%d %s", status, body)
	}
	e.want("event: next", `data: {"id":"a","payload":{"data":{"ticks":1}}}`, "event: complete",
		`data: {"id":"a"}`)
	start("a", "{ nonsense }") // the id is free again
	if e.want("event: next"); !strings.HasPrefix(e.line(),
		`data: {"id":"a","payload":{"errors":[`) {
		t.Error("no errors")
	}
	e.want("event: complete", `data: {"id":"a"}`)

	start("s", "subscription { delegated }")
	op := <-f.delegated
	if status, _ := start("s", "{ name }"); status != http.StatusConflict {
		t.Errorf("an id in use: %d", status)
	}
	op.Next([]byte(`1`))
	e.want("event: next", `data: {"id":"s","payload":1}`)
	if status, _ := f.request(http.MethodDelete, "?operationId=s", "",
		with); status != http.StatusOK {
		t.Errorf("ending: %d", status)
	}
	if op.Next([]byte(`2`)) {
		t.Error("the operation goes on")
	}
	for i := range 3 {
		start(fmt.Sprint(i), "subscription { silence }")
	}
	if status, body := start("one more", "{ name }"); status != http.StatusTooManyRequests ||
		!strings.Contains(body, "RATE_LIMITED") {
		t.Errorf("%d %s", status, body)
	}
	f.endOf(0)(errs.New(errs.Unauthenticated, "The session has ended."))
	ends := 0
	for text := e.line(); text != "end"; text = e.line() {
		if strings.HasPrefix(text, "event: complete") {
			ends++
		}
	}
	if ends != 3 {
		t.Errorf("%d operations have ended", ends)
	}
	eventually(t, "the token is void", func() bool {
		status, _ := start("late", "{ name }")
		return status == http.StatusNotFound
	})
}

// Exactly the accepted operations run, even if the stream ends at the same moment. Each try ends
// the stream at another moment.
func TestAcceptedOperationsRun(t *testing.T) {
	t.Parallel()
	var begins chan struct{}
	f := newFixture(t, func(o *Options) {
		o.SameCaller = func(context.Context, context.Context) bool {
			close(begins)
			return true
		}
	})
	const body = `{"query":"subscription { delegated }","extensions":{"operationId":"1"}}`
	for try := range 2000 {
		begins = make(chan struct{})
		st := f.server.newStream(t.Context(), httptest.NewRecorder(), true)
		f.server.streams.open["token"] = st
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/?token=token",
			strings.NewReader(body))
		r.Header.Set("Content-Type", legacyJSON)
		answer := httptest.NewRecorder()
		var ending sync.WaitGroup
		ending.Go(func() {
			<-begins
			for range try % 100 {
				st.hasEnded()
			}
			st.cut()
		})
		f.server.ServeHTTP(answer, r)
		ending.Wait()
		st.running.Wait()
		want := http.StatusNotFound
		select {
		case <-f.delegated:
			want = http.StatusAccepted
		default:
		}
		if answer.Code != want {
			t.Fatalf("try %d: %d, want %d", try, answer.Code, want)
		}
	}
}

// Reserving a stream takes no memory, so that clients cannot exhaust it. Only tokens of this server
// are accepted.
func TestForeignTokensAreRefused(t *testing.T) {
	t.Parallel()
	f, other := mustServe(t), mustServe(t)
	_, token := f.request(http.MethodPut, "", "", nil)
	_, ofOther := other.request(http.MethodPut, "", "", nil)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) != tokenBytes {
		t.Fatalf("%q: %v", token, err)
	}
	changed := func(at int) string {
		b := slices.Clone(raw)
		b[at] ^= 1
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for name, text := range map[string]string{
		"another server's": ofOther, "another time": changed(tokenTime - 1),
		"another name":      changed(tokenTime),
		"another signature": changed(tokenSigned), "less": token[:len(token)-1],
		"more": token + "A", "no base64": "!" + token[1:],
	} {
		if status, _ := f.request(http.MethodGet, "?token="+text, "",
			http.Header{"Accept": {eventStream}}); status != http.StatusNotFound {
			t.Errorf("%s: %d", name, status)
		}
	}
	if n := len(f.server.streams.open); n != 0 {
		t.Errorf("%d streams are known", n)
	}
	f.stream(http.MethodGet, "?token="+token, "", nil)
	if status, _ := f.request(http.MethodGet, "?token="+token, "",
		http.Header{"Accept": {eventStream}}); status != http.StatusConflict {
		t.Errorf("a second time: %d", status)
	}
}

// A stream is cut when its client reads nothing and its queue is full.
func TestStreamThatStalls(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) {
		o.QueueBytes, o.WriteTimeout = 64<<10,
			100*time.Millisecond
	})
	e := f.stream(http.MethodPost, "", query("subscription { delegated }"), nil)
	op := <-f.delegated
	payload := mustMarshal(strings.Repeat("x", 4<<10))
	for op.Next(payload) {
	}
	last := ""
	for text := e.line(); text != "end"; text = e.line() {
		last = text
	}
	if strings.HasPrefix(last, "event: complete") {
		t.Error("the stream was completed: its client will not come back")
	}
	eventually(t, "the stream is gone", func() bool { return f.connections() == 0 })
}
