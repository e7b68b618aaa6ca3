package graph_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/store"
	"parley/store/storetest"
)

// The filters of the viewer's conversations, by themselves and together.
func TestFilterOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		// The titles have a letter for each of archived, pinned, muted and unread.
		all := []string{"", "a", "p", "m", "u", "ap", "am", "pu", "mu", "apm", "pmu"}
		for _, title := range all {
			a := s.must(ann,
				`mutation($in: CreateConversationInput!) {
					createConversation(input: $in) { conversation { id }
					userErrors { code path } } }`,
				obj{"in": obj{"title": "c" + title, "members": list{obj{"userId": bob.id}}}})
			id := a.str(t, "createConversation.conversation.id")
			in := obj{"conversationId": id}
			if strings.Contains(title, "u") {
				s.mustSay(bob, id, "hi @ann")
			} else {
				s.mustSay(ann, id, "hi") // not unread for its author
			}
			in["archived"] = strings.Contains(title, "a")
			in["pinned"] = strings.Contains(title, "p")
			in["muted"] = strings.Contains(title, "m")
			s.must(ann, updateMembership+onlyErrors, obj{"in": in})
		}
		for _, filter := range []obj{
			nil,
			{},
			{"archived": nil, "pinned": nil},
			{"archived": true},
			{"archived": false},
			{"pinned": true},
			{"pinned": false},
			{"muted": true},
			{"muted": false},
			{"unread": true},
			{"unread": false},
			{"archived": false, "pinned": true},
			{"archived": true, "muted": false},
			{"pinned": true, "muted": true, "unread": true},
			{"archived": false, "pinned": false, "muted": false, "unread": false},
			{"archived": true, "unread": true},
		} {
			want := list{}
			for i := range all {
				title := all[len(all)-1-i] // the newest first
				fits := true
				for letter, name := range map[string]string{
					"a": "archived", "p": "pinned",
					"m": "muted", "u": "unread",
				} {
					if wanted, given := filter[name].(bool); given &&
						wanted != strings.Contains(title, letter) {
						fits = false
					}
				}
				if fits {
					want = append(want, obj{"title": "c" + title})
				}
			}
			a := s.must(ann,
				`query($f: ConversationFilter) {
					viewer { conversations(filter: $f) { nodes { title } }
					unreadCount unreadMentionCount } }`,
				obj{"f": filter})
			if diff := cmp.Diff(any(want), a.at(t, "viewer.conversations.nodes")); diff != "" {
				t.Errorf("%v: %s", filter, diff)
			}
			if n, m := a.at(t, "viewer.unreadCount"), a.at(t,
				"viewer.unreadMentionCount"); n != 2.0 || m != 2.0 {
				t.Errorf("%v unread, %v mentions, of two that are not muted", n, m)
			}
		}
		// The next page has the same filter.
		const page = `query($after: String) { viewer {
			conversations(filter: {unread: true}, first: 3, after: $after) {
			nodes { title } pageInfo { endCursor hasNextPage } } } }`
		a := s.must(ann, page, nil)
		b := s.must(ann, page, obj{"after": a.str(t, "viewer.conversations.pageInfo.endCursor")})
		if diff := cmp.Diff(any(list{obj{"title": "cu"}}),
			b.at(t, "viewer.conversations.nodes")); diff != "" {
			t.Error(diff)
		}
	})
}
