package document_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/document"
)

// fullIntrospection queries all of a schema, as tools do with every option on. It unwraps types as
// deep as graphql-js does.
func fullIntrospection() string {
	unwrap := "kind name"
	for range 9 {
		unwrap = "kind name ofType { " + unwrap + " }"
	}
	return `query Everything {
		__schema {
			description
			queryType { name kind }
			mutationType { name kind }
			subscriptionType { name kind }
			types { ...Whole }
			directives { name description isRepeatable locations args(includeDeprecated: true) {
			...Input } }
		}
	}
	fragment Whole on __Type {
		kind name description specifiedByURL isOneOf
		fields(includeDeprecated: true) {
			name description args(includeDeprecated: true) { ...Input } type { ...Unwrapped }
			isDeprecated deprecationReason
		}
		inputFields(includeDeprecated: true) { ...Input }
		interfaces { ...Unwrapped }
		enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason }
		possibleTypes { ...Unwrapped }
	}
	fragment Input on __InputValue {
		name description type { ...Unwrapped } defaultValue isDeprecated deprecationReason
	}
	fragment Unwrapped on __Type { ` + unwrap + ` }`
}

// The queries of tools are accepted. Nested lists that multiply are refused, however they are
// written.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	r := mustRead(t, open())
	var further strings.Builder
	for i := range 8 {
		fmt.Fprintf(&further,
			" fragment F%d on __Type { fields { type { ...F%d ofType { ...F%d } } } }", i, i+1, i+1)
	}
	further.WriteString(" fragment F8 on __Type { name }")
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"everything, as tools ask": {fullIntrospection(), nil},
		"one type":                 {`{ __type(name: "Message") { name fields { name type { name kind } } } }`, nil},
		"no such type":             {`{ __type(name: "Nothing") { name } }`, nil},
		"twice everything": {
			strings.Replace(fullIntrospection(), "types { ...Whole }",
				"types { ...Whole } again: types { ...Whole }", 1), nil,
		},
		"types of fields, nested": {
			`{ __type(name: "Viewer") { fields { type { fields { type { fields { name } } } } } } }`, nil,
		},
		"types of fields, nested further": {
			"{ __schema { types { ...F0 } } }" + further.String(),
			[]string{"OPERATION_TOO_LARGE"},
		},
		"a name, wrapped": {
			"{ __schema { types { fields {" + strings.Repeat(" ... {", 400) + " name " +
				strings.Repeat("}", 400) + " } } } }",
			[]string{"OPERATION_TOO_LARGE"},
		},
		"many times": {
			strings.Replace(fullIntrospection(), "types { ...Whole }", "types { ...Whole } "+
				"a: types { ...Whole } b: types { ...Whole } c: types { ...Whole } d: types { "+
				"...Whole }", 1),
			[]string{"OPERATION_TOO_LARGE"},
		},
		"many times at the root": {
			`{ a: __schema { ...S } b: __schema { ...S } c: __schema { ...S } d: __schema { ...S } e: __schema { ...S } }
			fragment S on __Schema { a: types { ...T } b: types { ...T } c: types { ...T } d: types
			{ ...T } }
			fragment T on __Type { a: fields { ...F } b: fields { ...F } c: fields { ...F } }
			fragment F on __Field { a: type { name } b: type { name } c: type { name } args { name type { name } } }`,
			[]string{"OPERATION_TOO_LARGE"},
		},
		"fields of fields, by fragments": {
			"{ __schema { types { ...T } } } fragment T on __Type {" +
				repeat(14, " a%d: fields { ...F }") +
				" } fragment F on __Field { type { ...U } } fragment U on __Type { name ofType { " +
				"name ofType { name fields { name } } } }",
			[]string{"OPERATION_TOO_LARGE"},
		},
	} {
		_, list := r.Read(c.text, "", nil)
		if diff := cmp.Diff(c.want, codesOf(list)); diff != "" {
			t.Errorf("%s: %s %v", name, diff, list)
		}
	}
}

func TestWithoutIntrospection(t *testing.T) {
	t.Parallel()
	r := mustRead(t, document.Options{})
	_, list := r.Read(`{ __schema { types { name } } }`, "", nil)
	if len(list) != 1 || !strings.Contains(list[0].Message, "introspection is off") {
		t.Errorf("refused with %v", list)
	}
	if _, list := r.Read(`{ __typename viewer { __typename } }`, "", nil); list != nil {
		t.Errorf("the name of a type of an answer: %v", list)
	}
	for _, text := range []string{
		`{ viewe { email } }`,                    // a field
		`{ viewer }`,                             // one that needs a selection
		`{ users(serch: "x") { nodes { id } } }`, // an argument
		`query ($x: Strin) { users(search: $x) { nodes { id } } }`, // a type
		`{ node(id: "x") { ... on Mesage { id } } }`,               // one of a fragment
		`mutation { changeMemberRole(input: {conversationId: "c", userId: "u", role: ADMINN}) { userErrors { code } } }`,
		`mutation { changeMemberRole(input: {conversationI: "c", userId: "u", role: ADMIN}) { userErrors { code } } }`,
	} {
		_, list := r.Read(text, "", nil)
		if list == nil {
			t.Errorf("%s: not refused", text)
		}
		for _, err := range list {
			if strings.Contains(err.Message, "id you mean") {
				t.Errorf("%s: %s", text, err.Message)
			}
		}
	}
}
