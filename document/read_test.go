package document_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/document"
	"parley/errs"
)

// letters is a schema with each kind of input.
const letters = `
scalar Even
enum Color { RED GREEN }
input Point { x: Int! y: Int = 7 tags: [String!] color: Color! = RED at: Point }
input One @oneOf { a: Int b: String }
type Query {
  int(v: Int, w: Int! = 3): String
  must(v: Int!): String
  float(v: Float): String
  string(v: String): String
  bool(v: Boolean): String
  id(v: ID): String
  color(v: Color): String
  even(v: Even): String
  list(v: [Int!]): String
  nested(v: [[Int]]): String
  point(v: Point): String
  one(v: One): String
  self: Query
}
type Subscription { tick(n: Int): Query! tock: Query! }
`

func mustReader(t testing.TB, opts document.Options) *document.Reader {
	t.Helper()
	schema, err := gqlparser.LoadSchema(&ast.Source{Input: letters})
	if err != nil {
		t.Fatal(err)
	}
	opts.Scalars = map[string]func(any) error{"Even": func(v any) error {
		n, ok := v.(json.Number)
		if !ok || !strings.ContainsAny(n.String()[len(n)-1:], "02468") {
			return errs.New(errs.BadUserInput, "An Even is an even integer.")
		}
		return nil
	}}
	return document.NewReader(schema, opts)
}

// variablesOf decodes variables as package wire does.
func variablesOf(t testing.TB, text string) (v map[string]any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func messages(list gqlerror.List) (all []string) {
	for _, e := range list {
		all = append(all, fmt.Sprintf("%v %v %s", e.Extensions["code"], e.Locations, e.Message))
	}
	return all
}

type object = map[string]any

// TestCoerce covers sections 3.5, 3.9 to 3.11 and 6.1.2 of the specification.
func TestCoerce(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{Introspection: true})
	for _, c := range []struct {
		typ, json string
		want      any    // the value, or
		wrong     string // the message after "$v"
	}{
		{"Int", `1`, int64(1), ""},
		{"Int", `-0`, int64(0), ""},
		{"Int", `1.0`, int64(1), ""},
		{"Int", `1e0`, int64(1), ""},
		{"Int", `1E+3`, int64(1000), ""},
		{"Int", `1200e-2`, int64(12), ""},
		{"Int", `0e999999999999999999`, int64(0), ""},
		{"Int", `2147483647`, int64(2147483647), ""},
		{"Int", `-2147483648`, int64(-2147483648), ""},
		{"Int", `null`, nil, ""},
		{
			"Int", `2147483648`, nil,
			": expected Int (an integer from -2147483648 to 2147483647), found 2147483648.",
		},
		{
			"Int", `1.5`, nil,
			": expected Int (an integer from -2147483648 to 2147483647), found 1.5.",
		},
		{
			"Int", `1e999999999`, nil,
			": expected Int (an integer from -2147483648 to 2147483647), found 1e999999999.",
		},
		{
			"Int", `1e-99999999999999999999`, nil,
			": expected Int (an integer from -2147483648 to 2147483647), found " +
				"1e-99999999999999999999.",
		},
		{
			"Int", `"1"`, nil,
			`: expected Int (an integer from -2147483648 to 2147483647), found "1".`,
		},
		{
			"Int", `true`, nil,
			": expected Int (an integer from -2147483648 to 2147483647), found true.",
		},
		{
			"Int", `[1]`, nil,
			": expected Int (an integer from -2147483648 to 2147483647), found a list.",
		},
		{
			"Int!", `null`, nil,
			": expected Int! (an integer from -2147483648 to 2147483647), found null.",
		},
		{"Float", `1`, 1.0, ""},
		{"Float", `-2.5e1`, -25.0, ""},
		{"Float", `1e-999999999`, 0.0, ""},
		{"Float", `1e999999999`, nil, ": expected Float (a finite number), found 1e999999999."},
		{"Float", `"1"`, nil, `: expected Float (a finite number), found "1".`},
		{"String", `"é 👋\n"`, "é 👋\n", ""},
		{"String", `1`, nil, ": expected String, found 1."},
		{"String", `{"a": 1}`, nil, ": expected String, found an object."},
		{"Boolean", `false`, false, ""},
		{"Boolean", `0`, nil, ": expected Boolean, found 0."},
		{"Boolean", `"true"`, nil, `: expected Boolean, found "true".`},
		{"ID", `"x"`, "x", ""},
		{"ID", `4`, "4", ""},
		{"ID", `-4`, "-4", ""},
		{"ID", `123456789012345678901234567890`, "123456789012345678901234567890", ""},
		{"ID", `1.5`, nil, ": expected ID (a string or an integer), found 1.5."},
		{"ID", `1e99`, nil, ": expected ID (a string or an integer), found 1e99."},
		{"ID", `true`, nil, ": expected ID (a string or an integer), found true."},
		{"Color", `"RED"`, "RED", ""},
		{"Color", `"red"`, nil, `: expected Color (one of RED, GREEN), found "red".`},
		{"Color", `0`, nil, ": expected Color (one of RED, GREEN), found 0."},
		{"Color", `{}`, nil, ": expected Color (one of RED, GREEN), found an object."},
		{"Even", `2`, json.Number("2"), ""},
		{"Even", `3`, nil, ": expected Even, found 3. An Even is an even integer."},
		{"[Int!]", `[1, 2]`, []any{int64(1), int64(2)}, ""},
		{"[Int!]", `[]`, []any{}, ""},
		{"[Int!]", `1`, []any{int64(1)}, ""},
		{"[Int!]", `null`, nil, ""},
		{
			"[Int!]", `[1, null]`, nil,
			"[1]: expected Int! (an integer from -2147483648 to 2147483647), found null.",
		},
		{
			"[Int!]", `["1"]`, nil,
			`[0]: expected Int! (an integer from -2147483648 to 2147483647), found "1".`,
		},
		{"[[Int]]", `[[1], [2, null]]`, []any{[]any{int64(1)}, []any{int64(2), nil}}, ""},
		{"[[Int]]", `1`, []any{[]any{int64(1)}}, ""},
		{"[[Int]]", `[1, null]`, []any{[]any{int64(1)}, nil}, ""},
		{"Point", `{"x": 1}`, object{"x": int64(1), "y": int64(7), "color": "RED"}, ""},
		{"Point", `{"x": 1, "y": null}`, object{"x": int64(1), "y": nil, "color": "RED"}, ""},
		{
			"Point", `{"x": 1, "tags": "a", "at": {"x": 2, "color": "GREEN"}}`, object{
				"x": int64(1), "y": int64(7), "color": "RED", "tags": []any{"a"},
				"at": object{"x": int64(2), "y": int64(7), "color": "GREEN"},
			}, "",
		},
		{"Point", `[]`, nil, ": expected Point (an object), found a list."},
		{"Point", `"x"`, nil, `: expected Point (an object), found "x".`},
		{"Point", `{}`, nil, ".x: a value of type Int! is required."},
		{
			"Point", `{"x": null}`, nil,
			".x: expected Int! (an integer from -2147483648 to 2147483647), found null.",
		},
		{
			"Point", `{"x": 1, "color": null}`, nil,
			".color: expected Color! (one of RED, GREEN), found null.",
		},
		{
			"Point", `{"x": 1, "tag": 1}`, nil,
			`: Point has no field "tag". Did you mean "tags" or "at"?`,
		},
		{"Point", `{"x": 1, "__typename": "Point"}`, nil, `: Point has no field "__typename".`},
		{
			"Point", `{"x": 1, "at": {"x": 1, "tags": ["a", 1]}}`, nil,
			".at.tags[1]: expected String!, found 1.",
		},
		{"One", `{"a": 1}`, object{"a": int64(1)}, ""},
		{"One", `{"a": null}`, nil, ": One has exactly one field, and that is not null."},
		{"One", `{}`, nil, ": One has exactly one field, and that is not null."},
		{"One", `{"a": 1, "b": "x"}`, nil, ": One has exactly one field, and that is not null."},
	} {
		field := map[string]string{"[Int!]": "list", "[[Int]]": "nested", "Int!": "must"}[c.typ]
		if field == "" {
			field = strings.ToLower(strings.Trim(c.typ, "!"))
			field = strings.NewReplacer("boolean", "bool").Replace(field)
		}
		query := fmt.Sprintf("query(\n  $v: %s) { %s(v: $v) }", c.typ, field)
		given := variablesOf(t, `{"v": `+c.json+`, "unknown": {}}`)
		request, list := r.Read(query, "", given)
		if diff := cmp.Diff(variablesOf(t, `{"v": `+c.json+`, "unknown": {}}`), given); diff != "" {
			t.Errorf("%s %s: what was given has changed: %s", c.typ, c.json, diff)
		}
		if c.wrong != "" {
			want := []string{"BAD_USER_INPUT [2:3] $v" + c.wrong}
			if diff := cmp.Diff(want, messages(list)); diff != "" {
				t.Errorf("%s %s: %s", c.typ, c.json, diff)
			}
			continue
		}
		if diff := cmp.Diff(object{"v": c.want}, request.Variables); diff != "" || list != nil {
			t.Errorf("%s %s: %s %v", c.typ, c.json, diff, list)
		}
	}
}

// TestAbsentVariables covers variables that are not given, or are null where that is not allowed
// (sections 5.8.5, 6.1.2 and 6.4.1).
func TestAbsentVariables(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{})
	const expected = "expected Int! (an integer from -2147483648 to 2147483647), found null."
	for _, c := range []struct {
		query, json string
		want        object
		wrong       []string
	}{
		{`query($v: Int) { int(v: $v) }`, `{}`, object{}, nil},
		{`query($v: Int = 5) { must(v: $v) }`, `{}`, object{"v": int64(5)}, nil},
		{
			`query($v: Int!) { must(v: $v) }`, `{}`, nil,
			[]string{"BAD_USER_INPUT [1:7] $v: a value of type Int! is required."},
		},
		{
			`query($v: Int = 5) { must(v: $v) }`, `{"v": null}`, nil,
			[]string{"BAD_USER_INPUT [1:7] $v: " + expected},
		},
		{`query($v: Int) { int(w: $v) }`, `{}`, object{}, nil},
		{
			`query($v: Int) { int(w: $v) }`, `{"v": null}`, nil,
			[]string{"BAD_USER_INPUT [1:7] $v: " + expected},
		},
		{
			`query($v: Int = 5) { point(v: {x: $v}) }`, `{"v": null}`, nil,
			[]string{"BAD_USER_INPUT [1:7] $v: " + expected},
		},
		{
			`query($v: Int = 5) { list(v: [1, $v]) }`, `{"v": null}`, nil,
			[]string{"BAD_USER_INPUT [1:7] $v: " + expected},
		},
		{
			`query($v: Int = 5) { ...F self { ...F } } fragment F on Query { self { must(v: $v) a: must(v: $v) } }`, `{"v": null}`,
			nil,
			[]string{"BAD_USER_INPUT [1:7] $v: " + expected},
		},
		{
			`query($v: Boolean = true) { self @include(if: $v) { bool } }`, `{"v": null}`, nil,
			[]string{"BAD_USER_INPUT [1:7] $v: expected Boolean!, found null."},
		},
		{`query($v: Point = {x: 1, tags: "a"}) { point(v: $v) }`, `{}`, object{
			"v": object{"x": int64(1), "y": int64(7), "color": "RED", "tags": []any{"a"}},
		}, nil},
		{`query($v: [ID] = 5) { id(v: "x") list(v: [1]) a: __typename @skip(if: false) ...F } fragment F on Query { one(v: {a: 1}) }`, `{}`, nil, []string{
			`GRAPHQL_VALIDATION_FAILED [1:7] Variable "$v" is never used.`,
		}},
	} {
		request, list := r.Read(c.query, "", variablesOf(t, c.json))
		if diff := cmp.Diff(c.wrong, messages(list)); diff != "" {
			t.Errorf("%s %s: %s", c.query, c.json, diff)
		}
		if diff := cmp.Diff(c.want, object(request.Variables)); diff != "" && c.wrong == nil {
			t.Errorf("%s %s: %s", c.query, c.json, diff)
		}
	}
}

// A fragment that two operations share uses the variables of the one that runs.
func TestDefaultsOfAnotherOperation(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{})
	request, list := r.Read(
		`query A($v: Int) { ...F } query B($v: Int = 5) { ...F } fragment F on Query { point(v: {x: 1, y: $v}) }`, "A", nil)
	if list != nil {
		t.Fatal(list)
	}
	field := request.Document.Fragments[0].SelectionSet[0].(*ast.Field)
	want := object{"v": object{"x": int64(1)}}
	if diff := cmp.Diff(want, object(field.ArgumentMap(request.Variables))); diff != "" {
		t.Error(diff)
	}
}

// TestLiterals covers section 5.6.1.
func TestLiterals(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{})
	const anInt = " (an integer from -2147483648 to 2147483647)"
	for _, c := range []struct{ field, wrong string }{
		{`int(v: 2147483647)`, ""},
		{`int(v: -0)`, ""},
		{`int(v: null)`, ""},
		{`int(v: 2147483648)`, "[1:10] v: expected Int" + anInt + ", found 2147483648."},
		{`int(v: 99999999999)`, "[1:10] v: expected Int" + anInt + ", found 99999999999."},
		{`int(v: 1.0)`, "[1:10] v: expected Int" + anInt + ", found 1.0."},
		{`int(v: "1")`, `[1:10] v: expected Int` + anInt + `, found "1".`},
		{`int(v: RED)`, "[1:10] v: expected Int" + anInt + ", found RED."},
		{`int(v: {})`, "[1:10] v: expected Int" + anInt + ", found an object."},
		{`int(v: [1])`, "[1:10] v: expected Int" + anInt + ", found a list."},
		{`must(v: null)`, "[1:11] v: expected Int!" + anInt + ", found null."},
		{`float(v: 1)`, ""},
		{`float(v: 1e400)`, "[1:12] v: expected Float (a finite number), found 1e400."},
		{`string(v: {})`, "[1:13] v: expected String, found an object."},
		{`string(v: 1)`, "[1:13] v: expected String, found 1."},
		{`id(v: 123456789012345678901234567890)`, ""},
		{`id(v: 1.5)`, "[1:9] v: expected ID (a string or an integer), found 1.5."},
		{`bool(v: "true")`, `[1:11] v: expected Boolean, found "true".`},
		{`color(v: RED)`, ""},
		{`color(v: red)`, "[1:12] v: expected Color, found red."},
		{`color(v: "RED")`, `[1:12] v: expected Color, found "RED".`},
		{`color(v: {})`, "[1:12] v: expected Color, found an object."},
		{`even(v: 2)`, ""},
		{`even(v: 3)`, "[1:11] v: expected Even, found 3. An Even is an even integer."},
		{`even(v: RED)`, "[1:11] v: expected Even, found RED."},
		{`list(v: 1)`, ""},
		{`list(v: [1, "2"])`, `[1:15] v[1]: expected Int!` + anInt + `, found "2".`},
		{`list(v: {})`, "[1:11] v: expected Int!" + anInt + ", found an object."},
		{`nested(v: [[1], 2])`, ""},
		{`point(v: {x: 1})`, ""},
		{`point(v: {x: 1, at: {x: "1"}})`, `[1:27] v.at.x: expected Int!` + anInt + `, found "1".`},
		{`point(v: {y: 1})`, "[1:12] v.x: a value of type Int! is required."},
		{`point(v: {x: 1, tag: 1})`, `[1:19] v: Point has no field "tag".`},
		{`one(v: {a: 1})`, ""},
		{`one(v: {a: null})`, "[1:10] v: One has exactly one field, and that is not null."},
		{`one(v: {a: 1, b: "x"})`, "[1:10] v: One has exactly one field, and that is not null."},
		{`self @skip(if: 1) { bool }`, "[1:18] if: expected Boolean!, found 1."},
	} {
		_, list := r.Read("{ "+c.field+" }", "", nil)
		var want []string
		if c.wrong != "" {
			want = []string{"GRAPHQL_VALIDATION_FAILED " + c.wrong}
		}
		if diff := cmp.Diff(want, messages(list)); diff != "" {
			t.Errorf("%s: %s", c.field, diff)
		}
	}
	// The location of a value of several lines is its first line.
	_, list := r.Read(
		"{ bool # é\r\n  string(v: \"\"\"\r\n\"\"\") int(v: \"\"\"é\r\n\"\"\", w: \"1\") }", "",
		nil)
	want := []string{
		`GRAPHQL_VALIDATION_FAILED [3:13] v: expected Int` + anInt + `, found "é".`,
		`GRAPHQL_VALIDATION_FAILED [4:9] w: expected Int!` + anInt + `, found "1".`,
	}
	if diff := cmp.Diff(want, messages(list)); diff != "" {
		t.Error(diff)
	}
	// An error in a fragment is reported once, however many operations use the fragment.
	_, list = r.Read(`query A { ...F } query B { ...F } fragment F on Query { int(v: "1") }`, "A",
		nil)
	if len(list) != 1 {
		t.Errorf("got %v", messages(list))
	}
	_, list = r.Read(`query($v: Int = "1") { int(v: $v) }`, "", nil)
	want = []string{`GRAPHQL_VALIDATION_FAILED [1:17] $v: expected Int` + anInt + `, found "1".`}
	if diff := cmp.Diff(want, messages(list)); diff != "" {
		t.Error(diff)
	}
}

// TestSubscriptionRoot covers section 5.2.3.1.
func TestSubscriptionRoot(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{})
	for query, wrong := range map[string]string{
		`subscription { tick { bool } }`:                                                                                          "",
		`subscription { a: tick { bool } a: tick { int } }`:                                                                       "",
		`subscription { ...F ...F } fragment F on Subscription { tick { bool } }`:                                                 "",
		`subscription { tick { bool @skip(if: true) } }`:                                                                          "",
		`subscription { tick { bool } tock { bool } }`:                                                                            `[1:30] A subscription has one root field: subscribe to "tock" in an operation of its own.`,
		`subscription { a: tick { bool } b: tick { bool } }`:                                                                      `[1:33] A subscription has one root field: subscribe to "b" in an operation of its own.`,
		`subscription { tick { bool } ...F } fragment F on Subscription { b: tick { bool } }`:                                     `[1:66] A subscription has one root field: subscribe to "b" in an operation of its own.`,
		`subscription { tick { bool } __typename }`:                                                                               `[1:30] The root field of a subscription cannot be __typename.`,
		`subscription { tick @skip(if: false) { bool } }`:                                                                         `[1:22] The root field of a subscription cannot have @skip.`,
		`subscription($v: Boolean!) { ... @include(if: $v) { tick { bool } } }`:                                                   `[1:35] The root field of a subscription cannot have @include.`,
		`subscription { ...F @skip(if: true) } fragment F on Subscription { tick { bool } }`:                                      `[1:22] The root field of a subscription cannot have @skip.`,
		`subscription { ...F } fragment F on Subscription { tick @include(if: true) { bool } }`:                                   `[1:58] The root field of a subscription cannot have @include.`,
		`subscription { ...F } fragment F on Subscription { ...G } fragment G on Subscription { tick { bool } b: tick { bool } }`: `[1:102] A subscription has one root field: subscribe to "b" in an operation of its own.`,
	} {
		_, list := r.Read(query, "", object{"v": true})
		var want []string
		if wrong != "" {
			want = []string{"GRAPHQL_VALIDATION_FAILED " + wrong}
		}
		if diff := cmp.Diff(want, messages(list)); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
}

// TestOperationName covers choosing an operation (section 6.1).
func TestOperationName(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{})
	const two = `query A { bool } query B { bool }`
	for _, c := range []struct{ document, name, wrong string }{
		{`{ bool }`, "", ""},
		{`query A { bool }`, "", ""},
		{`query A { bool }`, "A", ""},
		{two, "B", ""},
		{
			two, "",
			"GRAPHQL_VALIDATION_FAILED [] The document has 2 operations: name the one to run in " +
				"operationName.",
		},
		{two, "C", `GRAPHQL_VALIDATION_FAILED [] The document has no operation named "C".`},
		{`{ bool }`, "A", `GRAPHQL_VALIDATION_FAILED [] The document has no operation named "A".`},
		{
			two, strings.Repeat("é", 250_000),
			`GRAPHQL_VALIDATION_FAILED [] The document has no operation named "` +
				strings.Repeat("é", 100) + `…".`,
		},
	} {
		_, list := r.Read(c.document, c.name, nil)
		if got := strings.Join(messages(list), "\n"); got != c.wrong {
			t.Errorf("%s %.10s: %s", c.document, c.name, got)
		}
	}
}

// TestMessagesAreShort sends names and values as long as a request. A message shows about 100
// characters of each.
func TestMessagesAreShort(t *testing.T) {
	t.Parallel()
	const long = 200_000
	name, text := strings.Repeat("n", long), strings.Repeat("é ", long/2)
	for _, introspection := range []bool{true, false} {
		r := mustReader(t, document.Options{Introspection: introspection})
		for what, c := range map[string]struct {
			document  string
			variables object
		}{
			"a field":     {"{ " + name + " }", nil},
			"a name":      {"{ " + name[:250] + " }", nil},
			"an argument": {"{ int(" + name[:250] + ": 1) }", nil},
			"a type":      {"query($v: " + name[:250] + ") { int(v: $v) }", nil},
			"a list type": {"query($v: " + strings.Repeat("[", 900) + "Int" +
				strings.Repeat("]", 900) + ") { int(v: $v) }", nil},
			"a directive":     {"{ bool @" + name[:250] + " }", nil},
			"a string":        {`{ int(v: "` + text + `") }`, nil},
			"a string there":  {`{ "` + text + `" }`, nil},
			"a number":        {"{ string(v: " + strings.Repeat("1", long) + ") }", nil},
			"a large integer": {"{ int(v: " + strings.Repeat("1", long) + ") }", nil},
			"an enum":         {"{ color(v: " + name[:250] + ") }", nil},
			"an input field":  {"{ point(v: {x: 1, " + name[:250] + ": 1}) }", nil},
			"a variable":      {"query($v: Int) { int(v: $v) }", object{"v": text}},
			"digits": {
				"query($v: Int) { int(v: $v) }",
				object{"v": json.Number(strings.Repeat("1", long))},
			},
			"a key": {
				"query($v: Point) { point(v: $v) }",
				object{"v": object{"x": json.Number("1"), name: 1}},
			},
			"many of a list": {
				"query($v: [Int!]) { list(v: $v) }",
				object{"v": make([]any, long)},
			},
			"a scalar":         {"query($v: Even) { even(v: $v) }", object{"v": text}},
			"a scalar literal": {`{ even(v: "` + text + `") }`, nil},
			"spaces":           {`{ "` + strings.Repeat(" ", long) + `" }`, nil},
		} {
			_, list := r.Read(c.document, "", c.variables)
			if len(list) == 0 || len(list) > 21 {
				t.Errorf("%s: %d errors", what, len(list))
			}
			for _, e := range list {
				if len(e.Message) > 600 {
					t.Errorf("%s: %d bytes: %.200s", what, len(e.Message), e.Message)
				}
			}
		}
	}
}

// Without introspection, no message has a name of the schema that the client did not send.
func TestNothingIsSuggested(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{})
	for _, query := range []string{
		`{ nestd }`, `{ self { colr } }`, `{ int(vv: 1) }`, `{ color(v: GREN) }`,
		`{ color(v: "GREEN") }`, `{ point(v: {x: 1, tag: 1}) }`,
		`{ ...F } fragment F on Qery { bool }`, `{ ... on Subscriptio { bool } }`,
		`query($v: Pointt) { point(v: $v) }`, `{ self }`,
		`{ bool @skipp(if: true) }`, `{ bool @skip(iff: true, if: true) }`,
		`query($v: Color) { color(v: $v) }`,
		`{ __schema { types { name } } }`, `{ __type(name: "Point") { name } }`,
	} {
		_, list := r.Read(query, "", object{"v": "GREN"})
		if len(list) == 0 {
			t.Errorf("%s: it is right", query)
		}
		for _, e := range list {
			for _, secret := range []string{"Did you mean", "nested", "tags", "one of"} {
				if strings.Contains(e.Message, secret) {
					t.Errorf("%s: %s", query, e.Message)
				}
			}
		}
	}
	if _, list := r.Read(`{ __typename self { __typename } }`, "", nil); list != nil {
		t.Error(list)
	}
}
