package document

import (
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/validator"

	"parley/errs"
)

// coerce gives each variable of an operation its value (GraphQL, section 6.1.2).
func (r *Reader) coerce(op *ast.OperationDefinition, values map[string]any) (map[string]any, gqlerror.List) {
	coerced, err := validator.VariableValues(r.schema, op, values)
	if err == nil {
		return coerced, nil
	}
	wrong, ok := err.(*gqlerror.Error) //nolint:errorlint // the validator's own, never wrapped
	if !ok {
		wrong = gqlerror.Errorf("%s", err)
	}
	return nil, gqlerror.List{withCode(wrong, errs.BadUserInput)}
}
