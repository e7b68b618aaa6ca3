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
		_, raw := s.post([]byte(body),
			http.Header{"Authorization": bearer(ann.token), "Content-Type": {"application/json"}})
		var a answer
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		return a.codes()
	}
	for _, n := range []string{
		"2147483647", "2147483648", "9007199254740993",
		"4294967297", "-4294967295", // 1 in 32 bits
		"1000000000000000000000000000000",
	} {
		var inDocument, inVariable []string
		if n != "2147483647" {
			inDocument, inVariable = []string{"GRAPHQL_VALIDATION_FAILED"},
				[]string{"BAD_USER_INPUT"}
		}
		for _, c := range []struct{ got, want []string }{
			{send(`mutation($c: ID!) { markRead(input: {conversationId: $c, seq: `+n+
				`}) { userErrors { code path } } }`, "1"), inDocument},
			{send(
				`mutation($c: ID!, $n: Int!) { markRead(input: {conversationId: $c, seq: $n}) {
					userErrors { code path } } }`, n), inVariable},
			{send(
				`mutation($n: MarkReadInput!) { markRead(input: $n) { userErrors { code path } } }`,
				fmt.Sprintf(`{"conversationId": %q, "seq": %s}`, id, n)), inVariable},
		} {
			if diff := cmp.Diff(c.want, c.got); diff != "" {
				t.Errorf("%s: %s", n, diff)
			}
		}
	}
	for _, query := range []string{
		`query($n: Int!) { users(first: $n) { nodes { id } } }`,
		`query($n: String!) { users(search: $n) { nodes { id } } }`,
	} {
		if codes := send(query, "4294967297"); !cmp.Equal(codes, []string{"BAD_USER_INPUT"}) {
			t.Errorf("%s: %v", query, codes)
		}
	}
	if codes := send(`query($n: Int!) { users(first: $n) { nodes { id } } }`,
		`"5"`); !cmp.Equal(codes, []string{"BAD_USER_INPUT"}) {
		t.Errorf("a text for an Int: %v", codes)
	}
	o := s.mustDial(ann.token, nil).
		subscribe(
			`subscription($c: ID!) { messageAdded(conversationId: $c, afterSeq: 4294967297) {
				seq } }`, obj{"c": id})
	o.wantFailure(t, "GRAPHQL_VALIDATION_FAILED")
}
