package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// CodeMirror and the components in GraphiQL put style elements into the page, hence 'unsafe-inline'
// for styles. GraphiQL's style sheet contains its fonts and two images as data URLs.
const playgroundPolicy = ownHostOnly +
	"style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; " +
	"font-src 'self' data:"

// Playground returns the handler of the GraphQL playground: the page at /, its files below
// /playground/, and 404 for anything else. It answers GET and HEAD. The endpoint is the path of the
// API on the same host, where the page sends queries and mutations by POST and subscriptions by
// WebSocket (graphql-transport-ws).
//
// The files may be kept by clients for a year, see site; the page itself is asked for again each
// time.
func Playground(endpoint string) http.Handler {
	assets := loadAssets("icon.svg", "playground.*", "third_party/*")
	operations, err := json.Marshal(loadOperations())
	if err != nil {
		panic(fmt.Sprintf("web: operations: %v", err))
	}
	assets["operations.json"] = newAsset("operations.json", operations)

	s := newSite(playgroundPolicy, "/playground", assets)
	s.page("/{$}", "no-cache", endpoint, "index.html")
	return s
}

// operation is one of the tabs that a new visitor finds.
type operation struct {
	Query string `json:"query"`
	// Variables is the text for the editor, a JSON object.
	Variables string `json:"variables"`
}

// loadOperations returns the tabs in their order, which is that of the file names.
func loadOperations() []operation {
	var operations []operation
	for _, name := range glob("operations/*.graphql") {
		variables := strings.TrimSuffix(name, ".graphql") + ".json"
		operations = append(operations, operation{
			Query:     strings.TrimSpace(string(read(name))),
			Variables: strings.TrimSpace(string(read(variables))),
		})
	}
	return operations
}
