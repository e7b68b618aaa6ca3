package graph_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/store"
	"parley/store/storetest"
)

func TestEvents(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat := s.mustRegister("Ann"), s.mustRegister("Bob"), s.mustRegister("Cat")
		query :=
			`subscription($after: String) { events(after: $after) {
				cursor conversationId event { __typename ` + allEvents + `
			... on ConversationJoined { conversationId now: conversation { id } }
			... on ConversationLeft { conversationId } } } }`
		start := s.must(bob, `{ viewer { eventsCursor conversations { nodes { id } } } }`, nil).
			str(t, "viewer.eventsCursor")

		id := s.mustConversation(ann, bob)
		lively(t, s, ann, bob, cat, id)
		check := func(o operation, joined bool) (cursors []string) {
			t.Helper()
			want := livelyEvents()
			if joined {
				want = append([]map[string]any{{
					"__typename":     "ConversationJoined",
					"conversationId": id, "now": map[string]any{"id": id},
				}}, want...)
			}
			for _, w := range want {
				item := o.next(t, "events")
				if item["conversationId"] != id {
					t.Errorf("it is not said where: %v", item)
				}
				if diff := cmp.Diff(w, comparable(item["event"].(map[string]any))); diff != "" {
					t.Error(diff)
				}
				cursors = append(cursors, item["cursor"].(string))
			}
			return cursors
		}
		o := s.mustDial(bob.token, nil).subscribe(query, map[string]any{"after": start})
		cursors := check(o, true)
		if got := o.next(t, "events")["event"].(map[string]any); got["__typename"] != "CaughtUp" {
			t.Errorf("got %v", got)
		}

		// The cursor of each item continues with the next one.
		for i, cursor := range cursors {
			o := s.mustDial(bob.token, nil).subscribe(query, map[string]any{"after": cursor})
			seq := 0.0
			for want := 2.0 + float64(i); want <= 12; want++ {
				if seq = o.next(t,
					"events")["event"].(map[string]any)["seq"].(float64); seq != want {
					t.Fatalf("after item %d came %v, not %v", i, seq, want)
				}
			}
			if got := o.next(t,
				"events")["event"].(map[string]any); got["__typename"] != "CaughtUp" {
				t.Errorf("after item %d came %v at last", i, got)
			}
		}

		// Cat was added and removed meanwhile: she is only sent the end.
		s.must(ann,
			`mutation($c: ID!, $cat: ID!) { addMembers(input: {conversationId: $c,
				members: [{userId: $cat}]}) { userErrors { code } } }`,
			map[string]any{"c": id, "cat": cat.id})
		late := s.mustDial(cat.token, nil).subscribe(query, nil)
		if got := late.next(t,
			"events")["event"].(map[string]any); got["__typename"] != "CaughtUp" {
			t.Errorf("got %v", got)
		}
		s.must(ann,
			`mutation($c: ID!, $cat: ID!) { removeMember(input: {conversationId: $c,
				userId: $cat}) { userErrors { code } } }`,
			map[string]any{"c": id, "cat": cat.id})
		for _, want := range []string{"MemberRemoved", "ConversationLeft"} {
			item := late.next(t, "events")
			if got := item["event"].(map[string]any); got["__typename"] != want ||
				item["conversationId"] != id {
				t.Errorf("got %v, want %s of %s", item, want, id)
			}
		}
		other := s.mustConversation(bob, cat)
		if got := late.next(t,
			"events")["event"].(map[string]any); got["__typename"] != "ConversationJoined" ||
			got["conversationId"] != other {
			t.Errorf("got %v", got)
		}
	})
}
