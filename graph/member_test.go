package graph_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/store"
	"parley/store/storetest"
)

// How far members have read, and which viewers may know it.
func TestReadingOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("cat"),
			s.mustRegister("eve")
		id := s.mustConversation(ann, bob, cat)
		s.mustSay(ann, id, "2")
		three := s.mustSay(ann, id, "3 @bob")
		s.mustSay(bob, id, "4 by bob himself, @bob")
		const own = ` { member { lastReadSeq unreadCount unreadMentionCount }
			userErrors { code path } } }`
		read := func(last, unread, mentions float64) obj {
			return obj{"lastReadSeq": last, "unreadCount": unread, "unreadMentionCount": mentions}
		}
		s.run(t, []step{
			{
				"nothing yet", bob, markRead + own,
				obj{"conversationId": id, "seq": 0},
				nil,
				read(1, 2, 1),
			},
			{
				"forwards", bob, markRead + own,
				obj{"conversationId": id, "seq": 2},
				nil,
				read(2, 1, 1),
			},
			{
				"backwards", bob, markRead + own,
				obj{"conversationId": id, "seq": 1},
				nil,
				read(2, 1, 1),
			},
			{
				"beyond the end", bob, markRead + own,
				obj{"conversationId": id, "seq": 1_000_000},
				nil, read(4, 0, 0),
			},
			{
				"negative", bob, markRead + own,
				obj{"conversationId": id, "seq": -1},
				[]string{"INVALID input.seq"},
				nil,
			},
			{
				"a non-member", eve, markRead + own,
				obj{"conversationId": id, "seq": 1},
				[]string{"NOT_FOUND"},
				nil,
			},
			{
				"another kind", bob, markRead + own,
				obj{"conversationId": three, "seq": 1},
				[]string{"BAD_USER_INPUT"},
				nil,
			},
		})
		s.mustRead(cat, id, 3)

		// A member who turns read receipts off is not shown, and does not see those of others.
		look := func(caller person) obj {
			a := s.must(caller, `query($c: ID!, $m: ID!) {
				conversation(id: $c) { members { nodes { user { nickname } lastReadSeq } } }
				node(id: $m) { ... on Message { seenBy { nodes { nickname } } } }
			}`, obj{"c": id, "m": three})
			seen := obj{}
			for _, m := range a.at(t, "conversation.members.nodes").([]any) {
				seen[m.(obj)["user"].(obj)["nickname"].(string)] = m.(obj)["lastReadSeq"]
			}
			var by []string
			for _, u := range a.at(t, "node.seenBy.nodes").([]any) {
				by = append(by, u.(obj)["nickname"].(string))
			}
			seen["seen by"] = strings.Join(by, " ")
			return seen
		}
		for _, caller := range []person{ann, bob, cat} {
			if diff := cmp.Diff(obj{"ann": 1.0, "bob": 4.0, "cat": 3.0, "seen by": "bob cat"},
				look(caller)); diff != "" {
				t.Error(diff)
			}
		}
		s.must(cat, `mutation { updateSettings(input: {sendReadReceipts: false}) {
			userErrors { code path } } }`, nil)
		if diff := cmp.Diff(obj{"ann": 1.0, "bob": 4.0, "cat": nil, "seen by": "bob"},
			look(ann)); diff != "" {
			t.Errorf("receipts of a member caller hides them are shown: %s", diff)
		}
		if diff := cmp.Diff(obj{"ann": nil, "bob": nil, "cat": 3.0, "seen by": ""},
			look(cat)); diff != "" {
			t.Errorf("a member caller hides receipts sees those of others: %s", diff)
		}
	})
}

// The viewer's own fields of a membership are null in memberships of others, wherever they are
// selected.
func TestOthersMembershipsKeepTheirSecrets(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		id := s.mustConversation(ann, bob)
		s.mustSay(ann, id, "@bob hi")
		s.must(bob, `mutation($c: ID!) {
			updateMembership(input: {conversationId: $c, muted: true, archived: true,
			pinned: true}) { userErrors { code path } }
			saveDraft(input: {conversationId: $c, content: "a secret"}) { userErrors { code path } }
		}`, obj{"c": id})
		const fields = `unreadCount unreadMentionCount mutedUntil archived pinned`
		look := func(caller person) any {
			return s.must(caller, `query($c: ID!, $m: ID!) {
				conversation(id: $c) {
				draft viewerMember { `+fields+` } members(last: 1) { nodes { `+fields+` } } }
				node(id: $m) { ... on ConversationMember { `+fields+` } }
				viewer { unreadCount unreadMentionCount }
			}`, obj{"c": id, "m": mustMemberID(t, id, bob.id)}).Data
		}
		own := obj{
			"unreadCount": 1.0, "unreadMentionCount": 1.0,
			"mutedUntil": "9999-12-31T23:59:59.999999Z",
			"archived":   true, "pinned": true,
		}
		concealed := obj{
			"unreadCount": nil, "unreadMentionCount": nil, "mutedUntil": nil,
			"archived": nil, "pinned": nil,
		}
		plain := obj{
			"unreadCount": 0.0, "unreadMentionCount": 0.0, "mutedUntil": nil,
			"archived": false, "pinned": false,
		}
		none := obj{"unreadCount": 0.0, "unreadMentionCount": 0.0}
		if diff := cmp.Diff(any(obj{
			"conversation": obj{
				"draft": "a secret", "viewerMember": own,
				"members": obj{"nodes": list{own}},
			},
			"node": own, "viewer": none, // it is muted
		}), look(bob)); diff != "" {
			t.Errorf("their own: %s", diff)
		}
		if diff := cmp.Diff(any(obj{
			"conversation": obj{
				"draft": nil, "viewerMember": plain,
				"members": obj{"nodes": list{concealed}},
			},
			"node": concealed, "viewer": none,
		}), look(ann)); diff != "" {
			t.Errorf("another's: %s", diff)
		}
	})
}

// A membership: muted, archived, pinned, with a draft.
func TestMembershipOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("eve")
		id := s.mustConversation(ann, bob)
		m := s.mustSay(bob, id, "hi")
		const own = ` { member { mutedUntil archived pinned } userErrors { code path } } }`
		const draft = ` { conversation { draft } userErrors { code path } } }`
		has := func(until any, archived, pinned bool) obj {
			return obj{"mutedUntil": until, "archived": archived, "pinned": pinned}
		}
		const forever, later = "9999-12-31T23:59:59.999999Z", "2999-01-01T00:00:00.123456Z"
		long := strings.Repeat("é", 4001)
		s.run(t, []step{
			{
				"nothing", ann, updateMembership + own,
				obj{"conversationId": id},
				nil,
				has(nil, false, false),
			},
			{
				"muted", ann, updateMembership + own,
				obj{"conversationId": id, "muted": true},
				nil,
				has(forever, false, false),
			},
			{
				"muted until", ann, updateMembership + own,
				obj{"conversationId": id, "mutedUntil": "2999-01-01T02:00:00.1234567+02:00"},
				nil, has(later, false, false),
			},
			{
				"null changes nothing", ann, updateMembership + own,
				obj{
					"conversationId": id, "muted": nil, "mutedUntil": nil, "archived": nil,
					"pinned": nil,
				},
				nil, has(later, false, false),
			},
			{
				"pinned", ann, updateMembership + own,
				obj{"conversationId": id, "pinned": true},
				nil,
				has(later, false, true),
			},
			{
				"archived and not muted", ann, updateMembership + own,
				obj{"conversationId": id, "archived": true, "muted": false},
				nil, has(nil, true,
					true),
			},
			{
				"muted, and until a time", ann, updateMembership + own,
				obj{"conversationId": id, "muted": true, "mutedUntil": later},
				nil, has(later, true,
					true),
			},
			{
				"not muted, and until a time", ann, updateMembership + own,
				obj{
					"conversationId": id, "muted": false,
					"mutedUntil": later,
				},
				[]string{"CONFLICT input.mutedUntil"},
				nil,
			},
			{
				"a time that has passed", ann, updateMembership + own,
				obj{
					"conversationId": id, "mutedUntil": "2001-01-01T00:00:00Z",
					"pinned": false,
				},
				[]string{"INVALID input.mutedUntil"},
				nil,
			},
			{
				"not a time", ann, updateMembership + own,
				obj{
					"conversationId": id,
					"mutedUntil":     "tomorrow",
				},
				[]string{"BAD_USER_INPUT"},
				nil,
			},
			{
				"a non-member", eve, updateMembership + own,
				obj{"conversationId": id, "pinned": true},
				[]string{"NOT_FOUND"},
				nil,
			},
			{
				"another kind", ann, updateMembership + own,
				obj{"conversationId": m, "pinned": true},
				[]string{"BAD_USER_INPUT"},
				nil,
			},
			{
				"as it was", ann, updateMembership + own,
				obj{"conversationId": id},
				nil,
				has(later, true, true),
			},

			{"draft", ann, saveDraft + draft, obj{
				"conversationId": id,
				"content":        "  so\r\nit goes ",
			}, nil, obj{"draft": "  so\nit goes "}},
			{
				"draft: too long", ann, saveDraft + draft,
				obj{"conversationId": id, "content": long},
				[]string{"TOO_LONG input.content"},
				nil,
			},
			{
				"draft: NUL", ann, saveDraft + draft,
				obj{"conversationId": id, "content": "a\x00"},
				[]string{"INVALID input.content"},
				nil,
			},
			{
				"draft: a non-member", eve, saveDraft + draft,
				obj{"conversationId": id, "content": "a"},
				[]string{"NOT_FOUND"},
				nil,
			},
			{
				"draft: another kind", ann, saveDraft + draft,
				obj{"conversationId": ann.id, "content": "a"},
				[]string{"BAD_USER_INPUT"},
				nil,
			},
			{
				"draft: another's", bob, saveDraft + draft,
				obj{"conversationId": id, "content": "bob's"},
				nil,
				obj{"draft": "bob's"},
			},
			{
				"draft: as it was, also after sending", ann,
				replyMessage + ` { message { conversation { draft } }
					userErrors { code path } } }`,
				obj{
					"conversationId": id,
					"content":        "hi",
				},
				nil,
				obj{"conversation": obj{"draft": "  so\nit goes "}},
			},
			{
				"draft: blank", ann, saveDraft + draft,
				obj{"conversationId": id, "content": " \n "},
				nil,
				obj{"draft": nil},
			},
			{
				"a message has brought it back", ann, updateMembership + own,
				obj{"conversationId": id},
				nil, has(later, false, true),
			},
		})
	})
}
