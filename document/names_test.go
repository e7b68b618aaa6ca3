package document_test

import (
	"strings"
	"testing"
)

// The length of names is limited, that of words in strings is not.
func TestNamesAreLimited(t *testing.T) {
	t.Parallel()
	r := mustRead(t, open())
	long := strings.Repeat("x", 256)
	for text, want := range map[string]string{
		// there is no such field
		"{ " + long[:255] + " }":                                 "GRAPHQL_VALIDATION_FAILED",
		"{ " + long + " }":                                       "OPERATION_TOO_LARGE",
		"{ viewer(" + long + ": 1) { email } }":                  "OPERATION_TOO_LARGE",
		"query ($" + long + ": Int) { viewer { email } }":        "OPERATION_TOO_LARGE",
		`{ users(search: "` + long + `") { nodes { id } } }`:     "",
		`{ users(search: """` + long + `""") { nodes { id } } }`: "",
		"{ viewer { email } } # " + long:                         "",
		// the string has no end
		`{ users(search: "` + long + `) { nodes { id } } }`: "GRAPHQL_PARSE_FAILED",
	} {
		_, list := r.Validate(text)
		code := ""
		if list != nil {
			code, _ = list[0].Extensions["code"].(string)
		}
		if code != want {
			t.Errorf("%.40s: %q, not %q", text, code, want)
		}
	}
}
