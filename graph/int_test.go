package graph_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/store/storetest"
)

// TestAnIntHas32Bits sends numbers in a document, in a variable, and in an input object.
func TestAnIntHas32Bits(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	id := s.mustConversation(ann, bob)
	send := func(query, n string) []string {
		body := fmt.Sprintf(`{"query": %q, "variables": {"c": %q, "n": %s}}`, query, id, n)
		_, raw := s.post([]byte(body), http.Header{"Authorization": bearer(ann.token), "Content-Type": {"application/json"}})
		var a answer
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		return a.codes()
	}
	for _, test := range []struct {
		n    string
		want []string
	}{
		{"2147483647", nil},
		{"2147483648", []string{"BAD_USER_INPUT"}},
		{"9007199254740993", []string{"BAD_USER_INPUT"}},
		{"4294967297", []string{"BAD_USER_INPUT"}}, // which is 1 in 32 bits
		{"-4294967295", []string{"BAD_USER_INPUT"}},
	} {
		for where, codes := range map[string][]string{
			"in the document": send(`mutation($c: ID!) { markRead(input: {conversationId: $c, seq: `+test.n+`}) { userErrors { code path } } }`, "1"),
			"in a variable":   send(`mutation($c: ID!, $n: Int!) { markRead(input: {conversationId: $c, seq: $n}) { userErrors { code path } } }`, test.n),
			"in an object": send(`mutation($n: MarkReadInput!) { markRead(input: $n) { userErrors { code path } } }`,
				fmt.Sprintf(`{"conversationId": %q, "seq": %s}`, id, test.n)),
		} {
			if diff := cmp.Diff(test.want, codes); diff != "" {
				t.Errorf("%s %s: %s", test.n, where, diff)
			}
		}
	}
	for _, query := range []string{
		`query($n: Int!) { users(first: $n) { nodes { id } } }`, `query { users(first: 4294967297) { nodes { id } } }`,
		`query($n: String!) { users(search: $n) { nodes { id } } }`,
	} {
		if codes := send(query, "4294967297"); !cmp.Equal(codes, []string{"BAD_USER_INPUT"}) {
			t.Errorf("%s: %v", query, codes)
		}
	}
	// What not even 64 bits have, validation refuses in a document.
	const more = "1000000000000000000000000000000"
	if codes := send(`query { users(first: `+more+`) { nodes { id } } }`, "1"); len(codes) == 0 || codes[0] != "GRAPHQL_VALIDATION_FAILED" {
		t.Errorf("%s in the document: %v", more, codes)
	}
	if codes := send(`query($n: Int!) { users(first: $n) { nodes { id } } }`, more); !cmp.Equal(codes, []string{"BAD_USER_INPUT"}) {
		t.Errorf("%s in a variable: %v", more, codes)
	}
	if codes := send(`query($n: Int!) { users(first: $n) { nodes { id } } }`, `"5"`); !cmp.Equal(codes, []string{"BAD_USER_INPUT"}) {
		t.Errorf("a text for an Int: %v", codes)
	}
	o := s.mustDial(ann.token, nil).subscribe(`subscription($c: ID!) { messageAdded(conversationId: $c, afterSeq: 4294967297) { seq } }`, obj{"c": id})
	o.wantFailure(t, "BAD_USER_INPUT")
}
