package graph_test

import (
	"fmt"
	"testing"

	"parley/store/storetest"
)

// BenchmarkMessages reads a page of 50 messages of as many authors. Authors are prefetched
// with one statement. Presences are not prefetched, and wait for a batch.
func BenchmarkMessages(b *testing.B) {
	const messages = 50
	s := mustServe(b, storetest.MustSQLite(b))
	owner := s.mustRegister("owner")
	others := make([]person, messages)
	for i := range others {
		others[i] = s.mustRegister(fmt.Sprint("author", i))
	}
	id := s.mustConversation(owner, others...)
	for _, author := range others {
		s.mustSend(author, id, "hello")
	}
	for name, author := range map[string]string{
		"prefetched": "author { nickname }",
		"batched":    "author { nickname presence { online } }",
	} {
		b.Run(name, func(b *testing.B) {
			query :=
				`query($c: ID!) { conversation(id: $c) {
					messages(last: 50) { nodes { seq content ` + author + ` } } } }`
			for b.Loop() {
				if a := s.do(owner.token, query, obj{"c": id}); len(a.Errors) > 0 {
					b.Fatal(a.Errors)
				}
			}
		})
	}
}
