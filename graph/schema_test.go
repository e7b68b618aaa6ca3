package graph_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/document"
	"parley/errs"
	"parley/store/storetest"
	"parley/wire"
)

// Tools show the descriptions and nothing else, so every part of the schema has one.
func TestEverythingIsDescribed(t *testing.T) {
	t.Parallel()
	schema := mustSchema(t)
	var missing []string
	check := func(name, description string) {
		if description == "" {
			missing = append(missing, name)
		}
	}
	check("schema", schema.Description)
	for name, directive := range schema.Directives {
		if directive.Position.Src.BuiltIn {
			continue
		}
		check("@"+name, directive.Description)
		for _, argument := range directive.Arguments {
			check("@"+name+"("+argument.Name+")", argument.Description)
		}
	}
	for name, def := range schema.Types {
		if def.BuiltIn {
			continue
		}
		check(name, def.Description)
		for _, field := range def.Fields {
			if strings.HasPrefix(field.Name, "__") { // of introspection
				continue
			}
			check(name+"."+field.Name, field.Description)
			for _, argument := range field.Arguments {
				check(name+"."+field.Name+"("+argument.Name+")", argument.Description)
			}
		}
		for _, value := range def.EnumValues {
			check(name+"."+value.Name, value.Description)
		}
	}
	slices.Sort(missing)
	for _, name := range missing {
		t.Errorf("%s has no description in schema.graphqls", name)
	}
}

// Clients act on extensions.code, so the conventions in the schema name each code.
func TestEveryCodeIsDescribed(t *testing.T) {
	t.Parallel()
	conventions := mustSchema(t).Description
	for _, code := range []errs.Code{
		errs.Unauthenticated, errs.Forbidden, errs.NotFound, errs.BadUserInput, errs.RateLimited,
		errs.Unavailable, errs.Internal,
		document.ParseFailed, document.ValidationFailed, document.TooLarge, wire.PersistedNotFound,
		wire.PersistedNotSupported,
	} {
		if !strings.Contains(conventions, "`"+string(code)+"`") {
			t.Errorf("the schema's description does not name %s", code)
		}
	}
}

// The descriptions in the schema have to reach tools like GraphiQL.
func TestIntrospectionTellsWhatIsServed(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	a := s.do("", `{
		__schema { description directives { name } }
		__type(name: "Time") { specifiedByURL }
	}`, nil)
	if a.Errors != nil {
		t.Fatal(a.Errors)
	}
	schema, _ := a.Data["__schema"].(map[string]any)
	if got, want := schema["description"], mustSchema(t).Description; got != want || want == "" {
		t.Errorf("the schema describes itself as %v, want %q", got, want)
	}
	var directives []string
	list, _ := schema["directives"].([]any)
	for _, directive := range list {
		d, _ := directive.(map[string]any)
		name, _ := d["name"].(string)
		directives = append(directives, name)
	}
	want := []string{"deprecated", "include", "oneOf", "perViewer", "public", "skip", "specifiedBy"}
	if diff := cmp.Diff(want, directives); diff != "" {
		t.Errorf("directives (-want +got):\n%s", diff)
	}
	scalar, _ := a.Data["__type"].(map[string]any)
	if got := scalar["specifiedByURL"]; got != "https://www.rfc-editor.org/rfc/rfc3339" {
		t.Errorf("Time is specified by %v", got)
	}
}

// No transport sends an answer in parts, so a request for one is refused.
func TestNothingIsDeferred(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	for _, query := range []string{
		`{ viewer { ... @defer { email } } }`,
		`{ viewer { ...V @defer(label: "later") } } fragment V on Viewer { email }`,
		`query ($if: Boolean = false) { viewer { ... on Viewer @defer(if: $if) { email } } }`,
	} {
		a := s.do(ann.token, query, nil)
		if len(a.Errors) != 1 || a.Errors[0].code() != "GRAPHQL_VALIDATION_FAILED" ||
			a.Errors[0].Message != `Unknown directive "@defer".` {
			t.Errorf("%s: got %v", query, a)
		}
	}
}
