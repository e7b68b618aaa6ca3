package document

import (
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
)

// maxIntrospection is how many fields about the schema an answer may have. The largest query of
// tools, for all of the schema with every option, has about a third of it; see TestIntrospection.
const maxIntrospection = 25_000

// schemaCounter counts the fields of the answer to a query about the schema, by walking the schema
// as the executor will. These lists have no pages, and nested ones multiply, so an estimate would
// be too low or refuse reasonable queries. The walk ends when the budget is used up.
type schemaCounter struct {
	schema *ast.Schema
	left   int // of the budget
}

// count reports whether a field is about the schema, and takes its cost from the budget.
func (c *schemaCounter) count(field *ast.Field, variables map[string]any) bool {
	switch field.Name {
	case "__schema":
		c.walk(field.SelectionSet, c.schema)
	case "__type":
		name, _ := field.ArgumentMap(variables)["name"].(string)
		if t := c.schema.Types[name]; t != nil {
			c.walk(field.SelectionSet, t)
		}
	default:
		return false
	}
	c.left--
	return true
}

// walk takes one from the budget for each field of a selection. The selection is on a part of the
// schema: the schema, a type, a field, an argument, an enum value or a directive.
func (c *schemaCounter) walk(set ast.SelectionSet, on any) {
	for _, selection := range set {
		if c.left < 0 {
			return
		}
		switch s := selection.(type) {
		case *ast.Field:
			c.left--
			for _, child := range c.below(on, s.Name) {
				c.walk(s.SelectionSet, child)
			}
		case *ast.InlineFragment:
			c.left-- // a fragment without fields is not free either
			c.walk(s.SelectionSet, on)
		case *ast.FragmentSpread:
			c.left--
			c.walk(s.Definition.SelectionSet, on)
		}
	}
}

// below returns the parts of the schema that are the value of a field, and none for a field with a
// scalar value.
func (c *schemaCounter) below(on any, field string) []any {
	switch on := on.(type) {
	case *ast.Schema:
		return c.belowSchema(on, field)
	case *ast.Type:
		return c.belowType(on, field)
	case *ast.Definition:
		return c.belowDefinition(on, field)
	case *ast.FieldDefinition:
		if field == "args" {
			return list(on.Arguments)
		}
		return c.typeOf(on.Type, field)
	case *ast.ArgumentDefinition:
		return c.typeOf(on.Type, field)
	case *ast.DirectiveDefinition:
		if field == "args" {
			return list(on.Arguments)
		}
	}
	return nil
}

func (c *schemaCounter) belowSchema(s *ast.Schema, field string) (found []any) {
	switch field {
	case "types":
		for _, t := range s.Types {
			found = append(found, t)
		}
	case "directives":
		for _, d := range s.Directives {
			found = append(found, d)
		}
	case "queryType":
		return []any{s.Query}
	case "mutationType":
		return []any{s.Mutation}
	case "subscriptionType":
		return []any{s.Subscription}
	}
	return found
}

// belowType unwraps the list and non-null types around a type.
func (c *schemaCounter) belowType(t *ast.Type, field string) []any {
	switch {
	case !t.NonNull && t.Elem == nil:
		return c.below(c.schema.Types[t.NamedType], field)
	case field != "ofType":
		return nil
	case t.NonNull:
		inner := *t
		inner.NonNull = false
		return []any{&inner}
	}
	return []any{t.Elem}
}

func (c *schemaCounter) belowDefinition(d *ast.Definition, field string) (found []any) {
	if d == nil {
		return nil
	}
	switch field {
	case "fields", "inputFields":
		if (field == "inputFields") != (d.Kind == ast.InputObject) {
			return nil
		}
		for _, f := range d.Fields {
			if !strings.HasPrefix(f.Name, "__") {
				found = append(found, f)
			}
		}
	case "interfaces":
		for _, name := range d.Interfaces {
			found = append(found, c.schema.Types[name])
		}
	case "possibleTypes":
		if d.IsAbstractType() {
			return list(c.schema.PossibleTypes[d.Name])
		}
	case "enumValues":
		return list(d.EnumValues)
	}
	return found
}

func (c *schemaCounter) typeOf(t *ast.Type, field string) []any {
	if field == "type" {
		return []any{t}
	}
	return nil
}

func list[T any](items []T) []any {
	all := make([]any, len(items))
	for i, item := range items {
		all[i] = item
	}
	return all
}
