package graph_test

import (
	"context"
	"testing"

	"parley/auth"
	"parley/store"
	"parley/store/storetest"
)

// TestNothingIsDeliveredBeforeALookAtRevocations ends a session on another node, while this one
// does not look at revocations, like a process that was stopped. The socket is closed, and nothing
// is sent on it before.
func TestNothingIsDeliveredBeforeALookAtRevocations(t *testing.T) {
	t.Parallel()
	const (
		broadcast = `subscription($c: ID!, $after: Int) {
			conversationEvents(conversationId: $c, afterSeq: $after) {
			__typename ... on MessageAdded { message { content } } } }`
		executed = `subscription($c: ID!, $after: Int) {
			messageAdded(conversationId: $c, afterSeq: $after) {
			content conversation { draft } } }`
	)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		other := mustServe(t, db)
		ann, bob := other.mustRegister("ann"), other.mustRegister("bob")
		id := other.mustConversation(ann, bob)
		other.mustSend(ann, id, "before")
		for name, c := range map[string]struct {
			query string
			after any
			live  bool // the session ends once the subscription is live
		}{
			"live":     {broadcast, nil, true},
			"replayed": {broadcast, 0, false},
			"executed": {executed, 0, false},
		} {
			signedIn := other.must(person{}, `mutation {
				login(input: {email: "bob@example.org", password: "a password of bob"}) {
				tokens { accessToken } userErrors { code path } } }`, nil)
			token := signedIn.str(t, "login.tokens.accessToken")
			s := mustServeRunning(t, db, nil, func(*auth.Service, context.Context) {})
			bobs := s.mustDial(token, nil)
			logout := func() {
				other.must(person{token: token},
					`mutation { logout { userErrors { code path } } }`, nil)
			}
			if !c.live {
				logout()
			}
			o := bobs.subscribe(c.query, obj{"c": id, "after": c.after})
			if c.live {
				o.next(t, "conversationEvents") // CaughtUp
				logout()
				s.mustSend(ann, id, "live")
			}
			if code, _ := bobs.closed("next", "complete"); code != 4403 {
				t.Errorf("%s: closed with %d", name, code)
			}
		}
	})
}
