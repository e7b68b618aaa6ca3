package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// playgroundPolicy allows 'unsafe-inline' for styles, because CodeMirror and the components of
// GraphiQL add style elements to the page. It allows data URLs, because the style sheet of GraphiQL
// contains fonts and two images.
const playgroundPolicy = ownHostOnly +
	"style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; " +
	"font-src 'self' data:"

// Playground returns the handler of the GraphQL playground. It serves the page at / and its files
// below /playground/, and answers anything else with 404. It answers GET and HEAD. The endpoint is
// the path of the API on the same host, to which the page sends queries and mutations with POST,
// and subscriptions over a WebSocket (graphql-transport-ws).
//
// Clients may cache the files for a year, see site. They revalidate the page each time.
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

// operation is one of the tabs that a new visitor sees.
type operation struct {
	Query string `json:"query"`
	// Variables is the text for the editor, a JSON object.
	Variables string `json:"variables"`
}

// loadOperations returns the tabs, in the order of the file names.
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
