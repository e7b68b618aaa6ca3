package graph_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/99designs/gqlgen/graphql/introspection"
	"github.com/google/go-cmp/cmp"

	"parley/store/storetest"
)

// TestIntrospectionIsCached: answers about the schema are cached, each for its own operation, and
// no other answer is.
func TestIntrospectionIsCached(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	ask := func(token, operation, query string) string {
		body, err := json.Marshal(map[string]any{"query": query, "operationName": operation})
		if err != nil {
			t.Fatal(err)
		}
		_, answer := s.post(body, http.Header{
			"Authorization": bearer(token),
			"Content-Type":  {"application/json"},
		})
		return string(answer)
	}
	const two = `query A { __type(name: "User") { name } }
		query B { __type(name: "Message") { kind } }`
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

// Introspection is bounded by the fields in its answer, however aliases are spread over fragments.
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
		t.Errorf("the query of tools: %+v", a.Errors)
	}
}
