package document_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/document"
)

// repeat writes a text n times, with its number in place of each %d.
func repeat(n int, text string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.ReplaceAll(text, "%d", fmt.Sprint(i)))
	}
	return b.String()
}

// chained returns fragments that each spread the next one.
func chained(n int) string {
	var b strings.Builder
	b.WriteString("{ viewer { user { ...F0 } } }")
	for i := range n {
		fmt.Fprintf(&b, " fragment F%d on User { id ...F%d }", i, i+1)
	}
	fmt.Fprintf(&b, " fragment F%d on User { id }", n)
	return b.String()
}

// Documents that cost much more than their length are refused before they are validated, and
// validation ends after a few errors.
func TestExpensiveDocuments(t *testing.T) {
	t.Parallel()
	r := mustRead(t, open())
	all := func(n int) (spreads string) { return repeat(n, " ...F%d") }
	for name, c := range map[string]struct {
		text  string
		want  string // the code of the first error, "" for none
		count int    // of errors
	}{
		"many aliases": {
			"{" + repeat(820, " a:a%d") + "}",
			"OPERATION_TOO_LARGE", 1,
		},
		"one field, many times": {
			"{" + repeat(2400, " x") + "}",
			"GRAPHQL_VALIDATION_FAILED", 21,
		},
		"a field with arguments": {"{" +
			repeat(400, " viewer(a%d: 1) { user { id } }") + "}", "OPERATION_TOO_LARGE", 1},
		"fewer of them": {"{" +
			repeat(200, " viewer(a%d: 1) { user { id } }") + "}", "GRAPHQL_VALIDATION_FAILED", 21},
		"many directives": {
			"{ viewer" + repeat(1200, " @a") + " { email } }",
			"GRAPHQL_VALIDATION_FAILED", 21,
		},
		"the same field, rightly": {
			"{" + repeat(400, " viewer { user { id } }") + "}",
			"OPERATION_TOO_LARGE", 1,
		},
		"fewer, rightly": {
			"{" + repeat(300, " viewer { user { id } }") + "}",
			"", 0,
		},
		"fragments that reach all that follow": {chained(230), "OPERATION_TOO_LARGE", 1},
		"some of them":                         {chained(100), "", 0},
		"a large frontend's document": {
			"{ viewer { user {" + all(60) + " } } }" +
				repeat(60, " fragment F%d on User { id nickname displayName about }"),
			"", 0,
		},
		"many operations": {
			repeat(60, "query Q%d { viewer { user {"+all(10)+" } } } ") + repeat(10,
				" fragment F%d on User { id nickname }"), "", 0,
		},
	} {
		_, list := r.Validate(c.text)
		code := ""
		if list != nil {
			code, _ = list[0].Extensions["code"].(string)
		}
		if code != c.want || len(list) != c.count {
			t.Errorf("%s: %d errors, the first %v", name, len(list), list)
		}
	}
}

// Errors repeat only a part of a long name or value, and there are only a few errors.
func TestErrorsAreShort(t *testing.T) {
	t.Parallel()
	r := mustRead(t, open())
	long := strings.Repeat("x", 100_000)
	for name, text := range map[string]string{
		"a field":     "{ " + long + " }",
		"an argument": "{ viewer(" + long + ": 1) { email } }",
		"a variable": repeat(30, "query Q%d { ...F } ") +
			"fragment F on Query { users(search: $" + long + ") { nodes { id } } }",
		"a type":      "query ($a: " + long + ") { viewer { email } }",
		"a fragment":  "{ ..." + long + " }",
		"a directive": "{ viewer @" + long + " { email } }",
		"an enum value": "mutation { changeMemberRole(input: {role: " + long +
			"}) { userErrors { code } } }",
		"an input field": "mutation { changeMemberRole(input: {" + long +
			": 1}) { userErrors { code } } }",
		"a value": `{ viewer(a: "` + long + `") { email } users(first: "` + long +
			`") { nodes { id } } }`,
		"an operation": "query " + long + " { viewer { email } } query " + long +
			" { viewer { email } }",
		"a keyword":          long + " { viewer { email } }",
		"a name, unfinished": "{ viewer { " + long,
	} {
		_, list := r.Read(text, "", nil)
		total := 0
		for _, err := range list {
			total += len(err.Message)
		}
		if list == nil || total > 20<<10 {
			t.Errorf("%s: %d errors of %d bytes", name, len(list), total)
		}
	}
	if _, list := r.Read("query A { viewer { email } }", long, nil); len(list) != 1 ||
		len(list[0].Message) > 1000 {
		t.Errorf("an operation's name: %d errors", len(list))
	}
}

func TestChoosingAnOperation(t *testing.T) {
	t.Parallel()
	r := mustRead(t, open())
	const two = "query A { viewer { email } } query B { __typename }"
	for name, c := range map[string]struct {
		text, operation string
		want            string
	}{
		"the only one":          {"query A { __typename }", "", "A"},
		"by its name":           {two, "B", "B"},
		"which of the two?":     {two, "", ""},
		"none of that name":     {two, "C", ""},
		"it has no name":        {"{ __typename }", "A", ""},
		"nothing but fragments": {"fragment F on Query { __typename }", "", ""},
		"an empty document":     {"", "", ""},
	} {
		request, list := r.Read(c.text, c.operation, nil)
		switch {
		case c.want == "" && (len(list) != 1 ||
			list[0].Extensions["code"] != "GRAPHQL_VALIDATION_FAILED"):
			t.Errorf("%s: %v", name, list)
		case c.want != "" && (list != nil || request.Operation.Name != c.want):
			t.Errorf("%s: %v", name, list)
		}
	}
}

// A valid document is parsed once, an invalid one each time.
func TestValidDocumentsAreCached(t *testing.T) {
	t.Parallel()
	r := mustRead(t, open())
	const text = "query ($n: Int) { users(first: $n) { nodes { id } } }"
	first, list := r.Validate(text)
	again, _ := r.Validate(text)
	if list != nil || first != again {
		t.Errorf("parsed again: %v", list)
	}
	many := "{" + repeat(600, " __typename") + " }"
	a, _ := r.Validate(many)
	if b, _ := r.Validate(many); a == nil || a == b {
		t.Error("a large document is cached")
	}
}

// Documents that are too long or nested too deep are refused before they are parsed.
func TestDocumentsThatAreTooLarge(t *testing.T) {
	t.Parallel()
	r := mustRead(t, open())
	const tokens, nested = "The document has more than 2500 tokens, comments included.",
		"The document is nested more than 1000 deep."
	deep := func(n int, open, end string) string {
		return strings.Repeat(open, n) + " x " +
			strings.Repeat(end, n)
	}
	for name, c := range map[string]struct{ text, wrong string }{
		"as many tokens as may be": {"{" + repeat(2498, " __typename") + " }", ""},
		"one more":                 {"{" + repeat(2499, " __typename") + " }", tokens},
		"strings": {"{ nodes(ids: [" + strings.Repeat(` "{[" """[{"""`, 1245) +
			" ]) { id } }", tokens},
		"comments":       {"{ __typename" + repeat(2498, " # {\n") + "}", tokens},
		"fewer comments": {"{ __typename" + repeat(2497, " # {\n") + "}", ""},
		"what is between tokens": {
			"\ufeff{ __typename" + strings.Repeat(" ,\t\r\n", 3000) + "}",
			"",
		},
		"spreads":           {"{" + repeat(1250, "...F ") + "} fragment", tokens},
		"nested selections": {deep(1001, "{ a", "}"), nested},
		"nested lists":      {"{ nodes(ids: " + deep(1000, "[", "]") + ") { id } }", nested},
		"nested objects": {
			"{ users(search: " + deep(500, "{a:[", "]}") + ") { nodes { id } } }",
			nested,
		},
		"list types": {"query ($v: " + deep(1001, "[", "]") + ") { __typename }", nested},
	} {
		_, list := r.Validate(c.text)
		switch {
		case c.wrong == "" && list != nil:
			t.Errorf("%s: %v", name, list)
		case c.wrong != "" && (len(list) != 1 || list[0].Message != c.wrong ||
			list[0].Extensions["code"] != "OPERATION_TOO_LARGE" ||
			len(list[0].Locations) != 1):
			t.Errorf("%s: %v, want %s", name, list, c.wrong)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := mustRead(t, document.Options{Limits: document.Limits{
		Depth: 4, Aliases: 2, Complexity: 100,
		Tokens: 100,
	}})
	for text, want := range map[string][]string{
		"{ viewer { user { id } } }": nil,
		"{ viewer { user { presence { user { id } } } } }": {
			"OPERATION_TOO_LARGE",
		},
		"{ a: __typename b: __typename }": nil,
		"{ a: __typename b: __typename c: __typename }": {
			"OPERATION_TOO_LARGE",
		},
		"{ users(first: 40) { nodes { id } } }": nil,
		"{ users(first: 60) { nodes { id nickname } } }": {
			"OPERATION_TOO_LARGE",
		},
		"query ($n: Int = 60) { users(first: $n) { nodes { id nickname } } }": {
			"OPERATION_TOO_LARGE",
		},
		"{" + repeat(50, " __typename") + "}": nil,
		"{" + repeat(100, " __typename") +
			"}": {"OPERATION_TOO_LARGE"},
	} {
		_, list := r.Read(text, "", nil)
		if diff := cmp.Diff(want, codesOf(list)); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}
