package document_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator/rules"
	"pgregory.net/rapid"

	"parley/document"
)

const animals = `
type Query { animal: Animal pets: [Pet!]! dog: Dog cat: Cat either: DogOrCat }
interface Animal { name: String! legs(of: Side, not: [Side!], at: Place): Int friend: Animal }
interface Pet implements Animal { name: String! legs(of: Side, not: [Side!], at: Place): Int
friend: Animal owner: String }
type Dog implements Animal & Pet {
  name: String! legs(of: Side, not: [Side!], at: Place): Int friend: Animal! owner: String barks:
  Boolean! likes: Cat
}
type Cat implements Animal & Pet {
  name: String! legs(of: Side, not: [Side!], at: Place): Int friend: Animal owner: String purrs:
  Boolean likes: Dog
}
union DogOrCat = Dog | Cat
enum Side { LEFT RIGHT }
input Place { x: Int y: Int }`

func TestFieldsThatAreMerged(t *testing.T) {
	t.Parallel()
	r := document.NewReader(mustLoad(t, animals), document.Options{})
	for name, c := range map[string]struct{ text, says string }{
		"the same": {
			`{ dog { name name ...N ... on Dog { name } } } fragment N on Dog { name }`,
			"",
		},
		"different fields": {
			`{ dog { a: name a: owner } }`,
			`"name" and "owner" are different fields`,
		},
		"different fields by a fragment": {`{ dog { a: name ...O } } fragment O on Dog { a: owner }`, "different fields"},
		"different arguments": {
			`{ dog { legs(of: LEFT) legs(of: RIGHT) } }`,
			"they have differing arguments",
		},
		"with and without arguments": {
			`{ dog { legs legs(of: RIGHT) } }`,
			"they have differing arguments",
		},
		"the same objects":                 {`{ dog { legs(at: {x: 1, y: 2}) legs(at: {y: 2, x: 1}) } }`, ""},
		"different objects":                {`{ dog { legs(at: {x: 1, y: 2}) legs(at: {y: 1, x: 2}) } }`, "differing arguments"},
		"different lists":                  {`{ dog { legs(not: [LEFT, RIGHT]) legs(not: [RIGHT, LEFT]) } }`, "differing arguments"},
		"below":                            {`{ dog { friend { a: name } } dog { friend { a: legs } } }`, "different fields"},
		"objects that never meet":          {`{ animal { ... on Dog { a: name } ... on Cat { a: name } } }`, ""},
		"with other fields":                {`{ animal { ... on Dog { a: legs(of: LEFT) } ... on Cat { a: legs } } }`, ""},
		"with other shapes":                {`{ animal { ... on Dog { a: name } ... on Cat { a: owner } } }`, `conflicting types "String!" and "String"`},
		"shapes below":                     {`{ either { ... on Dog { likes { a: purrs } } ... on Cat { likes { a: barks } } } }`, "conflicting types"},
		"an interface meets all":           {`{ animal { ... on Dog { a: name } ... on Animal { a: legs } } }`, "different fields"},
		"two objects through interfaces":   {`{ animal { ... on Pet { a: name } ... on Animal { a: friend { name } } } }`, "different fields"},
		"narrower than the interface":      {`{ animal { a: friend { name } ... on Dog { a: friend { name } } } }`, `conflicting types "Animal" and "Animal!"`},
		"a leaf and an object":             {`{ either { ... on Dog { a: likes { name } } ... on Cat { a: owner } } }`, "conflicting types"},
		"fragments that spread each other": {`{ dog { ...A } } fragment A on Dog { name ...B } fragment B on Dog { a: name friend { ...C } } fragment C on Animal { a: name friend { ...D } } fragment D on Animal { a: name }`, ""},
	} {
		_, list := r.Validate(c.text)
		switch {
		case c.says == "" && list != nil:
			t.Errorf("%s: %v", name, list)
		case c.says != "" && (len(list) == 0 || !strings.Contains(list[0].Message, c.says)):
			t.Errorf("%s: %v", name, list)
		}
	}
}

// TestMergingAgreesWithPairs compares the rule with gqlparser's, which compares all pairs, on
// random documents.
func TestMergingAgreesWithPairs(t *testing.T) {
	t.Parallel()
	schema := mustLoad(t, animals)
	r := document.NewReader(schema, document.Options{Limits: document.Limits{Aliases: 1000}})
	pairs := rules.NewRules(rules.OverlappingFieldsCanBeMergedRule)
	rapid.Check(t, func(t *rapid.T) {
		text := anyDocument(t, schema)
		_, want := gqlparser.LoadQueryWithRules(schema, text, pairs)
		_, got := r.Validate(text)
		for _, err := range got {
			if !strings.Contains(err.Message, "conflict because") {
				t.Skip("not valid for another reason: ", err)
			}
		}
		if (got != nil) != (want != nil) {
			t.Fatalf("%s\nby sets:  %v\nby pairs: %v", text, got, want)
		}
	})
}

// anyDocument draws a document that is valid except for fields that conflict.
func anyDocument(t *rapid.T, schema *ast.Schema) string {
	fragments := rapid.IntRange(0, 4).Draw(t, "fragments")
	var selections func(on *ast.Definition, depth, after int) string
	selections = func(on *ast.Definition, depth, after int) string {
		var b strings.Builder
		b.WriteString("{ __typename")
		for range rapid.IntRange(1, 4).Draw(t, "selections") {
			switch kind := rapid.IntRange(0, 5).Draw(t, "kind"); {
			case kind == 0 && after < fragments && on.Name != "Query":
				fmt.Fprintf(&b, " ...F%d", rapid.IntRange(after, fragments-1).Draw(t, "spread"))
			case kind == 1 && depth > 0 && on.Name != "Query":
				to := schema.Types[rapid.SampledFrom([]string{"Animal", "Pet", "Dog", "Cat"}).
					Draw(t, "on")]
				fmt.Fprintf(&b, " ... on %s %s", to.Name, selections(to, depth-1, after))
			case len(on.Fields) > 0:
				f := rapid.SampledFrom(on.Fields).Draw(t, "field")
				if strings.HasPrefix(f.Name, "__") {
					continue
				}
				below := schema.Types[f.Type.Name()]
				if below.IsCompositeType() && depth == 0 {
					continue
				}
				b.WriteString(rapid.SampledFrom([]string{" ", " ", " a: ", " b: "}).
					Draw(t, "alias") + f.Name)
				if f.Name == "legs" {
					b.WriteString(rapid.SampledFrom([]string{
						"", "(of: LEFT)", "(of: RIGHT)",
						"(at: {x: 1, y: 2})", "(at: {y: 2, x: 1})",
					}).
						Draw(t, "arguments"))
				}
				if below.IsCompositeType() {
					b.WriteString(" " + selections(below, depth-1, after))
				}
			}
		}
		return b.String() + " }"
	}
	var b strings.Builder
	b.WriteString("{ animal {" + repeat(fragments, " ...F%d") + " __typename } ... on Query " +
		selections(schema.Query, 4, 0) + " }")
	for i := range fragments {
		on := schema.Types[rapid.SampledFrom([]string{"Animal", "Pet", "Dog", "Cat"}).
			Draw(t, "fragment on")]
		fmt.Fprintf(&b, " fragment F%d on %s %s", i, on.Name, selections(on, 2, i+1))
	}
	return b.String()
}
