package graph_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"parley/store/storetest"
)

// TestErrorsOfSubscriptions: the path of an error starts with the name of the root field in the
// answer, and the data is null if the root field is. It is the same over both transports, and
// whether the answer is broadcast or not.
func TestErrorsOfSubscriptions(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann, bob, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("eve")
	id := s.mustConversation(ann, bob)
	const tooMany = `members(first: 1000) { nodes { id } }`

	type follower struct {
		name string
		next func() (kind, payload string)
	}
	follow := func(token, id, query string) []follower {
		o := s.mustDial(token, nil).subscribe(query, obj{"id": id})
		events := s.mustStream(token, query, obj{"id": id})
		return []follower{
			{"WebSocket: " + query, func() (string, string) {
				f := o.frame()
				return f.Type, string(f.Payload)
			}},
			{"SSE: " + query, func() (string, string) {
				e := next(t, events)
				return e.event, e.data
			}},
		}
	}
	type result struct {
		Data   json.RawMessage
		Errors []located
	}
	describe := func(r result) string {
		text := string(r.Data)
		for _, e := range r.Errors {
			text += fmt.Sprintf(" %v %v %s", e.Path, e.Locations, e.Extensions.Code)
		}
		return text
	}

	// Results with errors, of replayed and of live events. The stream goes on after them.
	s.mustSend(bob, id, "before")
	var all []follower
	want := map[string]string{}
	for query, text := range map[string]string{
		`subscription($id: ID!) { m: messageAdded(conversationId: $id, afterSeq: 1) { seq conversation { ` + tooMany + ` } } }`:                                             `null [m conversation members] [{1 97}] BAD_USER_INPUT`,
		`subscription($id: ID!) { m: messageAdded(conversationId: $id, afterSeq: 1) { seq seenBy(first: 1000) { nodes { id } } } }`:                                         `null [m seenBy] [{1 82}] BAD_USER_INPUT`,
		`subscription($id: ID!) { ...F } fragment F on Subscription { ... { m: messageAdded(conversationId: $id, afterSeq: 1) { seenBy(first: 1000) { nodes { id } } } } }`: `null [m seenBy] [{1 120}] BAD_USER_INPUT`,
		`subscription($id: ID!) { e: conversationEvents(conversationId: $id, afterSeq: 1) { conversation { ` + tooMany + ` } } }`:                                           `{"e":{"conversation":null}} [e conversation members] [{1 99}] BAD_USER_INPUT`,
		`subscription($id: ID!) { e: conversationEvents(conversationId: $id, afterSeq: 1) { conversation { id title ` + tooMany + ` } } }`:                                  `{"e":{"conversation":null}} [e conversation members] [{1 108}] BAD_USER_INPUT`,
	} {
		for _, f := range follow(ann.token, id, query) {
			all = append(all, f)
			want[f.name] = text
		}
	}
	expect := func() {
		t.Helper()
		for _, f := range all {
			kind, payload := f.next()
			var got result
			if err := json.Unmarshal([]byte(payload), &got); err != nil || kind != "next" ||
				describe(got) != want[f.name] {
				t.Errorf("%s: %s %s\nwant %s", f.name, kind, payload, want[f.name])
			}
		}
	}
	expect()
	for range 2 { // the second result of conversationEvents is CaughtUp
		s.mustSend(bob, id, "live")
		expect()
	}

	// Errors that refuse a subscription, and errors that end one.
	for _, field := range []string{
		`m: messageAdded(conversationId: $id, afterSeq: 1) { seq }`,
		`m: messageAdded(conversationId: $id, afterSeq: 1) { seq seenBy { nodes { id } } }`,
		`m: conversationEvents(conversationId: $id, afterSeq: 1) { seq }`,
		`m: conversationEvents(conversationId: $id, afterSeq: 1) { conversation { title } }`,
		`m: readReceipts(conversationId: $id) { lastReadSeq }`,
	} {
		query := `subscription($id: ID!) { ` + field + ` }`
		wantEnd := func(f follower, want string) {
			t.Helper()
			kind, payload := f.next()
			for ; kind == "next" && json.Valid([]byte(payload)) &&
				payload[2:6] == "data"; kind, payload = f.next() {
			}
			var got result
			if kind == "error" {
				payload = `{"errors":` + payload + `}`
			}
			if err := json.Unmarshal([]byte(payload), &got); err != nil || describe(got) != want {
				t.Errorf("%s: %s %s\nwant %s", f.name, kind, payload, want)
			}
		}
		for _, f := range follow(eve.token, id, query) {
			wantEnd(f, ` [m] [{1 26}] NOT_FOUND`)
		}
		cat := s.mustRegister("cat" + strconv.Itoa(len(field)))
		other := s.mustConversation(ann, cat)
		s.mustSend(ann, other, "hi")
		followers := follow(cat.token, other, query)
		for _, f := range followers {
			f.next() // the stream has started
		}
		s.do(ann.token, removeMember, obj{"c": other, "u": cat.id})
		for _, f := range followers {
			wantEnd(f, ` [m] [{1 26}] FORBIDDEN`)
		}
	}
}
