package graph

import (
	"crypto/sha256"
	"encoding/json"
	"slices"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
)

// broadcastKey is what followers with the same answers have in common: the hash of their document,
// operation name, and the variables below the root field. The arguments of the root field are not
// part of it: they name the conversation, and where to begin.
type broadcastKey [sha256.Size]byte

// broadcastKeyOf returns the root field of a subscription whose answers are the same for all
// viewers, and its key. It reports false for every other subscription.
func broadcastKeyOf(oc *graphql.OperationContext) (field *ast.Field, key broadcastKey, ok bool) {
	if len(oc.Operation.SelectionSet) != 1 {
		return nil, key, false
	}
	field, ok = oc.Operation.SelectionSet[0].(*ast.Field)
	if !ok || len(field.Directives) > 0 ||
		field.Name != "messageAdded" && field.Name != "conversationEvents" {
		return nil, key, false
	}
	used := usedVariables{values: oc.Variables, used: map[string]any{}}
	if !used.addSelection(field.SelectionSet) {
		return nil, key, false
	}
	variables, err := json.Marshal(used.used)
	if err != nil {
		return nil, key, false
	}
	key = sha256.Sum256(slices.Concat(
		[]byte(oc.RawQuery), []byte{0}, []byte(oc.Operation.Name), []byte{0}, variables,
	))
	return field, key, true
}

// usedVariables collects the variables that a selection uses.
type usedVariables struct {
	values map[string]any // of all variables of the operation
	used   map[string]any
}

// addSelection reports false if a field of the selection depends on the viewer: it is marked
// @perViewer, or unknown.
func (u usedVariables) addSelection(set ast.SelectionSet) bool {
	for _, selection := range set {
		var below ast.SelectionSet
		switch s := selection.(type) {
		case *ast.Field:
			if s.Definition == nil || s.Definition.Directives.ForName("perViewer") != nil {
				return false
			}
			u.addArguments(s.Arguments)
			u.addDirectives(s.Directives)
			below = s.SelectionSet
		case *ast.InlineFragment:
			u.addDirectives(s.Directives)
			below = s.SelectionSet
		case *ast.FragmentSpread:
			u.addDirectives(s.Directives)
			below = s.Definition.SelectionSet
		}
		if !u.addSelection(below) {
			return false
		}
	}
	return true
}

func (u usedVariables) addDirectives(list ast.DirectiveList) {
	for _, d := range list {
		u.addArguments(d.Arguments)
	}
}

func (u usedVariables) addArguments(list ast.ArgumentList) {
	for _, a := range list {
		u.addValue(a.Value)
	}
}

func (u usedVariables) addValue(v *ast.Value) {
	if value, given := u.values[v.Raw]; given && v.Kind == ast.Variable {
		u.used[v.Raw] = value
	}
	for _, child := range v.Children {
		u.addValue(child.Value)
	}
}
