package document

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"

	"parley/errs"
)

// maxQuoted is how many characters of a name or number a message repeats.
const maxQuoted = 100

// place is the place of a value in an argument or a variable: "$input.members[1].role".
type place struct {
	root  string
	steps []step
}

// step goes to a field of an input object or, if it has no name, to an item of a list.
type step struct {
	field string
	item  int
}

func (p *place) enterField(name string) { p.steps = append(p.steps, step{field: name}) }
func (p *place) enterItem(i int)        { p.steps = append(p.steps, step{item: i}) }
func (p *place) leave()                 { p.steps = p.steps[:len(p.steps)-1] }

func (p *place) String() string {
	var b strings.Builder
	b.WriteString(errs.Clip(p.root, maxQuoted))
	for _, s := range p.steps {
		if s.field == "" {
			b.WriteString("[" + strconv.Itoa(s.item) + "]")
			continue
		}
		b.WriteString("." + errs.Clip(s.field, maxQuoted))
	}
	return b.String()
}

// inputType describes a type in a message.
func (r *Reader) inputType(t *ast.Type) string {
	name := t.String()
	if t.Elem != nil {
		return name + " (a list)"
	}
	switch def := r.schema.Types[t.NamedType]; {
	case def == nil:
		return name
	case def.Kind == ast.InputObject:
		return name + " (an object)"
	case def.Kind == ast.Enum && r.opts.Introspection:
		names := make([]string, len(def.EnumValues))
		for i, v := range def.EnumValues {
			names[i] = v.Name
		}
		return name + " (one of " + strings.Join(names, ", ") + ")"
	}
	switch t.NamedType {
	case "Int":
		return name + " (an integer from -2147483648 to 2147483647)"
	case "Float":
		return name + " (a finite number)"
	case "ID":
		return name + " (a string or an integer)"
	}
	return name
}

// jsonText describes a variable's value in a message.
func jsonText(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return errs.Quote(v)
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		return errs.Clip(v.String(), maxQuoted)
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "a value of another kind"
}

// literalText describes a literal value in a message.
func literalText(v *ast.Value) string {
	switch v.Kind {
	case ast.StringValue, ast.BlockValue:
		return errs.Quote(v.Raw)
	case ast.ListValue:
		return "a list"
	case ast.ObjectValue:
		return "an object"
	case ast.Variable:
		return "$" + errs.Clip(v.Raw, maxQuoted)
	case ast.IntValue, ast.FloatValue, ast.BooleanValue, ast.NullValue, ast.EnumValue:
	}
	return errs.Clip(v.Raw, maxQuoted)
}
