package graph_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/auth"
	"parley/graph"
	"parley/store"
	"parley/store/storetest"
)

// located is an error with all that clients see of it.
type located struct {
	Message    string
	Path       []any
	Locations  []struct{ Line, Column int }
	Extensions struct{ Code string }
}

func (e located) String() string {
	return fmt.Sprintf("%s %v %v %s", e.Extensions.Code, e.Path, e.Locations, e.Message)
}

// refused sends an operation over each transport, and returns the errors. They must be the same
// over all, and there must be no data.
func (s *api) refused(token, query, variables string) (list []located) {
	s.t.Helper()
	var values map[string]any
	d := json.NewDecoder(strings.NewReader(variables))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		s.t.Fatal(err)
	}
	errorsOf := func(transport string, body []byte) (list []located) {
		var answer map[string]json.RawMessage
		if err := json.Unmarshal(body, &answer); err != nil {
			s.t.Fatalf("%s: %.300s: %v", transport, body, err)
		}
		if data, there := answer["data"]; there || json.Unmarshal(answer["errors"], &list) != nil {
			s.t.Errorf("%s over %s: data %s, errors %s", query, transport, data, answer["errors"])
		}
		return list
	}
	header := http.Header{
		"Authorization": bearer(token), "Content-Type": {"application/json"},
		"Accept": {"application/graphql-response+json"},
	}
	status, body := s.post(mustJSON(s.t, obj{"query": query, "variables": values}), header)
	if list = errorsOf("HTTP", body); status != http.StatusBadRequest {
		s.t.Errorf("%s: the status is %d", query, status)
	}
	f := s.mustDial(token, nil).subscribe(query, values).frame()
	if over := errorsOf("WebSocket",
		[]byte(`{"errors":`+string(f.Payload)+`}`)); f.Type != "error" || !cmp.Equal(list, over) {
		s.t.Errorf("%s over WebSocket: %s %s", query, f.Type, f.Payload)
	}
	events := s.mustStream(token, query, values)
	e := next(s.t, events)
	if over := errorsOf("SSE", []byte(e.data)); e.event != "next" || !cmp.Equal(list, over) {
		s.t.Errorf("%s over SSE: %+v", query, e)
	}
	if e := next(s.t, events); e.event != "complete" {
		s.t.Errorf("%s over SSE: then %+v", query, e)
	}
	return list
}

// TestNothingOfARefusedRequestRuns sends a message in a request with an error: the message must not
// be stored.
func TestNothingOfARefusedRequestRuns(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db, func(o *graph.Options, _ *auth.Options) { o.Introspection = false })
		ann := s.mustRegister("ann")
		id := s.mustConversation(ann, s.mustRegister("bob"))
		const anInt = " (an integer from -2147483648 to 2147483647)"
		for _, c := range []struct{ declared, second, value, want string }{
			{
				"$v: Int!",
				`markRead(input: {conversationId: $c, seq: $v}) { userErrors { code } }`,
				`"1"`, `BAD_USER_INPUT [] [{1 19}] $v: expected Int!` + anInt + `, found "1".`,
			},
			{
				"$v: Int!",
				`markRead(input: {conversationId: $c, seq: $v}) { userErrors { code } }`,
				`2147483648`, `BAD_USER_INPUT [] [{1 19}] $v: expected Int!` + anInt +
					`, found 2147483648.`,
			},
			{
				"$v: Int!",
				`markRead(input: {conversationId: $c, seq: $v}) { userErrors { code } }`,
				`1.5`, `BAD_USER_INPUT [] [{1 19}] $v: expected Int!` + anInt + `, found 1.5.`,
			},
			{
				"$v: Int!",
				`markRead(input: {conversationId: $c, seq: $v}) { userErrors { code } }`,
				`1e999999999`, `BAD_USER_INPUT [] [{1 19}] $v: expected Int!` + anInt +
					`, found 1e999999999.`,
			},
			{
				"$v: Int = 1",
				`markRead(input: {conversationId: $c, seq: $v}) { userErrors { code } }`, `null`,
				`BAD_USER_INPUT [] [{1 19}] $v: expected Int!` + anInt + `, found null.`,
			},
			{
				"$v: String!",
				`saveDraft(input: {conversationId: $c, content: $v}) { userErrors { code } }`, `1`,
				`BAD_USER_INPUT [] [{1 19}] $v: expected String!, found 1.`,
			},
			{
				"$v: SaveDraftInput!", `saveDraft(input: $v) { userErrors { code } }`,
				`{"content": ""}`,
				`BAD_USER_INPUT [] [{1 19}] $v.conversationId: a value of type ID! is required.`,
			},
			{
				"$v: Time",
				`updateMembership(input: {conversationId: $c, mutedUntil: $v}) { userErrors { code } }`, `"tomorrow"`, `BAD_USER_INPUT [] [{1 19}] $v: expected Time, found "tomorrow". A time is written as in RFC 3339, like 2026-11-22T10:15:30Z.`,
			},
			{
				"$v: Time",
				`updateMembership(input: {conversationId: $c, mutedUntil: $v}) { userErrors { code } }`, `"9999-12-31T23:59:59-01:00"`, `BAD_USER_INPUT [] [{1 19}] $v: expected Time, found "9999-12-31T23:59:59-01:00". A time is in one of the years 1 to 9999, in UTC.`,
			},
			{
				"$v: Boolean",
				`setTyping(input: {conversationId: $c, typing: $v}) { userErrors { code } }`,
				`null`, `BAD_USER_INPUT [] [{1 19}] $v: expected Boolean!, found null.`,
			},
			{
				"$v: Boolean = true",
				`saveDraft(input: {conversationId: $c, content: ""}) @include(if: $v) { userErrors { code } }`, `null`, `BAD_USER_INPUT [] [{1 19}] $v: expected Boolean!, found null.`,
			},
			{
				"$v: MemberRole!",
				`changeMemberRole(input: {conversationId: $c, userId: "user_01h455vb4pex5vsknk084sn02q", role: $v}) { userErrors { code } }`, `"admin"`, `BAD_USER_INPUT [] [{1 19}] $v: expected MemberRole!, found "admin".`,
			},
			{
				"$v: [ConversationMemberInput!]!",
				`addMembers(input: {conversationId: $c, members: $v}) { userErrors { code } }`,
				`[{"userId": "x"}, {"userId": "x", "role": "Admin"}]`,
				`BAD_USER_INPUT [] [{1 19}] $v[1].role: expected MemberRole!, found "Admin".`,
			},
		} {
			query := fmt.Sprintf(
				`mutation($c: ID!, %s) { sendMessage(input: {conversationId: $c, content: "x"}) { message { id } } %s }`, c.declared, c.second)
			got := s.refused(ann.token, query, fmt.Sprintf(`{"c": %q, "v": %s}`, id, c.value))
			if c.want != "" && (len(got) != 1 || got[0].String() != c.want) {
				t.Errorf("%s %s: %v\nwant %s", c.declared, c.value, got, c.want)
			}
		}
		for field, want := range map[string]string{
			`markRead(input: {conversationId: $c, seq: 99999999999}) { userErrors { code } }`:                 `GRAPHQL_VALIDATION_FAILED [] [{1 137}] input.seq: expected Int!` + anInt + `, found 99999999999.`,
			`updateMembership(input: {conversationId: $c, mutedUntil: "tomorrow"}) { userErrors { code } }`:   `GRAPHQL_VALIDATION_FAILED [] [{1 152}] input.mutedUntil: expected Time, found "tomorrow". A time is written as in RFC 3339, like 2026-11-22T10:15:30Z.`,
			`updateMembership(input: {conversationId: $c, mutedUntil: tomorrow}) { userErrors { code } }`:     `GRAPHQL_VALIDATION_FAILED [] [{1 152}] input.mutedUntil: expected Time, found tomorrow.`,
			`changeMemberRole(input: {conversationId: $c, userId: "x", role: admin}) { userErrors { code } }`: `GRAPHQL_VALIDATION_FAILED [] [{1 159}] input.role: expected MemberRole!, found admin.`,
			`saveDraft(input: {conversationId: $c, content: "\ud83d"}) { userErrors { code } }`:               `GRAPHQL_PARSE_FAILED [] [{1 143}] \ud83d is half of a surrogate pair: the other half is missing.`,
			`saveDraft(input: {conversationId: $c, content: {}}) { userErrors { code } }`:                     `GRAPHQL_VALIDATION_FAILED [] [{1 142}] input.content: expected String!, found an object.`,
			`__schema { types { name } }`: `GRAPHQL_VALIDATION_FAILED [] [{1 95}] Cannot query field "__schema" on type "Mutation".`,
		} {
			query :=
				`mutation($c: ID!) { sendMessage(input: {conversationId: $c, content: "x"}) { message { id } } ` + field + ` }`
			got := s.refused(ann.token, query, fmt.Sprintf(`{"c": %q}`, id))
			if len(got) != 1 || got[0].String() != want {
				t.Errorf("%s: %v\nwant %s", field, got, want)
			}
		}
		if seq := s.do(ann.token, `query($c: ID!) { conversation(id: $c) { lastSeq } }`,
			obj{"c": id}).at(t, "conversation.lastSeq"); seq != 1.0 {
			t.Errorf("something was stored: seq %v", seq)
		}
		if log := s.log.String(); strings.Contains(log, "level=ERROR") {
			t.Error(log)
		}
	})
}

// TestNoIntrospection: without introspection the schema cannot be read, and __typename works all
// the same.
func TestNoIntrospection(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t),
		func(o *graph.Options, _ *auth.Options) { o.Introspection = false })
	ann := s.mustRegister("ann")
	const off = "This server does not let clients read its schema (introspection is off)."
	for query, want := range map[string]string{
		`{ __schema { types { name } } }`:                                  "GRAPHQL_VALIDATION_FAILED [] [{1 3}] " + off,
		`{ viewer { email } s: __schema { queryType { name } } }`:          "GRAPHQL_VALIDATION_FAILED [] [{1 20}] " + off,
		`{ ...F } fragment F on Query { __type(name: "x") { name } }`:      "GRAPHQL_VALIDATION_FAILED [] [{1 32}] " + off,
		`query($v: Boolean!) { __schema @include(if: $v) { __typename } }`: "GRAPHQL_VALIDATION_FAILED [] [{1 23}] " + off,
	} {
		if got := s.refused(ann.token, query, `{"v": false}`); len(got) != 1 ||
			got[0].String() != want {
			t.Errorf("%s: %v", query, got)
		}
	}
	if a := s.do(ann.token, `{ __typename viewer { __typename } }`, nil); a.Errors != nil ||
		a.str(t, "viewer.__typename") != "Viewer" {
		t.Errorf("got %+v", a)
	}
	if log := s.log.String(); strings.Contains(log, "level=ERROR") {
		t.Error(log)
	}
}

// TestDefer: no transport sends an answer in parts, so @defer is refused like any unknown
// directive.
func TestDefer(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	for query, column := range map[string]int{
		`{ viewer { ... @defer { email } } }`:                                     17,
		`{ viewer { ...F @defer(label: "x") } } fragment F on Viewer { email }`:   18,
		`mutation { ... @defer { logout { userErrors { code } } } }`:              17,
		`subscription { inboxUpdated { ... @defer { conversation { title } } } }`: 36,
	} {
		want := fmt.Sprintf(`GRAPHQL_VALIDATION_FAILED [] [{1 %d}] Unknown directive "@defer".`,
			column)
		if got := s.refused(ann.token, query, `{}`); len(got) != 1 || got[0].String() != want {
			t.Errorf("%s: %v", query, got)
		}
	}
}

// TestSubscriptionsWithoutOneRoot are refused before anything runs, over each transport.
func TestSubscriptionsWithoutOneRoot(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	for query, want := range map[string]string{
		`subscription { inboxUpdated { removed } presenceChanged { online } }`:                                      `[{1 41}] A subscription has one root field: subscribe to "presenceChanged" in an operation of its own.`,
		`subscription { a: inboxUpdated { removed } b: inboxUpdated { removed } }`:                                  `[{1 44}] A subscription has one root field: subscribe to "b" in an operation of its own.`,
		`subscription($v: Boolean!) { inboxUpdated @skip(if: $v) { removed } }`:                                     `[{1 44}] The root field of a subscription cannot have @skip.`,
		`subscription { ...F } fragment F on Subscription { ... @include(if: false) { inboxUpdated { removed } } }`: `[{1 57}] The root field of a subscription cannot have @include.`,
	} {
		want = "GRAPHQL_VALIDATION_FAILED [] " + want
		if got := s.refused(ann.token, query, `{"v": true}`); len(got) != 1 ||
			got[0].String() != want {
			t.Errorf("%s: %v", query, got)
		}
	}
}

// TestArgumentErrorsHaveThePathOfTheirField: the place in the argument is in the message.
func TestArgumentErrorsHaveThePathOfTheirField(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	for query, want := range map[string]string{
		`mutation { a: addMembers(input: {conversationId: "x", members: []}) { userErrors { code } } }`:                                        `BAD_USER_INPUT [a] [{1 12}] input.conversationId: Expected a conversation id (conv_…), got "x".`,
		`mutation { a: addMembers(input: {conversationId: "conv_01h455vb4pex5vsknk084sn02q", members: {userId: 5}}) { userErrors { code } } }`: `BAD_USER_INPUT [a] [{1 12}] input.members[0].userId: Expected a user id (user_…), got "5".`,
		`{ a: node(id: "x") { id } }`: `BAD_USER_INPUT [a] [{1 3}] id: Expected the id of a user, a conversation, a message, a member or a session, got "x".`,
	} {
		_, body := s.post(mustJSON(t, obj{"query": query}),
			http.Header{"Authorization": bearer(ann.token), "Content-Type": {"application/json"}})
		var answer struct{ Errors []located }
		if err := json.Unmarshal(body, &answer); err != nil || len(answer.Errors) != 1 ||
			answer.Errors[0].String() != want {
			t.Errorf("%s: %s", query, body)
		}
	}
}

// TestFormOfMessages sends wrong values of every kind to every argument of the schema, and checks
// the form of the messages.
func TestFormOfMessages(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	schema := graph.NewExecutableSchema(graph.Config{}).Schema()
	wrong := []string{
		`null`, `true`, `0`, `-1`, `1.5`, `1e999999999`, `4294967296`, `""`, `"tomorrow"`,
		`"\u0000"`, `[]`, `[[null]]`, `{}`,
		`{"a": {"b": [1]}}`, `"` + strings.Repeat("<é> ", 50_000) + `"`,
		`{"` + strings.Repeat("k", 200_000) + `": 1}`,
	}
	foreign := regexp.MustCompile(
		`<nil>|map\[|%!|interface|json|strconv|unmarshal|invalid syntax|runtime|panic|reflect|float64|int64|struct|\*[a-z]+\.|0x[0-9a-f]{4}|SQL|parsing`)
	form := regexp.MustCompile(`^[^\x00-\x1f]+[.?]$`)
	seen := map[string]bool{}
	for _, root := range []*ast.Definition{schema.Query, schema.Mutation, schema.Subscription} {
		for _, f := range root.Fields {
			for _, arg := range f.Arguments {
				for _, value := range slices.Concat(valuesFor(schema, arg.Type, wrong)...) {
					query, variables := callOf(schema, root, f, arg, value)
					header := http.Header{
						"Authorization": bearer(ann.token),
						"Content-Type":  {"application/json"},
					}
					_, body := s.post([]byte(`{"query": `+string(mustJSON(t, query))+
						`, "variables": `+variables+`}`), header)
					var answer struct {
						Data   map[string]json.RawMessage
						Errors []located
					}
					if err := json.Unmarshal(body, &answer); err != nil {
						t.Fatalf("%s: %.300s: %v", query, body, err)
					}
					var payload struct{ UserErrors []located }
					_ = json.Unmarshal(answer.Data["root"], &payload) // if it is one
					for _, e := range answer.Errors {
						if code := e.Extensions.Code; code == "" ||
							code == "INTERNAL_SERVER_ERROR" || code == "UNAUTHENTICATED" {
							t.Errorf("%s %.100s: %s", query, value, e)
						}
						if len(e.Path) > 0 && e.Path[0] != "root" ||
							slices.Contains(e.Path, any("variable")) ||
							slices.Contains(e.Path, any("input")) {
							t.Errorf("%s %.100s: path %v", query, value, e.Path)
						}
					}
					for _, e := range append(answer.Errors, payload.UserErrors...) {
						if foreign.MatchString(e.Message) || !form.MatchString(e.Message) ||
							len(e.Message) > 600 {
							t.Errorf("%s %.100s: %.600s", query, value, e.Message)
						}
						seen[e.Message] = true
					}
				}
			}
		}
	}
	if len(seen) < 200 {
		t.Errorf("only %d messages came", len(seen))
	}
}

// valuesFor returns values of a type in which one part is wrong, as JSON.
func valuesFor(schema *ast.Schema, typ *ast.Type, wrong []string) (lists [][]string) {
	lists = append(lists, wrong)
	def := schema.Types[typ.Name()]
	if def.Kind != ast.InputObject {
		return lists
	}
	for _, f := range def.Fields {
		for _, list := range valuesFor(schema, f.Type, wrong) {
			var objects []string
			for _, value := range list {
				parts := []string{`"` + f.Name + `":` + value}
				for _, other := range def.Fields {
					if other != f && other.Type.NonNull {
						parts = append(parts, `"`+other.Name+`":`+plausible(schema, other.Type))
					}
				}
				objects = append(objects, "{"+strings.Join(parts, ",")+"}")
			}
			lists = append(lists, objects)
		}
	}
	return lists
}

// plausible returns a valid value of a type.
func plausible(schema *ast.Schema, typ *ast.Type) string {
	switch def := schema.Types[typ.Name()]; {
	case def.Kind == ast.InputObject:
		var parts []string
		for _, f := range def.Fields {
			if f.Type.NonNull {
				parts = append(parts, `"`+f.Name+`":`+plausible(schema, f.Type))
			}
		}
		return "{" + strings.Join(parts, ",") + "}"
	case def.Kind == ast.Enum:
		return `"` + def.EnumValues[0].Name + `"`
	case def.Name == "Int":
		return "1"
	case def.Name == "Boolean":
		return "true"
	}
	return `"x"`
}

// callOf returns an operation with one field, and a value for its argument.
func callOf(
	schema *ast.Schema, root *ast.Definition, f *ast.FieldDefinition, arg *ast.ArgumentDefinition,
	value string,
) (query, variables string) {
	var declared, passed []string
	variables = `{"` + arg.Name + `":` + value
	for _, a := range f.Arguments {
		if a != arg && !a.Type.NonNull {
			continue
		}
		declared, passed = append(declared, "$"+a.Name+": "+a.Type.String()),
			append(passed, a.Name+": $"+a.Name)
		if a != arg {
			variables += `,"` + a.Name + `":` + plausible(schema, a.Type)
		}
	}
	fields := "{ __typename }"
	if schema.Types[f.Type.Name()].Fields.ForName("userErrors") != nil {
		fields = "{ userErrors { message } }"
	}
	return fmt.Sprintf("%s(%s) { root: %s(%s) %s }", strings.ToLower(root.Name),
		strings.Join(declared, ", "), f.Name,
		strings.Join(passed, ", "), fields), variables + "}"
}
