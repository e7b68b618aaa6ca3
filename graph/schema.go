package graph

import (
	"maps"

	"github.com/vektah/gqlparser/v2/ast"
)

// servedSchema is the schema without the directive @defer, which gqlparser declares in every
// schema: its answers come in parts (incremental delivery), which none of the transports sends. A
// document that uses it is refused as one with an unknown directive.
func servedSchema() *ast.Schema {
	schema := *NewExecutableSchema(Config{}).Schema()
	schema.Directives = maps.Clone(schema.Directives) // the original is shared
	delete(schema.Directives, "defer")
	return &schema
}
