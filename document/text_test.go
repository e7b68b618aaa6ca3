package document_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/document"
)

// TestText covers the rules of section 2 that the parser's lexer does not check.
func TestText(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{})
	for _, c := range []struct{ literal, want, wrong string }{
		{`"\u00e9"`, "é", ""},
		{`"\ud83d\ude00"`, "😀", ""},
		{`"\uD83D\uDE00 \u{1F600}"`, "😀 😀", ""},
		{`"a\ud800"`, "", `[1:15] \ud800 is half of a surrogate pair: the other half is missing.`},
		{
			`"\ud83d\u0041"`, "",
			`[1:14] \ud83d is half of a surrogate pair: the other half is missing.`,
		},
		{
			`"\ud83d\ud83d"`, "",
			`[1:14] \ud83d is half of a surrogate pair: the other half is missing.`,
		},
		{
			`"é\n\ude00"`, "",
			`[1:17] \ude00 is half of a surrogate pair: the other half is missing.`,
		},
		{`"\\ud800"`, `\ud800`, ""},
		{`"\u{d800}"`, "", `[1:15] Invalid character escape sequence: \u{d800}.`},
		{`"\x41"`, "", `[1:15] Invalid character escape sequence: \x.`},
		{`"""\ud800"""`, `\ud800`, ""},
		{`"""abc` + "\n    def\n      ghi\n" + `"""`, "abc\ndef\n  ghi", ""},
		{`"""` + "\r\n\r\n    a\r\n\r\n      b \r\n  \t\r\n" + `"""`, "a\n\n  b ", ""},
		{`"""` + "\n  a \\\"\"\" \" \\n é\n\tb" + `"""`, " a \"\"\" \" \\n é\nb", ""},
		{`""""""`, "", ""},
		{
			`"""a""""`, "",
			`[1:20] A block string ends with the first """: write \""" for three quotation marks in it.`,
		},
		{`"# no comment"`, "# no comment", ""},
	} {
		request, list := r.Read("{ string(v: "+c.literal+") }", "", nil)
		if c.wrong != "" {
			if diff := cmp.Diff([]string{"GRAPHQL_PARSE_FAILED " + c.wrong},
				messages(list)); diff != "" {
				t.Errorf("%s: %s", c.literal, diff)
			}
			continue
		}
		if list != nil {
			t.Errorf("%s: %v", c.literal, messages(list))
			continue
		}
		field := request.Operation.SelectionSet[0].(*ast.Field)
		if got := field.Arguments[0].Value.Raw; got != c.want {
			t.Errorf("%s is %q, want %q", c.literal, got, c.want)
		}
	}
	for document, wrong := range map[string]string{
		"{ int(v: 00) }":                    "GRAPHQL_PARSE_FAILED",
		"{ int(v: 1_000) }":                 "GRAPHQL_PARSE_FAILED",
		"{ list(v: [0xF]) }":                "GRAPHQL_PARSE_FAILED",
		"{ float(v: 1.) }":                  "GRAPHQL_PARSE_FAILED",
		"{ float(v: .5) }":                  "GRAPHQL_PARSE_FAILED",
		"{ float(v: 1.5.2) }":               "GRAPHQL_PARSE_FAILED",
		"{ float(v: 1e) }":                  "GRAPHQL_PARSE_FAILED",
		"{ float(v: +1) }":                  "GRAPHQL_PARSE_FAILED",
		"{ float(v: 1.50e+2) }":             "",
		"{ int(v: 1w: 2) }":                 "GRAPHQL_PARSE_FAILED",
		"{ int(v: 1,w: 2) }":                "",
		"{ ñame }":                          "GRAPHQL_PARSE_FAILED",
		"\uFEFF{ bool }":                    "",
		"# ñ\n{ bool # {\r, }":              "",
		"{ bool } \xff":                     "GRAPHQL_PARSE_FAILED",
		"{ }":                               "GRAPHQL_PARSE_FAILED",
		"{ bool() }":                        "GRAPHQL_PARSE_FAILED",
		"query() { bool }":                  "GRAPHQL_PARSE_FAILED",
		"{ self { } }":                      "GRAPHQL_PARSE_FAILED",
		"query Q { bool } query Q { bool }": "GRAPHQL_VALIDATION_FAILED",
		"query Q { bool } { bool }":         "GRAPHQL_VALIDATION_FAILED",
		"fragment F on Query { bool }":      "GRAPHQL_VALIDATION_FAILED",
		"type T { a: Int } query { bool }":  "GRAPHQL_PARSE_FAILED",
		"fragment F($v: Int) on Query { int(v: $v) } { ...F }": "GRAPHQL_PARSE_FAILED",
		"{ bool @skip(if: true, if: false) }":                  "GRAPHQL_VALIDATION_FAILED",
		"{ int(v: 1, v: 2) }":                                  "GRAPHQL_VALIDATION_FAILED",
		"{ point(v: {x: 1, x: 2}) }":                           "GRAPHQL_VALIDATION_FAILED",
		"{ ... on Color { bool } }":                            "GRAPHQL_VALIDATION_FAILED",
		"{ bool { x } }":                                       "GRAPHQL_VALIDATION_FAILED",
		"mutation { x }":                                       "GRAPHQL_VALIDATION_FAILED",
		"subscription @skip(if: true) { tick { bool } }":       "GRAPHQL_VALIDATION_FAILED",
		"query($v: [Query]) { list(v: $v) }":                   "GRAPHQL_VALIDATION_FAILED",
		"query($v: Int, $v: Int) { int(v: $v) }":               "GRAPHQL_VALIDATION_FAILED",
		"query($v: Int = $w, $w: Int) { int(v: $v, w: $w) }":   "GRAPHQL_PARSE_FAILED",
		"{ bool @include }":                                    "GRAPHQL_VALIDATION_FAILED",
		"{ bool @include(if: true) @include(if: true) }":       "GRAPHQL_VALIDATION_FAILED",
		"query($v: Query) { bool(v: $v) }":                     "GRAPHQL_VALIDATION_FAILED",
		"query($v: Boolean) { bool @skip(if: $v) }":            "GRAPHQL_VALIDATION_FAILED",
		"query($v: Int) { int(v: $v) self { string(v: $v) } }": "GRAPHQL_VALIDATION_FAILED",
		"query($v: Int!) { list(v: $v) }":                      "GRAPHQL_VALIDATION_FAILED",
		"query($v: Int) { one(v: {a: $v}) }":                   "GRAPHQL_VALIDATION_FAILED",
		"{ " + strings.Repeat("n", 256) + " }":                 "OPERATION_TOO_LARGE",
		"{ bool # " + strings.Repeat("n", 256) + "\n }":        "",
		`{ string(v: "` + strings.Repeat("n", 256) + `") }`:    "",
	} {
		_, list := r.Read(document, "", nil)
		if wrong == "" && list != nil || wrong != "" &&
			(len(list) == 0 || list[0].Extensions["code"] != wrong) {
			t.Errorf("%.80q: %v", document, messages(list))
		}
	}
}
