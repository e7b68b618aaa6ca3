package graph_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/99designs/gqlgen/graphql/introspection"

	"parley/store/storetest"
)

// TestIntrospectionIsAnsweredAgain: answers about the schema are kept, each for its own operation,
// and no other answer is.
func TestIntrospectionIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	ask := func(token, operation, query string) string {
		body, err := json.Marshal(map[string]any{"query": query, "operationName": operation})
		if err != nil {
			t.Fatal(err)
		}
		_, answer := s.post(body, http.Header{"Authorization": bearer(token), "Content-Type": {"application/json"}})
		return string(answer)
	}
	const two = `query A { __type(name: "User") { name } } query B { __type(name: "Message") { kind } }`
	const mixed = `{ __type(name: "User") { name } viewer { user { nickname } } }`
	for range 2 {
		for _, c := range []struct{ token, operation, query, want string }{
			{"", "IntrospectionQuery", introspection.Query, `"name":"SendMessageInput"`},
			{"", "A", two, `{"data":{"__type":{"name":"User"}}}`},
			{"", "B", two, `{"data":{"__type":{"kind":"OBJECT"}}}`},
			{ann.token, "", mixed, `{"user":{"nickname":"ann"}}`},
			{bob.token, "", mixed, `{"user":{"nickname":"bob"}}`},
			{"", "", mixed, `UNAUTHENTICATED`},
		} {
			if got := ask(c.token, c.operation, c.query); !strings.Contains(got, c.want) {
				t.Errorf("%s of %.60s: %.200s", c.operation, c.query, got)
			}
		}
	}
}
