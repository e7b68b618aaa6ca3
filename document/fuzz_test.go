package document_test

import (
	"encoding/json"
	"strings"
	"testing"

	"parley/document"
)

// FuzzRead checks for any input that Read does not panic, that its errors have a code and are
// short, and that it accepts an accepted document again.
func FuzzRead(f *testing.F) {
	for _, text := range expensive() {
		if len(text) < 10_000 {
			f.Add(text, "", "{}")
		}
	}
	f.Add("query A($n: Int = 5) { users(first: $n) { nodes { id } } }", "A", `{"n": 1.0}`)
	f.Add("mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { id } } }", "",
		`{"in": {"content": "x"}}`)
	f.Add("subscription { messageAdded(conversationId: \"x\") { id } }", "", "null")
	f.Add("{ __schema { types { ...T } } } fragment T on __Type { fields { name type { name } } }",
		"", "{}")
	r := document.NewReader(mustSchema(f), open())
	f.Fuzz(func(t *testing.T, text, operation, variables string) {
		values := map[string]any{}
		d := json.NewDecoder(strings.NewReader(variables))
		d.UseNumber()
		_ = d.Decode(&values)
		_, list := r.Read(text, operation, values)
		for _, err := range list {
			if err.Extensions["code"] == nil || err.Message == "" || len(err.Message) > 1000 {
				t.Errorf("%q: code %v, %d bytes", text, err.Extensions["code"], len(err.Message))
			}
		}
		if len(list) > 21 {
			t.Errorf("%q: %d errors", text, len(list))
		}
		if _, again := r.Read(text, operation, values); (again == nil) != (list == nil) {
			t.Errorf("%q: %v, and then %v", text, list, again)
		}
	})
}
