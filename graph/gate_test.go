package graph_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/model"
	"parley/store/storetest"
)

func mustSchema(t testing.TB) *ast.Schema {
	t.Helper()
	source, err := os.ReadFile("../schema.graphqls")
	if err != nil {
		t.Fatal(err)
	}
	return gqlparser.MustLoadSchema(&ast.Source{Name: "schema.graphqls", Input: string(source)})
}

// A field that becomes @public has to be listed here, too.
func TestPublicFields(t *testing.T) {
	t.Parallel()
	var public []string
	for name, def := range mustSchema(t).Types {
		for _, f := range def.Fields {
			if f.Directives.ForName("public") != nil {
				public = append(public, name+"."+f.Name)
			}
		}
	}
	slices.Sort(public)
	want := []string{
		"AuthPayload.tokens", "AuthPayload.userErrors", "AuthPayload.viewer",
		"Mutation.login", "Mutation.refreshSession", "Mutation.register",
		"Mutation.requestPasswordReset",
		"Mutation.resetPassword", "Mutation.verifyEmail", "RequestPasswordResetPayload.userErrors",
		"ResetPasswordPayload.userErrors",
		"Tokens.accessToken", "Tokens.expiresAt", "Tokens.refreshToken",
		"UserError.code", "UserError.message", "UserError.path", "VerifyEmailPayload.userErrors",
	}
	if diff := cmp.Diff(want, public); diff != "" {
		t.Error(diff)
	}
}

// Every field that an anonymous client can reach from a root is refused, unless it is @public; and
// no resolver is called, because there is none.
func TestAnonymousClientsReachPublicFieldsOnly(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	schema := mustSchema(t)
	for _, root := range []*ast.Definition{schema.Query, schema.Mutation, schema.Subscription} {
		for _, f := range root.Fields {
			if strings.HasPrefix(f.Name, "__") || f.Directives.ForName("public") != nil {
				continue
			}
			keyword := strings.ToLower(root.Name)
			query := fmt.Sprintf("%s { %s%s %s }", keyword, f.Name, arguments(schema, f),
				"{ __typename }")
			var codes []string
			if keyword == "subscription" {
				codes = s.mustDial("", nil).subscribe(query, nil).failure(t)
			} else {
				codes = s.do("", query, nil).codes()
			}
			if !cmp.Equal(codes, []string{"UNAUTHENTICATED"}) {
				t.Errorf("%s: %v", query, codes)
			}
		}
	}
}

// arguments returns the required arguments, with any valid values.
func arguments(schema *ast.Schema, f *ast.FieldDefinition) string {
	var list []string
	for _, a := range f.Arguments {
		if a.Type.NonNull && a.DefaultValue == nil {
			list = append(list, a.Name+": "+value(schema, a.Name, a.Type))
		}
	}
	if list == nil {
		return ""
	}
	return "(" + strings.Join(list, ", ") + ")"
}

func value(schema *ast.Schema, name string, typ *ast.Type) string {
	if typ.Elem != nil {
		return "[" + value(schema, name, typ.Elem) + "]"
	}
	def := schema.Types[typ.NamedType]
	switch {
	case def.Kind == ast.Enum:
		return def.EnumValues[0].Name
	case def.Kind == ast.InputObject:
		var fields []string
		for _, f := range def.Fields {
			if f.Type.NonNull && f.DefaultValue == nil {
				fields = append(fields, f.Name+": "+value(schema, f.Name, f.Type))
			}
		}
		return "{" + strings.Join(fields, ", ") + "}"
	case name == "sessionId":
		return strconv.Quote(model.NewSessionID().String())
	case name == "userId":
		return strconv.Quote(model.NewUserID().String())
	case name == "conversationId":
		return strconv.Quote(model.NewConversationID().String())
	case name == "messageId":
		return strconv.Quote(model.NewMessageID().String())
	case typ.NamedType == "Int":
		return "1"
	case typ.NamedType == "Boolean":
		return "true"
	}
	return `"x"`
}

// A field that signs a user in signs them in for the fields below it, and for no others.
func TestSigningInCountsBelowTheFieldOnly(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	const login = `login(input: {email: "ann@example.org", password: "a password of ann"}) {
		viewer { user { id } conversations { nodes { id viewerMember { role } } } } }`
	s.mustConversation(ann, s.mustRegister("bob"))

	a := s.do("", `mutation { `+login+` logout { userErrors { code } } }`, nil)
	if got := a.str(t, "login.viewer.conversations.nodes.0.viewerMember.role"); got != "OWNER" {
		t.Errorf("below the field: %v", a)
	}
	if diff := cmp.Diff([]string{"UNAUTHENTICATED"}, a.codes()); diff != "" {
		t.Errorf("the next field: %s", diff)
	}
	// A stale token does not prevent signing in.
	if a := s.do("stale", `mutation { `+login+` }`, nil); a.str(t,
		"login.viewer.user.id") != ann.id {
		t.Errorf("with a stale token: %v", a)
	}
}

// The gate decides field by field, also within one document, and so does signing in.
func TestTheGateAsksEachField(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	login := `login(input: {email: "ann@example.org", password: "wrong"}) { tokens { accessToken }
			viewer { email } userErrors { code } }`
	reset := `requestPasswordReset(input: {email: "ann@example.org"}) { userErrors { code } }`
	for _, of := range []struct {
		name, token string
		want        []string
	}{
		{"ann", ann.token, nil},
		{"an anonymous client", "", []string{"UNAUTHENTICATED"}},
		{"a forged token", ann.token + "A", []string{"UNAUTHENTICATED"}},
	} {
		a := s.do(of.token, `mutation { `+login+` `+reset+
			` updateProfile(input: {displayName: "Ann"}) { user { displayName } } }`, nil)
		var codes []string
		for _, e := range a.Errors {
			codes = append(codes, e.code())
		}
		if diff := cmp.Diff(of.want, codes); diff != "" {
			t.Errorf("%s: %s", of.name, diff)
		}
		if got, want := a.at(t, "updateProfile") != nil, of.want == nil; got != want {
			t.Errorf("%s: changed the profile: %v", of.name, got)
		}
	}
	// Below a field that signs ann in, the viewer is ann. The next field is bob's again.
	a := s.do(bob.token,
		`mutation { login(input: {email: "ann@example.org", password: "a password of ann"}) {
		viewer { user { id } sessions { current } } } logout { userErrors { code } } }`, nil)
	if a.str(t, "login.viewer.user.id") != ann.id || a.Errors != nil {
		t.Errorf("bob signs ann in: %v", a)
	}
	if codes := s.do(bob.token, `{ viewer { email } }`, nil).
		codes(); !cmp.Equal(codes, []string{"UNAUTHENTICATED"}) {
		t.Errorf("bob has signed himself out, and not ann: %v", codes)
	}
	if codes := s.do(ann.token, `{ viewer { email } }`, nil).codes(); codes != nil {
		t.Errorf("ann: %v", codes)
	}
}
