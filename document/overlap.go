package document

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator/core"
)

// overlappingFieldsRule checks section 5.3.2, Field Selection Merging: fields with the same name in
// the answer must be the same field.
//
// The algorithm of the specification compares each pair of such fields, which is quadratic, and
// exponential for nested fragments. This rule compares sets. It collects all fields that are merged
// into one object of the answer, groups them by response name, and compares each field of a group
// with the first one, because "the same field" is transitive. Fields of different object types are
// never in the same object, so only their shapes are compared. The selections below a group are the
// next set, and each set is compared once. A budget limits the rest.
var overlappingFieldsRule = core.Rule{ //nolint:gochecknoglobals // a constant
	Name: "OverlappingFieldsCanBeMerged",
	RuleFunc: func(events *core.Events, addError core.AddErrFunc) {
		o := &overlap{
			addError: addError, ids: map[*ast.Selection]uint32{}, done: map[string]bool{},
			budget: overlapBudget,
		}
		events.OnOperation(func(w *core.Walker, op *ast.OperationDefinition) {
			o.schema = w.Schema
			o.compare([]ast.SelectionSet{op.SelectionSet}, false)
		})
	},
}

// overlapBudget is how many selections are collected and compared for one document. The largest
// documents of real clients need a few for each token.
const overlapBudget = 50_000

type overlap struct {
	schema   *ast.Schema
	addError core.AddErrFunc
	ids      map[*ast.Selection]uint32 // of selection sets, by their first selection
	done     map[string]bool           // by keyOf: compared, or being compared
	budget   int
}

func (o *overlap) spend(n int) {
	if o.budget -= n; o.budget < 0 {
		panic(coded(TooLarge,
			"Too many fields of the document share their names: its fragments overlap too much."))
	}
}

// compare compares the fields of selection sets that are merged. If shapeOnly is true, they may
// belong to different objects, and only the shapes of their values must be the same.
func (o *overlap) compare(sets []ast.SelectionSet, shapeOnly bool) {
	if len(sets) == 0 {
		return
	}
	key := o.keyOf(sets, shapeOnly)
	if o.done[key] {
		return
	}
	o.done[key] = true
	names, groups := o.collect(sets)
	for _, name := range names {
		fields := groups[name]
		if shapeOnly {
			if o.sameShapes(name, fields) {
				o.compare(children(fields), true)
			}
			continue
		}
		classes := byObject(fields)
		for _, class := range classes {
			o.spend(len(class))
			if o.sameFields(name, class) && o.sameShapes(name, class) {
				o.compare(children(class), false)
			}
		}
		if len(classes) > 1 && o.sameShapes(name, fields) {
			o.compare(children(fields), true)
		}
	}
}

// keyOf returns a key for a set of selection sets. Their order does not matter.
func (o *overlap) keyOf(sets []ast.SelectionSet, shapeOnly bool) string {
	o.spend(len(sets))
	ids := make([]uint32, 0, len(sets))
	for _, set := range sets {
		id, known := o.ids[&set[0]]
		if !known {
			id = uint32(len(o.ids)) //nolint:gosec // as many as a document has tokens
			o.ids[&set[0]] = id
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	key := []byte{0}
	if shapeOnly {
		key[0] = 1
	}
	for _, id := range slices.Compact(ids) {
		key = binary.BigEndian.AppendUint32(key, id)
	}
	return string(key)
}

// collect returns the fields of selection sets and of the fragments in them, by response name.
func (o *overlap) collect(
	sets []ast.SelectionSet,
) (names []string, groups map[string][]*ast.Field) {
	groups = map[string][]*ast.Field{}
	spread := map[string]bool{}
	var walk func(ast.SelectionSet)
	walk = func(set ast.SelectionSet) {
		o.spend(len(set))
		for _, selection := range set {
			switch s := selection.(type) {
			case *ast.Field:
				if s.Definition == nil || s.ObjectDefinition == nil {
					continue // another rule reports it
				}
				if groups[s.Alias] == nil {
					names = append(names, s.Alias)
				}
				groups[s.Alias] = append(groups[s.Alias], s)
			case *ast.InlineFragment:
				walk(s.SelectionSet)
			case *ast.FragmentSpread:
				if s.Definition != nil && !spread[s.Name] {
					spread[s.Name] = true
					walk(s.Definition.SelectionSet)
				}
			}
		}
	}
	seen := map[*ast.Selection]bool{}
	for _, set := range sets {
		if !seen[&set[0]] {
			seen[&set[0]] = true
			walk(set)
		}
	}
	return names, groups
}

// byObject groups fields by the object type that they can be part of. Fields of abstract types are
// in every group.
func byObject(fields []*ast.Field) [][]*ast.Field {
	var types []*ast.Definition
	var abstract []*ast.Field
	of := map[*ast.Definition][]*ast.Field{}
	for _, f := range fields {
		t := f.ObjectDefinition
		if t.Kind != ast.Object {
			abstract = append(abstract, f)
			continue
		}
		if of[t] == nil {
			types = append(types, t)
		}
		of[t] = append(of[t], f)
	}
	if len(types) < 2 {
		return [][]*ast.Field{fields}
	}
	classes := make([][]*ast.Field, len(types))
	for i, t := range types {
		classes[i] = slices.Concat(abstract, of[t])
	}
	return classes
}

func children(fields []*ast.Field) (sets []ast.SelectionSet) {
	for _, f := range fields {
		if len(f.SelectionSet) > 0 {
			sets = append(sets, f.SelectionSet)
		}
	}
	return sets
}

// sameFields reports whether all are the same field with the same arguments.
func (o *overlap) sameFields(name string, fields []*ast.Field) bool {
	first, same := fields[0], true
	for _, f := range fields[1:] {
		switch {
		case f.Name != first.Name:
			o.conflict(name, f, `"`+first.Name+`" and "`+f.Name+`" are different fields`)
		case !o.sameArguments(first.Arguments, f.Arguments):
			o.conflict(name, f, "they have differing arguments")
		default:
			continue
		}
		same = false
	}
	return same
}

// sameShapes reports whether the values of all fields have one shape (SameResponseShape).
func (o *overlap) sameShapes(name string, fields []*ast.Field) bool {
	first, same := fields[0].Definition.Type, true
	for _, f := range fields[1:] {
		if !o.sameShape(first, f.Definition.Type) {
			o.conflict(name, f, `they return conflicting types "`+first.String()+`" and "`+
				f.Definition.Type.String()+`"`)
			same = false
		}
	}
	return same
}

func (o *overlap) sameShape(a, b *ast.Type) bool {
	if a.NonNull != b.NonNull || (a.Elem == nil) != (b.Elem == nil) {
		return false
	}
	if a.Elem != nil {
		return o.sameShape(a.Elem, b.Elem)
	}
	x, y := o.schema.Types[a.NamedType], o.schema.Types[b.NamedType]
	return x == y || x != nil && y != nil && x.IsCompositeType() && y.IsCompositeType()
}

func (o *overlap) conflict(name string, at *ast.Field, why string) {
	o.addError(core.Message("Fields %q conflict because %s. Use different aliases on the fields "+
		"to fetch both if this was intentional.", name, why), core.At(at.Position))
}

func (o *overlap) sameArguments(a, b ast.ArgumentList) bool {
	if len(a) != len(b) {
		return false
	}
	o.spend(len(a) * len(b))
	for _, x := range a {
		y := b.ForName(x.Name)
		if y == nil || !o.sameValue(x.Value, y.Value) {
			return false
		}
	}
	return true
}

// sameValue compares literal values. The order of an object's fields does not matter.
func (o *overlap) sameValue(a, b *ast.Value) bool {
	if a.Kind != b.Kind || a.Raw != b.Raw || len(a.Children) != len(b.Children) {
		return false
	}
	o.spend(len(a.Children))
	x, y := a.Children, b.Children
	if a.Kind == ast.ObjectValue {
		x, y = sortedByName(x), sortedByName(y)
	}
	for i := range x {
		if x[i].Name != y[i].Name || !o.sameValue(x[i].Value, y[i].Value) {
			return false
		}
	}
	return true
}

// sortedByName returns a sorted copy.
func sortedByName(list ast.ChildValueList) ast.ChildValueList {
	return slices.SortedStableFunc(slices.Values(list), func(a, b *ast.ChildValue) int {
		return strings.Compare(a.Name, b.Name)
	})
}
