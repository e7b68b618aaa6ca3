package document

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator/core"

	"parley/errs"
)

// valuesRule checks the literal values of a document (section 5.6.1, Values of Correct Type),
// custom scalars included.
func (r *Reader) valuesRule() core.Rule {
	check := func(events *core.Events, addError core.AddErrFunc) {
		l := &literals{Reader: r, addError: addError}
		events.OnVariable(func(_ *core.Walker, d *ast.VariableDefinition) {
			if d.DefaultValue != nil {
				l.check("$"+d.Variable, d.Type, d.DefaultValue)
			}
		})
		events.OnField(func(_ *core.Walker, f *ast.Field) {
			if f.Definition != nil {
				l.arguments(f.Definition.Arguments, f.Arguments)
			}
		})
		events.OnDirective(func(_ *core.Walker, d *ast.Directive) {
			if d.Definition != nil {
				l.arguments(d.Definition.Arguments, d.Arguments)
			}
		})
	}
	return core.Rule{Name: "ValuesOfCorrectType", RuleFunc: check}
}

// literals checks the literal values of a document.
type literals struct {
	*Reader
	addError core.AddErrFunc
	at       place
}

func (l *literals) arguments(defs ast.ArgumentDefinitionList, given ast.ArgumentList) {
	for _, a := range given {
		if def := defs.ForName(a.Name); def != nil {
			l.check(a.Name, def.Type, a.Value)
		}
	}
}

func (l *literals) check(root string, t *ast.Type, v *ast.Value) {
	l.at = place{root: root, steps: l.at.steps[:0]}
	l.value(t, v)
}

func (l *literals) refuse(at *ast.Position, format string, args ...any) {
	l.addError(core.Message("%s: ", l.at.String()), core.Message(format, args...), core.At(at))
}

func (l *literals) mismatch(t *ast.Type, v *ast.Value) {
	l.refuse(v.Position, "expected %s, found %s.", l.inputType(t), literalText(v))
}

func (l *literals) value(t *ast.Type, v *ast.Value) {
	switch {
	case v.Kind == ast.Variable: // VariablesInAllowedPosition
		return
	case v.Kind == ast.NullValue:
		if t.NonNull {
			l.mismatch(t, v)
		}
		return
	case t.Elem == nil:
		l.named(t, v)
		return
	case v.Kind != ast.ListValue: // a list of one (section 3.11)
		l.value(t.Elem, v)
		return
	}
	for i, child := range v.Children {
		l.at.enterItem(i)
		l.value(t.Elem, child.Value)
		l.at.leave()
	}
}

func (l *literals) named(t *ast.Type, v *ast.Value) {
	def := l.schema.Types[t.NamedType]
	if def == nil {
		return // KnownTypeNames
	}
	switch def.Kind {
	case ast.Scalar:
		l.scalar(t, v)
	case ast.Enum:
		if v.Kind != ast.EnumValue || def.EnumValues.ForName(v.Raw) == nil {
			l.mismatch(t, v)
		}
	case ast.InputObject:
		if v.Kind != ast.ObjectValue {
			l.mismatch(t, v)
			return
		}
		l.object(def, v)
	case ast.Object, ast.Interface, ast.Union: // VariablesAreInputTypes
	}
}

// scalar checks a scalar (section 3.5).
func (l *literals) scalar(t *ast.Type, v *ast.Value) {
	isString, isInt := v.Kind == ast.StringValue || v.Kind == ast.BlockValue, v.Kind == ast.IntValue
	right := false
	switch t.NamedType {
	case "Int":
		_, err := strconv.ParseInt(v.Raw, 10, 32)
		right = isInt && err == nil
	case "Float":
		_, err := strconv.ParseFloat(v.Raw, 64)
		right = (isInt || v.Kind == ast.FloatValue) && err == nil
	case "String":
		right = isString
	case "ID":
		right = isString || isInt
	case "Boolean":
		right = v.Kind == ast.BooleanValue
	default:
		l.custom(t, v)
		return
	}
	if !right {
		l.mismatch(t, v)
	}
}

// custom calls the check of a custom scalar.
func (l *literals) custom(t *ast.Type, v *ast.Value) {
	check := l.opts.Scalars[t.NamedType]
	if check == nil {
		return
	}
	plain, ok := plainValue(v)
	if !ok {
		l.mismatch(t, v)
		return
	}
	if err := check(plain); err != nil {
		l.refuse(v.Position, "expected %s, found %s.%s", l.inputType(t), literalText(v),
			reasonOf(err))
	}
}

// plainValue returns a value as JSON would have it. ok is false for enum values and variables,
// which have no such form.
func plainValue(v *ast.Value) (plain any, ok bool) {
	switch v.Kind {
	case ast.StringValue, ast.BlockValue:
		return v.Raw, true
	case ast.IntValue, ast.FloatValue:
		return json.Number(v.Raw), true
	case ast.BooleanValue:
		return v.Raw == "true", true
	case ast.NullValue:
		return nil, true
	case ast.ListValue:
		items := make([]any, len(v.Children))
		for i, child := range v.Children {
			if items[i], ok = plainValue(child.Value); !ok {
				return nil, false
			}
		}
		return items, true
	case ast.ObjectValue:
		fields := make(map[string]any, len(v.Children))
		for _, child := range v.Children {
			if fields[child.Name], ok = plainValue(child.Value); !ok {
				return nil, false
			}
		}
		return fields, true
	case ast.Variable, ast.EnumValue:
	}
	return nil, false
}

// reasonOf returns why a scalar was refused, if clients may see it.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return " " + e.Message
	}
	return ""
}

// object checks an input object (section 3.10).
func (l *literals) object(def *ast.Definition, v *ast.Value) {
	for _, child := range v.Children {
		field := def.Fields.ForName(child.Name)
		if field == nil {
			l.refuse(child.Position, "%s", l.unknownField(def, child.Name))
			continue
		}
		l.at.enterField(child.Name)
		l.value(field.Type, child.Value)
		l.at.leave()
	}
	for _, field := range def.Fields {
		if field.Type.NonNull && field.DefaultValue == nil &&
			v.Children.ForName(field.Name) == nil {
			l.at.enterField(field.Name)
			l.refuse(v.Position, "a value of type %s is required.", field.Type)
			l.at.leave()
		}
	}
	if def.Directives.ForName("oneOf") != nil &&
		(len(v.Children) != 1 || v.Children[0].Value.Kind == ast.NullValue) {
		l.refuse(v.Position, oneOfMessage, def.Name)
	}
}

const oneOfMessage = "%s has exactly one field, and that is not null."

// unknownField returns the message that an input object has no such field.
func (r *Reader) unknownField(def *ast.Definition, name string) string {
	message := def.Name + " has no field " + errs.Quote(name) + "."
	if !r.opts.Introspection || len(name) > maxName {
		return message
	}
	names := make([]string, len(def.Fields))
	for i, f := range def.Fields {
		names[i] = f.Name
	}
	if near := core.SuggestionList(name, names); len(near) > 0 {
		message += " Did you mean " + core.QuotedOrList(near...) + "?"
	}
	return message
}

// normalizeValues prepares the values of a valid document for execution, which reads them from
// several goroutines. An integer for an ID becomes a string. The variable definition of a value is
// cleared: a fragment can belong to several operations, whose variables have the same name and
// other defaults.
func normalizeValues(doc *ast.QueryDocument) {
	eachValue(doc, func(v *ast.Value) {
		v.VariableDefinition = nil
		if v.Kind == ast.IntValue && v.Definition != nil && v.Definition.Name == "ID" {
			v.Kind = ast.StringValue
		}
	})
}
