package graph

import (
	"maps"

	"github.com/vektah/gqlparser/v2/ast"
)

// servedSchema returns the schema without the directive @defer, which gqlparser declares in every
// schema. Its answers come in parts (incremental delivery), and no transport sends parts. So a
// document that uses it is refused like one with an unknown directive.
func servedSchema() *ast.Schema {
	schema := *NewExecutableSchema(Config{}).Schema()
	schema.Directives = maps.Clone(schema.Directives) // the original is shared
	delete(schema.Directives, "defer")
	return &schema
}
