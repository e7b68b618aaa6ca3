package document

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/errs"
)

// coerce returns the values of an operation's variables (section 6.1.2). They have the types int64,
// float64, string, bool, []any and map[string]any; values of custom scalars are as the client sent
// them. It does not change the client's values.
func (r *Reader) coerce(
	op *ast.OperationDefinition, values map[string]any,
) (map[string]any, gqlerror.List) {
	if len(op.VariableDefinitions) == 0 {
		return nil, nil
	}
	c := coercer{Reader: r}
	coerced := make(map[string]any, len(op.VariableDefinitions))
	for _, d := range op.VariableDefinitions {
		c.variable, c.at = d, place{root: d.Variable, steps: c.at.steps[:0]}
		value, given := values[d.Variable]
		switch {
		case given:
			coerced[d.Variable] = c.value(d.Type, value)
		case d.DefaultValue != nil:
			coerced[d.Variable] = c.defaultValue(d.Type, d.DefaultValue)
		case d.Type.NonNull:
			c.refuse("a value of type %s is required.", d.Type)
		}
	}
	if c.list == nil {
		c.refuseNulls(op, coerced)
	}
	if c.list != nil {
		return nil, c.list
	}
	return coerced, nil
}

// coercer coerces the values of one operation's variables.
type coercer struct {
	*Reader
	variable *ast.VariableDefinition
	at       place // in the variable, without the dollar sign
	list     gqlerror.List
}

func (c *coercer) refuse(format string, args ...any) {
	if len(c.list) == maxErrors {
		return
	}
	err := coded(errs.BadUserInput, "$%s: %s", c.at.String(), fmt.Sprintf(format, args...))
	c.list = append(c.list, at(c.variable.Position, err))
}

func (c *coercer) mismatch(t *ast.Type, v any) any {
	if len(c.list) < maxErrors {
		c.refuse("expected %s, found %s.", c.inputType(t), jsonText(v))
	}
	return nil
}

// defaultValue returns the default of a variable or of a field.
func (c *coercer) defaultValue(t *ast.Type, v *ast.Value) any {
	value, err := v.Value(nil)
	if err != nil {
		return c.mismatch(t, nil) // impossible: it was validated
	}
	return c.value(t, value)
}

func (c *coercer) value(t *ast.Type, v any) any {
	switch {
	case v == nil:
		if t.NonNull {
			c.mismatch(t, v)
		}
		return nil
	case t.Elem == nil:
		return c.named(t, v)
	}
	items, ok := v.([]any)
	if !ok { // a list of one (section 3.11)
		return []any{c.value(t.Elem, v)}
	}
	coerced := make([]any, len(items))
	for i, item := range items {
		c.at.enterItem(i)
		coerced[i] = c.value(t.Elem, item)
		c.at.leave()
	}
	return coerced
}

func (c *coercer) named(t *ast.Type, v any) any {
	def := c.schema.Types[t.NamedType]
	switch def.Kind {
	case ast.InputObject:
		fields, ok := v.(map[string]any)
		if !ok {
			return c.mismatch(t, v)
		}
		return c.object(def, fields)
	case ast.Enum:
		if name, ok := v.(string); ok && def.EnumValues.ForName(name) != nil {
			return v
		}
		return c.mismatch(t, v)
	case ast.Scalar, ast.Object, ast.Interface, ast.Union:
	}
	return c.scalar(t, v)
}

// scalar coerces a scalar (section 3.5).
func (c *coercer) scalar(t *ast.Type, v any) any {
	switch t.NamedType {
	case "String":
		if _, ok := v.(string); ok {
			return v
		}
	case "ID":
		if _, ok := v.(string); ok {
			return v
		}
		if digits, ok := integer(v, maxIDDigits); ok {
			return digits
		}
	case "Int":
		if digits, ok := integer(v, maxIntDigits); ok {
			if n, err := strconv.ParseInt(digits, 10, 32); err == nil {
				return n
			}
		}
	case "Boolean":
		if _, ok := v.(bool); ok {
			return v
		}
	case "Float":
		if f, ok := finite(v); ok {
			return f
		}
	default:
		return c.custom(t, v)
	}
	return c.mismatch(t, v)
}

func (c *coercer) custom(t *ast.Type, v any) any {
	check := c.opts.Scalars[t.NamedType]
	if check == nil {
		return v
	}
	if err := check(v); err != nil {
		c.refuse("expected %s, found %s.%s", c.inputType(t), jsonText(v), reasonOf(err))
	}
	return v
}

// object coerces an input object (section 3.10).
func (c *coercer) object(def *ast.Definition, given map[string]any) any {
	coerced := make(map[string]any, len(def.Fields))
	known := 0
	for _, f := range def.Fields {
		v, ok := given[f.Name]
		if ok {
			known++
		}
		c.at.enterField(f.Name)
		switch {
		case ok:
			coerced[f.Name] = c.value(f.Type, v)
		case f.DefaultValue != nil:
			coerced[f.Name] = c.defaultValue(f.Type, f.DefaultValue)
		case f.Type.NonNull:
			c.refuse("a value of type %s is required.", f.Type)
		}
		c.at.leave()
	}
	if known < len(given) {
		c.refuseUnknown(def, given)
	}
	if def.Directives.ForName("oneOf") != nil &&
		(len(coerced) != 1 || coerced[soleKey(coerced)] == nil) {
		c.refuse(oneOfMessage, def.Name)
	}
	return coerced
}

func soleKey(m map[string]any) (key string) {
	for key = range m {
		break
	}
	return key
}

func (c *coercer) refuseUnknown(def *ast.Definition, given map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if len(c.list) == maxErrors {
			return
		}
		if def.Fields.ForName(name) == nil {
			c.refuse("%s", c.unknownField(def, name))
		}
	}
}

// refuseNulls refuses a variable that is null where null is not allowed, which validation cannot. A
// nullable variable may be used there if it or the place has a default (section 5.8.5), and null is
// not replaced by the default (section 6.4.1).
func (c *coercer) refuseNulls(op *ast.OperationDefinition, coerced map[string]any) {
	isNull := func(d *ast.VariableDefinition) bool {
		v, given := coerced[d.Variable]
		return given && v == nil
	}
	if !slices.ContainsFunc(op.VariableDefinitions, isNull) {
		return
	}
	refused := map[string]bool{}
	eachValueOf(op, func(v *ast.Value) {
		if v.Kind != ast.Variable || v.ExpectedType == nil || !v.ExpectedType.NonNull ||
			refused[v.Raw] {
			return
		}
		if d := op.VariableDefinitions.ForName(v.Raw); d != nil && isNull(d) {
			refused[v.Raw] = true
			c.variable, c.at = d, place{root: d.Variable}
			c.mismatch(v.ExpectedType, nil)
		}
	})
}
