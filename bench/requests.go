package main

import (
	"encoding/json"
	"fmt"
	"slices"
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

// numbered returns a format with one %d for each number below n.
func numbered(n int, format string) string {
	return repeated(n, func(i int) string { return fmt.Sprintf(format, i) })
}

// nested returns text inside n pairs of open and end.
func nested(n int, open, text, end string) string {
	return strings.Repeat(open, n) + text + strings.Repeat(end, n)
}

// requests returns the most expensive requests that are known.
func (a *abuser) requests() []request {
	all := append(manyParts(), largeParts()...)
	for i := range all {
		all[i].anonymous = true
	}
	return append(all, a.largeAnswers()...)
}

// manyParts returns anonymous requests with many fields, arguments, directives or fragments.
func manyParts() []request {
	const depth = 25
	doubling := repeated(depth, func(i int) string {
		return fmt.Sprintf(" fragment F%d on Query { ...F%d ...F%d }", i, i+1, i+1)
	}) + fmt.Sprintf(" fragment F%d on Query { __typename }", depth)
	fragments := repeated(150, func(i int) string {
		return fmt.Sprintf(" fragment F%d on Query { __typename ...F%d }", i, i+1)
	})
	operations := repeated(150, func(i int) string {
		return fmt.Sprintf(" query Q%d { ...F%d }", i,
			i)
	})
	types := numbered(14, " f%d: fields { type { ofType { ofType { ...N } } } }")
	return []request{
		{name: "`{ __typename }`", query: "{ __typename }"},
		{name: "820 × `aN: aN`", query: "{" + numbered(820, " a:a%d") + "}"},
		{name: "2,400 × `x`", query: "{" + strings.Repeat(" x", 2400) + "}"},
		{name: "400 × `viewer(aN: 1)`", query: "{" + numbered(400, " viewer(a%d:1){id}") + "}"},
		{name: "1,200 × `@a`", query: "{ __typename" + strings.Repeat(" @a", 1200) + " }"},
		{
			name: "14 aliases of `fields`, through `ofType`",
			query: "{ __schema { types { ...T } } } fragment T on __Type {" + types +
				" } fragment N on __Type { name fields { name type { ofType { name } } } }",
		},
		{name: "introspection, as tools ask", query: introspectionQuery},
		{name: "fragments that double, 25 deep", query: "{ ...F0 }" + doubling},
		{
			name:  "150 fragments × 150 operations",
			query: operations + fragments + " fragment F150 on Query { __typename }",
		},
		{
			name:  "300 arguments that are not known",
			query: "{" + numbered(300, " users(frist%d:1){pageInfo{hasNextPage}}") + "}",
		},
	}
}

// largeParts returns anonymous requests with one large part.
func largeParts() []request {
	const large = 255 << 10
	name := strings.Repeat("x", large)
	const user = "query ($v: ID!) { user(id: $v) { id } }"
	return []request{
		{name: "255 KB of comments", query: "{ __typename }" + strings.Repeat("\n#", large/3)},
		{name: "one name of 255 KB", query: "{ " + name + " }"},
		{name: "an alias of 255 KB", query: "{ " + name + ": __typename }"},
		{name: "one string of 255 KB", query: `{ user(id: "` + name + `") { id } }`},
		{
			name:  "a list of 2,300 numbers",
			query: "{ nodes(ids: [" + strings.Repeat("1 ", 2300) + "]) { id } }",
		},
		{
			name:  "an object 600 deep",
			query: "{ users(search: " + nested(600, "{a:", "1", "}") + ") { nodes { id } } }",
		},
		{
			name: "variables: a list of 60,000", query: nodesQuery,
			variables: slices.Repeat([]string{"x"}, 60_000),
		},
		{
			name: "variables: lists 9,000 deep", query: user,
			variables: json.RawMessage(nested(9_000, "[", "1", "]")),
		},
		{
			name: "variables: objects 9,000 deep", query: user,
			variables: json.RawMessage(nested(9_000, `{"a":`, "1", "}")),
		},
		{
			name:  "errors in 2,000 fields",
			query: "{" + numbered(29, " u%d: users(first: 60) { nodes { id } }") + "}",
		},
	}
}

const nodesQuery = "query ($v: [ID!]!) { nodes(ids: $v) { id } }"

// largeAnswers returns requests of a member that read much.
func (a *abuser) largeAnswers() []request {
	emoji := func(selection string) string {
		return fmt.Sprintf(`{ conversation(id: %q) { messages(last: %d) { nodes { %s } } } }`,
			a.ids[0], emojiMessages, selection)
	}
	common := func(outer, inner int, selection string) string {
		return fmt.Sprintf(`{ conversation(id: %q) { messages(last: %d) { nodes { conversation {`+
			` messages(last: %d) { nodes { %s } } } } } } }`,
			a.ids[longConversations], outer, inner, selection)
	}
	subscription := fmt.Sprintf(`subscription { messageAdded(conversationId: %q) { conversation {`+
		` messages(last: 98) { nodes { conversation { messages(last: 48) { nodes { id } } } } } } } }`,
		a.ids[longConversations])
	conversations := func(n int, selection string) string {
		list, _ := json.Marshal(a.ids[:n]) // strings cannot fail
		return fmt.Sprintf("{ nodes(ids: %s) { ... on Conversation { %s } } }", list, selection)
	}
	long := func(field string) string {
		return conversations(longConversations, "messages(last: 98) { nodes { "+field+" } }")
	}
	again := fmt.Sprintf("conversation { messages(last: %d) { nodes { content } } }", emojiMessages)
	return []request{
		{
			name: "an error for each of 100 nodes", query: nodesQuery,
			variables: slices.Repeat([]string{"nonsense"}, 100),
		},
		{name: "98 messages of 4,000 emoji", query: emoji("id content")},
		{name: "98 messages of 4,000 emoji, nested once", query: emoji(again)},
		{name: "98 long messages of each of 8 conversations", query: long("content")},
		{name: "the same, without their content", query: long("id")},
		{name: "nearly 12,000 fields", query: common(99, 39, "id seq")},
		{
			name:  "nearly 12,000 fields, 29 of them aliases",
			query: common(99, 3, numbered(29, " a%d: id")),
		},
		{name: "9,604 objects of one field", query: common(98, 98, "id")},
		{name: "a subscription of 9,604 fields", query: subscription},
		{
			name:  "search of a common word",
			query: `{ searchMessages(query: "common", first: 100) { nodes { id content } } }`,
		},
		{
			name:  "100 nodes with pages in them",
			query: conversations(100, "members(first: 60) { nodes { user { id } } }"),
		},
		{
			name:  "aliases of 250 bytes × 9,900",
			query: common(99, 99, strings.Repeat("x", 250)+": __typename"),
		},
	}
}

const introspectionQuery = `query IntrospectionQuery { __schema { queryType { name } mutationType { name } subscriptionType { name }
	types { ...FullType } directives { name description locations args { ...InputValue } } } }
	fragment FullType on __Type { kind name description fields(includeDeprecated: true) { name
	description args { ...InputValue }
	type { ...TypeRef } isDeprecated deprecationReason } inputFields { ...InputValue } interfaces {
	...TypeRef }
	enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason }
	possibleTypes { ...TypeRef } }
	fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue }
	fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } }`
