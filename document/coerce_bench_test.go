package document_test

import (
	"os"
	"testing"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator"

	"parley/document"
)

// BenchmarkCoerce compares coercing the variables of an ordinary request with what the parser's
// validator does.
func BenchmarkCoerce(b *testing.B) {
	text, err := os.ReadFile("../schema.graphqls")
	if err != nil {
		b.Fatal(err)
	}
	schema, err := gqlparser.LoadSchema(&ast.Source{Input: string(text)})
	if err != nil {
		b.Fatal(err)
	}
	r := document.NewReader(schema, document.Options{})
	const query = `mutation($input: SendMessageInput!) { sendMessage(input: $input) { message { id } userErrors { code } } }`
	request, list := r.Read(query, "", variablesOf(b, sendMessageInput))
	if list != nil {
		b.Fatal(list)
	}
	variables := variablesOf(b, sendMessageInput)
	b.Run("Reader", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, list := document.Coerce(r, request.Operation, variables); list != nil {
				b.Fatal(list)
			}
		}
	})
	b.Run("validator", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := validator.VariableValues(schema, request.Operation,
				variables); err != nil {
				b.Fatal(err)
			}
		}
	})
}

const sendMessageInput = `{"input": {
	"conversationId": "conv_01h455vb4pex5vsknk084sn02q", "content": "Hello, Bob! How are you?",
	"replyToId": null, "idempotencyKey": "5f0c1f8e-7a57-4c1b-9c1e-9f3d5a1b2c3d"
}}`
