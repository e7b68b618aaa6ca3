package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"parley/internal/client"
)

// request is an operation that costs a server much.
type request struct {
	name      string
	anonymous bool // else by a member
	query     string
	variables any // the variable v
}

func (r request) operation() client.Operation {
	return client.Operation{Query: r.query, Variables: object{"v": r.variables}}
}

func (r request) body() ([]byte, error) { return json.Marshal(r.operation()) }

// withComment returns the same request in a document that the server has not seen.
func (r request) withComment(i int) request {
	r.query = strings.Replace(r.query, "{", fmt.Sprintf("{ # %d\n", i), 1)
	if r.query[0] != '{' {
		r.query = fmt.Sprintf("# %d\n", i) + r.query
	}
	return r
}

// same returns the request itself.
func (r request) same(int) request { return r }

// answeredWith describes an answer in a few words.
func answeredWith(body []byte) string {
	var answer client.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		return "no JSON"
	}
	if len(answer.Errors) == 0 {
		return "data"
	}
	return fmt.Sprintf("%d × %s", len(answer.Errors), answer.Errors[0].Extensions.Code)
}

func repeated(n int, part func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(part(i))
	}
	return b.String()
}

// requests returns the most expensive requests that are known.
func (a *abuser) requests() []request {
	const large = 255 << 10
	id, common := a.ids[0], a.ids[longConversations]
	asList := func(ids []string) string {
		b, _ := json.Marshal(ids)
		return string(b)
	}
	fields := func(i int) string { return fmt.Sprintf(" a%d: id", i) }
	nested := func(depth int) string {
		return repeated(depth, func(i int) string { return fmt.Sprintf(" fragment F%d on Query { ...F%d ...F%d }", i, i+1, i+1) }) +
			fmt.Sprintf(" fragment F%d on Query { __typename }", depth)
	}
	page := func(selection string) string {
		return fmt.Sprintf(`{ conversation(id: %q) { messages(last: %d) { nodes { %s } } } }`, id, emojiMessages, selection)
	}
	list := func(n int, item string) []any {
		all := make([]any, n)
		for i := range all {
			all[i] = item
		}
		return all
	}
	deep := func(open, inner, end string, n int) json.RawMessage {
		return json.RawMessage(strings.Repeat(open, n) + inner + strings.Repeat(end, n))
	}
	const user = "query ($v: ID!) { user(id: $v) { id } }"
	return []request{
		{"`{ __typename }`", true, "{ __typename }", nil},
		{"820 × `aN: aN`", true, "{" + repeated(820, func(i int) string { return fmt.Sprintf(" a:a%d", i) }) + "}", nil},
		{"2,400 × `x`", true, "{" + strings.Repeat(" x", 2400) + "}", nil},
		{"400 × `viewer(aN: 1)`", true, "{" + repeated(400, func(i int) string { return fmt.Sprintf(" viewer(a%d:1){id}", i) }) + "}", nil},
		{"1,200 × `@a`", true, "{ __typename" + strings.Repeat(" @a", 1200) + " }", nil},
		{"14 aliases of `fields`, through `ofType`", true, "{ __schema { types { ...T } } } fragment T on __Type {" +
			repeated(14, func(i int) string { return fmt.Sprintf(" f%d: fields { type { ofType { ofType { ...N } } } }", i) }) +
			" } fragment N on __Type { name fields { name type { ofType { name } } } }", nil},
		{"introspection, as tools ask", true, introspectionQuery, nil},
		{"fragments that double, 25 deep", true, "{ ...F0 }" + nested(25), nil},
		{"150 fragments × 150 operations", true, repeated(150, func(i int) string { return fmt.Sprintf(" query Q%d { ...F%d }", i, i) }) +
			repeated(150, func(i int) string { return fmt.Sprintf(" fragment F%d on Query { __typename ...F%d }", i, i+1) }) +
			" fragment F150 on Query { __typename }", nil},
		{"300 arguments that are not known", true, "{" + repeated(300, func(i int) string { return fmt.Sprintf(" users(frist%d:1){pageInfo{hasNextPage}}", i) }) + "}", nil},
		{"255 KB of comments", true, "{ __typename }" + strings.Repeat("\n#", large/3), nil},
		{"one name of 255 KB", true, "{ " + strings.Repeat("x", large) + " }", nil},
		{"an alias of 255 KB", true, "{ " + strings.Repeat("x", large) + ": __typename }", nil},
		{"one string of 255 KB", true, `{ user(id: "` + strings.Repeat("x", large) + `") { id } }`, nil},
		{"a list of 2,300 numbers", true, "{ nodes(ids: [" + strings.Repeat("1 ", 2300) + "]) { id } }", nil},
		{"an object 600 deep", true, "{ users(search: " + strings.Repeat("{a:", 600) + "1" + strings.Repeat("}", 600) + ") { nodes { id } } }", nil},
		{"variables: a list of 60,000", true, "query ($v: [ID!]!) { nodes(ids: $v) { id } }", list(60_000, "x")},
		{"variables: lists 9,000 deep", true, user, deep("[", "1", "]", 9_000)},
		{"variables: objects 9,000 deep", true, user, deep(`{"a":`, "1", "}", 9_000)},
		{"errors in 2,000 fields", true, "{" + repeated(29, func(i int) string {
			return fmt.Sprintf(" u%d: users(first: 60) { nodes { id } }", i)
		}) + "}", nil},
		{"an error for each of 100 nodes", false, "query ($v: [ID!]!) { nodes(ids: $v) { id } }", list(100, "nonsense")},
		{"98 messages of 4,000 emoji", false, page("id content"), nil},
		{"98 messages of 4,000 emoji, nested once", false, page(fmt.Sprintf("conversation { messages(last: %d) { nodes { content } } }", emojiMessages)), nil},
		{"98 long messages of each of 8 conversations", false, fmt.Sprintf("{ nodes(ids: %s) { ... on Conversation { messages(last: 98) { nodes { content } } } } }", asList(a.ids[:longConversations])), nil},
		{"the same, without their content", false, fmt.Sprintf("{ nodes(ids: %s) { ... on Conversation { messages(last: 98) { nodes { id } } } } }", asList(a.ids[:longConversations])), nil},
		{"nearly 12,000 fields", false, fmt.Sprintf(`{ conversation(id: %q) { messages(last: 99) { nodes { conversation { messages(last: 39) { nodes { id seq } } } } } } }`, common), nil},
		{"nearly 12,000 fields, 29 of them aliases", false, fmt.Sprintf(`{ conversation(id: %q) { messages(last: 99) { nodes { conversation { messages(last: 3) { nodes { %s } } } } } } }`, common, repeated(29, fields)), nil},
		{"9,604 objects of one field", false, fmt.Sprintf(`{ conversation(id: %q) { messages(last: 98) { nodes { conversation { messages(last: 98) { nodes { id } } } } } } }`, common), nil},
		{"a subscription of 9,604 fields", false, fmt.Sprintf(`subscription { messageAdded(conversationId: %q) { conversation { messages(last: 98) { nodes { conversation { messages(last: 48) { nodes { id } } } } } } } }`, common), nil},
		{"search of a common word", false, `{ searchMessages(query: "common", first: 100) { nodes { id content } } }`, nil},
		{"100 nodes with pages in them", false, fmt.Sprintf("{ nodes(ids: %s) { ... on Conversation { members(first: 60) { nodes { user { id } } } } } }", asList(a.ids[:100])), nil},
		{"aliases of 250 bytes × 9,900", false, fmt.Sprintf(`{ conversation(id: %q) { messages(last: 99) { nodes { conversation { messages(last: 99) { nodes { %s: __typename } } } } } } }`,
			common, strings.Repeat("x", 250)), nil},
	}
}

const introspectionQuery = `query IntrospectionQuery { __schema { queryType { name } mutationType { name } subscriptionType { name }
	types { ...FullType } directives { name description locations args { ...InputValue } } } }
	fragment FullType on __Type { kind name description fields(includeDeprecated: true) { name description args { ...InputValue }
	type { ...TypeRef } isDeprecated deprecationReason } inputFields { ...InputValue } interfaces { ...TypeRef }
	enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason } possibleTypes { ...TypeRef } }
	fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue }
	fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } }`
