package graph_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

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
			fmt.Fprintf(&b,
				` a%d: login(input: {email: "a", password: "b"}) { userErrors { code } }`, i)
		}
		return b.String() + " }"
	}
	// Each fragment spreads the next one twice: two to the power of n fields in n lines.
	doubling := func(n int) string {
		var b strings.Builder
		b.WriteString("query { ...F0 }")
		for i := range n {
			fmt.Fprintf(&b, " fragment F%d on Query { ...F%d a%d: viewer { email } ...F%d }", i,
				i+1, i%3, i+1)
		}
		fmt.Fprintf(&b, " fragment F%d on Query { viewer { email } }", n)
		return b.String()
	}
	for name, c := range map[string]struct {
		query string
		want  []string
	}{
		"deep enough":      {deep(6), nil},
		"too deep":         {deep(12), []string{"OPERATION_TOO_LARGE"}},
		"too many aliases": {aliases(31), []string{"OPERATION_TOO_LARGE"}},
		"too many tokens": {
			"{" + strings.Repeat(" viewer { email }", 700) + " }",
			[]string{"OPERATION_TOO_LARGE"},
		},
		"nested brackets": {"{ users(search: " + strings.Repeat("[", 100_000) +
			") { nodes { id } } }", []string{"OPERATION_TOO_LARGE"}},
		"doubling fragments": {doubling(25), []string{"OPERATION_TOO_LARGE"}},
		"large pages": {
			`{ viewer { conversations(first: 100) {
				nodes { messages(first: 100) { nodes { id seq content } } } } } }`,
			[]string{"OPERATION_TOO_LARGE"},
		},
		"large pages by default": {
			`{ viewer { conversations(first: 100) {
				nodes { members { nodes { id role joinedAt user { id nickname } } } } } } }`,
			[]string{"OPERATION_TOO_LARGE"},
		},
		"ordinary pages": {`{ viewer { conversations {
			nodes { title members(first: 5) { nodes { user { nickname } } }
			messages(last: 50) { nodes { id } } } } } }`, nil},
	} {
		a := s.do(ann.token, c.query, nil)
		if diff := cmp.Diff(c.want, a.codes()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// A page size that comes as a variable counts too.
	a := s.do(ann.token,
		`query($n: Int) { viewer { conversations(first: $n) {
			nodes { messages(first: $n) { nodes { id seq content } } } } } }`,
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
		"a form": {
			"application/x-www-form-urlencoded", "query={viewer{email}}", 415,
			"Content-Type",
		},
		"a multipart form": {"multipart/form-data; boundary=x", "--x--", 415, "Content-Type"},
		"plain text": {
			"text/plain", `{"query":"{ viewer { email } }"}`, 415,
			"Content-Type",
		},
		"no type":  {"", `{"query":"{ viewer { email } }"}`, 415, "Content-Type"},
		"not JSON": {json, "query", 400, "not valid JSON, from byte 1"},
		"nothing":  {json, "", 400, "not valid JSON"},
		"a list": {
			json, `[{"query":"{ __typename }"}]`, 400,
			"operations are not batched",
		},
		"no query":           {json, `{}`, 400, "no query"},
		"a number for query": {json, `{"query": 5}`, 400, `\"query\" has to be a JSON string`},
		"variables as text": {
			json, `{"query": "{ __typename }", "variables": "{}"}`, 400,
			`\"variables\" has to be a JSON object`,
		},
		"too large": {
			json, `{"query":"` + strings.Repeat("x", 300_000) + `"}`, 413,
			"larger than 262144 bytes",
		},
		"right": {
			json + "; charset=utf-8", `{"query":"{ __typename }"}`, 200,
			`{"data":{"__typename":"Query"}}`,
		},
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
	if status, body := s.request(http.MethodGet, "?query={__typename}", nil,
		http.Header{}); status != 200 || string(body) != `{"data":{"__typename":"Query"}}` {
		t.Errorf("GET: %d %s", status, body)
	}
	// Requests that a link or an image of a foreign page could send must not change anything.
	if status, body := s.request(http.MethodGet, "?query=mutation{logout{userErrors{code}}}", nil,
		http.Header{}); !strings.Contains(string(body), "has to be sent with POST") {
		t.Errorf("a mutation with GET: %d %s", status, body)
	}
	if status, body := s.request(http.MethodPost, "",
		[]byte(`{"query":"subscription { messageAdded(conversationId: \"x\") { id } }"}`),
		http.Header{"Content-Type": {json}, "Accept": {json}}); status != 200 ||
		!strings.Contains(string(body), "needs a WebSocket") {
		t.Errorf("a subscription with POST: %d %s", status, body)
	}
}
