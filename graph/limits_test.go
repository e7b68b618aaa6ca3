package graph_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/99designs/gqlgen/graphql/introspection"
	"github.com/google/go-cmp/cmp"

	"parley/store/storetest"
)

func TestLimits(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))

	deep := func(levels int) string {
		// conversation → lastMessage → conversation → … costs little and goes deep.
		q := "id"
		for range levels - 2 {
			q = "lastMessage { conversation { " + q + " } }"
		}
		return fmt.Sprintf(`{ conversation(id: %q) { %s } }`, id, q)
	}
	aliases := func(n int) string {
		var b strings.Builder
		b.WriteString("mutation {")
		for i := range n {
			fmt.Fprintf(&b, ` a%d: login(input: {email: "a", password: "b"}) { userErrors { code } }`, i)
		}
		return b.String() + " }"
	}
	// Each fragment spreads the next one twice: two to the power of n fields in n lines.
	doubling := func(n int) string {
		var b strings.Builder
		b.WriteString("query { ...F0 }")
		for i := range n {
			fmt.Fprintf(&b, " fragment F%d on Query { ...F%d a%d: viewer { email } ...F%d }", i, i+1, i%3, i+1)
		}
		fmt.Fprintf(&b, " fragment F%d on Query { viewer { email } }", n)
		return b.String()
	}
	for name, c := range map[string]struct {
		query string
		want  []string
	}{
		"deep enough":        {deep(6), nil},
		"too deep":           {deep(12), []string{"OPERATION_TOO_LARGE"}},
		"too many aliases":   {aliases(31), []string{"OPERATION_TOO_LARGE"}},
		"too many tokens":    {"{" + strings.Repeat(" viewer { email }", 700) + " }", []string{"OPERATION_TOO_LARGE"}},
		"nested brackets":    {"{ users(search: " + strings.Repeat("[", 100_000) + ") { nodes { id } } }", []string{"OPERATION_TOO_LARGE"}},
		"doubling fragments": {doubling(25), []string{"OPERATION_TOO_LARGE"}},
		"large pages": {
			`{ viewer { conversations(first: 100) { nodes { messages(first: 100) { nodes { id seq content } } } } } }`,
			[]string{"OPERATION_TOO_LARGE"},
		},
		"large pages by default": {
			`{ viewer { conversations(first: 100) { nodes { members { nodes { id role joinedAt user { id nickname } } } } } } }`,
			[]string{"OPERATION_TOO_LARGE"},
		},
		"ordinary pages": {`{ viewer { conversations { nodes { title members(first: 5) { nodes { user { nickname } } } messages(last: 50) { nodes { id } } } } } }`, nil},
	} {
		a := s.do(ann.token, c.query, nil)
		if diff := cmp.Diff(c.want, a.codes()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// A page size that comes as a variable counts too.
	a := s.do(ann.token, `query($n: Int) { viewer { conversations(first: $n) { nodes { messages(first: $n) { nodes { id seq content } } } } } }`,
		map[string]any{"n": 100})
	if diff := cmp.Diff([]string{"OPERATION_TOO_LARGE"}, a.codes()); diff != "" {
		t.Error(diff)
	}
}

func TestRequestsThatAreNotGraphQL(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	const json = "application/json"
	for name, c := range map[string]struct {
		contentType, body string
		status            int
		says              string
	}{
		"a form":             {"application/x-www-form-urlencoded", "query={viewer{email}}", 415, "Content-Type"},
		"a multipart form":   {"multipart/form-data; boundary=x", "--x--", 415, "Content-Type"},
		"plain text":         {"text/plain", `{"query":"{ viewer { email } }"}`, 415, "Content-Type"},
		"no type":            {"", `{"query":"{ viewer { email } }"}`, 415, "Content-Type"},
		"not JSON":           {json, "query", 400, "not valid JSON, from byte 1"},
		"nothing":            {json, "", 400, "not valid JSON"},
		"a list":             {json, `[{"query":"{ __typename }"}]`, 400, "operations are not batched"},
		"no query":           {json, `{}`, 400, "no query"},
		"a number for query": {json, `{"query": 5}`, 400, `\"query\" has to be a JSON string`},
		"variables as text":  {json, `{"query": "{ __typename }", "variables": "{}"}`, 400, `\"variables\" has to be a JSON object`},
		"too large":          {json, `{"query":"` + strings.Repeat("x", 300_000) + `"}`, 413, "larger than 262144 bytes"},
		"right":              {json + "; charset=utf-8", `{"query":"{ __typename }"}`, 200, `{"data":{"__typename":"Query"}}`},
	} {
		header := http.Header{}
		if c.contentType != "" {
			header.Set("Content-Type", c.contentType)
		}
		status, body := s.post([]byte(c.body), header)
		if status != c.status || !strings.Contains(string(body), c.says) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, body := s.request(http.MethodGet, "?query={__typename}", nil, http.Header{}); status != 200 || string(body) != `{"data":{"__typename":"Query"}}` {
		t.Errorf("GET: %d %s", status, body)
	}
	// What a link or an image on a foreign page could send must change nothing.
	if status, body := s.request(http.MethodGet, "?query=mutation{logout{userErrors{code}}}", nil, http.Header{}); !strings.Contains(string(body), "has to be sent with POST") {
		t.Errorf("a mutation with GET: %d %s", status, body)
	}
	if status, body := s.request(http.MethodPost, "", []byte(`{"query":"subscription { messageAdded(conversationId: \"x\") { id } }"}`),
		http.Header{"Content-Type": {json}, "Accept": {json}}); status != 200 || !strings.Contains(string(body), "needs a WebSocket") {
		t.Errorf("a subscription with POST: %d %s", status, body)
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), withOrigins("https://app.example.org", "http://localhost:*"))
	for origin, allowed := range map[string]bool{
		"": true, "https://app.example.org": true, "http://localhost:5173": true, "http://localhost": true, s.url: true,
		"http://app.example.org": false, "https://app.example.org.evil.net": false, "https://localhost:5173": false,
		"http://localhost.evil.net": false, "null": false, "https://app.example.org:8443": false, "nonsense": false,
	} {
		header := http.Header{"Content-Type": {"application/json"}}
		if origin != "" {
			header.Set("Origin", origin)
		}
		status, body := s.post([]byte(`{"query":"{ __typename }"}`), header)
		if (status == 200) != allowed || !allowed && status != 403 {
			t.Errorf("%q: %d %s", origin, status, body)
		}
	}
	// The question that a browser asks before.
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodOptions, s.url, nil)
	req.Header = http.Header{
		"Origin": {"https://app.example.org"}, "Access-Control-Request-Method": {"POST"},
		"Access-Control-Request-Headers": {"authorization,content-type"},
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != "https://app.example.org" {
		t.Errorf("allowed %q: %v", got, res.Header)
	}
	if got := res.Header.Get("Access-Control-Allow-Credentials"); got != "" {
		t.Errorf("cookies are not used, and nothing should be sent on their account: %v", res.Header)
	}
}

// Introspection is bounded by what it asks for, however its aliases are spread over fragments.
func TestIntrospectionIsBounded(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	const many = `query { a: __schema { ...S } b: __schema { ...S } c: __schema { ...S } }
		fragment S on __Schema { a: types { ...T } b: types { ...T } c: types { ...T } }
		fragment T on __Type { a: fields { ...F } b: fields { ...F } c: fields { ...F } }
		fragment F on __Field { a: type { ...N } b: type { ...N } c: type { ...N } }
		fragment N on __Type { a: ofType { ...O } b: ofType { ...O } c: ofType { ...O } }
		fragment O on __Type { a: name b: name c: name d: kind e: kind f: kind }`
	if diff := cmp.Diff([]string{"OPERATION_TOO_LARGE"}, s.do("", many, nil).codes()); diff != "" {
		t.Error(diff)
	}
	if a := s.do("", introspection.Query, nil); a.Errors != nil {
		t.Errorf("what tools ask for: %+v", a.Errors)
	}
}

// Whatever a client does to break off, its connection is given back.
func TestSocketsThatAreGivenUpAreClosed(t *testing.T) {
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
	if got := c.subscribe(`{ viewer { email } }`, nil).failure(t); !cmp.Equal(got, []string{"RATE_LIMITED"}) {
		t.Errorf("one more: %v", got)
	}
	c.send(frame{ID: following[0].id, Type: "complete"})
	for {
		// once the server has seen that one is over
		f := c.subscribe(`{ viewer { email } }`, nil).frame()
		if !strings.Contains(string(f.Payload), "RATE_LIMITED") {
			return
		}
	}
}
