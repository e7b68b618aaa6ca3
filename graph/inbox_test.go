package graph_test

import (
	"testing"

	"parley/store"
	"parley/store/storetest"
)

func TestInboxAndConversationAdded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("Ann"), s.mustRegister("Bob")
		id := s.mustConversation(ann, bob)
		inbox := s.mustDial(bob.token, nil).
			subscribe(
				`subscription { inboxUpdated { conversationId removed unreadCount conversation {
			lastMessage { content } viewerMember { pinned } } } }`, nil)
		added := s.mustDial(bob.token, nil).
			subscribe(`subscription { conversationAdded { id title } }`, nil)
		// Their start cannot be seen, so changes go on until they deliver one.
		begun := make(chan struct{})
		go func() {
			defer close(begun)
			inbox.next(t, "inboxUpdated")
			added.next(t, "conversationAdded")
		}()
		for over := false; !over; {
			s.must(bob,
				`mutation($c: ID!) { a: updateMembership(input: {conversationId: $c,
					pinned: true}) { userErrors { code } }
				b: updateMembership(input: {conversationId: $c, pinned: false}) {
				userErrors { code } } }`, map[string]any{"c": id})
			s.mustConversation(ann, bob)
			select {
			case <-begun:
				over = true
			default:
			}
		}
		drain := func(o operation, field, key, id string) map[string]any {
			for {
				if got := o.next(t, field); got[key] == id {
					return got
				}
			}
		}
		s.mustSend(ann, id, "hello")
		for drain(inbox, "inboxUpdated", "conversationId", id)["unreadCount"] != 1.0 {
		}
		s.must(bob,
			`mutation($c: ID!) { markRead(input: {conversationId: $c, seq: 2}) {
				userErrors { code } } }`, map[string]any{"c": id})
		for drain(inbox, "inboxUpdated", "conversationId", id)["unreadCount"] != 0.0 {
		}
		other := s.mustConversation(ann, bob)
		drain(added, "conversationAdded", "id", other)
		drain(inbox, "inboxUpdated", "conversationId", other)
		s.must(bob,
			`mutation($c: ID!) { leaveConversation(input: {conversationId: $c}) {
				userErrors { code } } }`, map[string]any{"c": id})
		for {
			got := inbox.next(t, "inboxUpdated")
			if got["conversationId"] == id && got["removed"] == true {
				if got["conversation"] != nil {
					t.Errorf("got %v", got)
				}
				break
			}
		}
	})
}
