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

// Whoever opens a field to strangers has to say so here too.
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
		"Mutation.login", "Mutation.refreshSession", "Mutation.register", "Mutation.requestPasswordReset",
		"Mutation.resetPassword", "Mutation.verifyEmail", "RequestPasswordResetPayload.userErrors",
		"ResetPasswordPayload.userErrors",
		"Tokens.accessToken", "Tokens.expiresAt", "Tokens.refreshToken",
		"UserError.code", "UserError.message", "UserError.path", "VerifyEmailPayload.userErrors",
	}
	if diff := cmp.Diff(want, public); diff != "" {
		t.Error(diff)
	}
}

// Every field that a stranger can reach from a root is refused, unless it is @public; and no field
// is asked for its value on the way, so there is nothing that could answer.
func TestStrangersReachPublicFieldsOnly(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	schema := mustSchema(t)
	for _, root := range []*ast.Definition{schema.Query, schema.Mutation, schema.Subscription} {
		for _, f := range root.Fields {
			if strings.HasPrefix(f.Name, "__") || f.Directives.ForName("public") != nil {
				continue
			}
			keyword := strings.ToLower(root.Name)
			query := fmt.Sprintf("%s { %s%s %s }", keyword, f.Name, arguments(schema, f), "{ __typename }")
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

// arguments fills in the required ones with anything that validates.
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
