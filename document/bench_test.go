package document_test

import (
	"fmt"
	"strings"
	"testing"
)

// expensive has documents that cost much for their length.
func expensive() map[string]string {
	doubling := func(n int) string {
		var b strings.Builder
		b.WriteString("{ viewer { user { ...F0 } } }")
		for i := range n {
			fmt.Fprintf(&b,
				" fragment F%d on User { presence { user { ...F%d } } a%d: presence { user { "+
					"...F%d } } }", i, i+1, i%3, i+1)
		}
		fmt.Fprintf(&b, " fragment F%d on User { id }", n)
		return b.String()
	}
	inlined := strings.Repeat("... { ", 150)
	return map[string]string{
		"chained":   chained(190),
		"doubling":  doubling(30),
		"aliased":   "{" + repeat(820, " a:a%d") + "}",
		"repeated":  "{" + strings.Repeat(" x", 2400) + "}",
		"same":      "{ viewer {" + strings.Repeat(" email", 2400) + "} }",
		"arguments": "{ users(" + repeat(800, "a%d:1 ") + ") { nodes { id } } }",
		"one argument, often": "{" +
			repeat(200, ` users(first: 1, search: "x") { nodes { id } }`) + "}",
		"directives": "{ viewer" + strings.Repeat(" @include(if: true)", 400) +
			" { email } }",
		"objects": "mutation { sendMessage(input: " + strings.Repeat("{a: ",
			600) + "1" + strings.Repeat("}", 600) + ") { userErrors { code } } }",
		"fields of an object": "mutation { sendMessage(input: {" + repeat(800, "a%d: 1 ") +
			"}) { userErrors { code } } }",
		"list": "{ nodes(ids: [" + strings.Repeat(`"x" `, 2400) +
			"]) { id } }",
		"variables": "query (" + repeat(600, "$v%d: Int ") + ") { __typename }",
		"used variables": "query (" + repeat(250, "$v%d: Int ") + ") {" +
			" nodes(ids: [" + repeat(250, "$v%d ") + "]) { id } }",
		"undefined variables": repeat(200, "query Q%d { ...F } ") +
			" fragment F on Query { nodes(ids: [" + repeat(200, "$v%d ") + "]) { id } }",
		"operations": repeat(200, "query Q%d { ...F0 } ") +
			" fragment F0 on Query { viewer { user { id nickname displayName about } } }",
		"inline": "{" +
			strings.Repeat(inlined+" viewer { email }"+strings.Repeat("}", 150), 3) + "}",
		"deep": strings.Repeat("{ a ", 800) + strings.Repeat("}", 800),
		"spreads": "{ viewer { user {" + strings.Repeat(" ...F", 1000) +
			"} } } fragment F on User { id }",
		"comments": "{ __typename }" + strings.Repeat("#\n", 100_000),
		"a string": `{ users(search: "` + strings.Repeat(`\u0041`, 40_000) +
			`") { nodes { id } } }`,
		"a block": `{ users(search: """` + strings.Repeat(" x\n", 80_000) +
			`""") { nodes { id } } }`,
		"a number": `{ users(first: ` + strings.Repeat("1", 250_000) +
			`) { nodes { id } } }`,
		"a name":                      `{ ` + strings.Repeat("x", 250_000) + ` }`,
		"commas":                      `{ __typename ` + strings.Repeat(",", 250_000) + ` }`,
		"everything about the schema": fullIntrospection(),
	}
}

// BenchmarkExpensive reads documents that cost much for their length, including refused ones.
func BenchmarkExpensive(b *testing.B) {
	r := mustRead(b, open())
	for name, text := range expensive() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				// another text each time, so that it is not cached
				_, _ = r.Read(fmt.Sprint(text, " #", i), "", nil)
			}
		})
	}
}
