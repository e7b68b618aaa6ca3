package graph_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// What somebody has read, and who may know it.
func TestReadingOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("cat"), s.mustRegister("eve")
		id := s.mustConversation(ann, bob, cat)
		s.mustSay(ann, id, "2")
		three := s.mustSay(ann, id, "3 @bob")
		s.mustSay(bob, id, "4 by bob himself, @bob")
		const own = ` { member { lastReadSeq unreadCount unreadMentionCount } userErrors { code path } } }`
		read := func(last, unread, mentions float64) obj {
			return obj{"lastReadSeq": last, "unreadCount": unread, "unreadMentionCount": mentions}
		}
		s.take(t, []step{
			{"nothing yet", bob, markRead + own, obj{"conversationId": id, "seq": 0}, nil, read(1, 2, 1)},
			{"forwards", bob, markRead + own, obj{"conversationId": id, "seq": 2}, nil, read(2, 1, 1)},
			{"backwards", bob, markRead + own, obj{"conversationId": id, "seq": 1}, nil, read(2, 1, 1)},
			{"beyond the end", bob, markRead + own, obj{"conversationId": id, "seq": 1_000_000}, nil, read(4, 0, 0)},
			{"negative", bob, markRead + own, obj{"conversationId": id, "seq": -1}, []string{"INVALID input.seq"}, nil},
			{"a stranger", eve, markRead + own, obj{"conversationId": id, "seq": 1}, []string{"NOT_FOUND"}, nil},
			{"another kind", bob, markRead + own, obj{"conversationId": three, "seq": 1}, []string{"BAD_USER_INPUT"}, nil},
		})
		s.mustRead(cat, id, 3)

		// Who hides how far they have read is not shown, and is shown nothing.
		look := func(who person) obj {
			a := s.must(who, `query($c: ID!, $m: ID!) {
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
		for _, who := range []person{ann, bob, cat} {
			if diff := cmp.Diff(obj{"ann": 1.0, "bob": 4.0, "cat": 3.0, "seen by": "bob cat"}, look(who)); diff != "" {
				t.Error(diff)
			}
		}
		s.must(cat, `mutation { updateSettings(input: {sendReadReceipts: false}) { userErrors { code path } } }`, nil)
		if diff := cmp.Diff(obj{"ann": 1.0, "bob": 4.0, "cat": nil, "seen by": "bob"}, look(ann)); diff != "" {
			t.Errorf("one who hides theirs is seen: %s", diff)
		}
		if diff := cmp.Diff(obj{"ann": nil, "bob": nil, "cat": 3.0, "seen by": ""}, look(cat)); diff != "" {
			t.Errorf("who hides theirs sees others': %s", diff)
		}
	})
}

// What is the viewer's own of a membership is null of others', wherever it is asked for.
func TestOthersMembershipsKeepTheirSecrets(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		id := s.mustConversation(ann, bob)
		s.mustSay(ann, id, "@bob hi")
		s.must(bob, `mutation($c: ID!) {
			updateMembership(input: {conversationId: $c, muted: true, archived: true, pinned: true}) { userErrors { code path } }
			saveDraft(input: {conversationId: $c, content: "a secret"}) { userErrors { code path } }
		}`, obj{"c": id})
		const fields = `unreadCount unreadMentionCount mutedUntil archived pinned`
		look := func(who person) any {
			return s.must(who, `query($c: ID!, $m: ID!) {
				conversation(id: $c) { draft viewerMember { `+fields+` } members(last: 1) { nodes { `+fields+` } } }
				node(id: $m) { ... on ConversationMember { `+fields+` } }
				viewer { unreadCount unreadMentionCount }
			}`, obj{"c": id, "m": mustMemberID(t, id, bob.id)}).Data
		}
		own := obj{
			"unreadCount": 1.0, "unreadMentionCount": 1.0, "mutedUntil": "9999-12-31T23:59:59.999999Z", "archived": true, "pinned": true,
		}
		concealed := obj{"unreadCount": nil, "unreadMentionCount": nil, "mutedUntil": nil, "archived": nil, "pinned": nil}
		plain := obj{"unreadCount": 0.0, "unreadMentionCount": 0.0, "mutedUntil": nil, "archived": false, "pinned": false}
		none := obj{"unreadCount": 0.0, "unreadMentionCount": 0.0}
		if diff := cmp.Diff(any(obj{
			"conversation": obj{"draft": "a secret", "viewerMember": own, "members": obj{"nodes": list{own}}},
			"node":         own, "viewer": none, // it is muted
		}), look(bob)); diff != "" {
			t.Errorf("their own: %s", diff)
		}
		if diff := cmp.Diff(any(obj{
			"conversation": obj{"draft": nil, "viewerMember": plain, "members": obj{"nodes": list{concealed}}},
			"node":         concealed, "viewer": none,
		}), look(ann)); diff != "" {
			t.Errorf("another's: %s", diff)
		}
	})
}

// How somebody has a conversation: muted, archived, pinned, with a draft.
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
		s.take(t, []step{
			{"nothing", ann, updateMembership + own, obj{"conversationId": id}, nil, has(nil, false, false)},
			{"muted", ann, updateMembership + own, obj{"conversationId": id, "muted": true}, nil, has(forever, false, false)},
			{"muted until", ann, updateMembership + own, obj{"conversationId": id, "mutedUntil": "2999-01-01T02:00:00.1234567+02:00"}, nil, has(later, false, false)},
			{"null changes nothing", ann, updateMembership + own, obj{"conversationId": id, "muted": nil, "mutedUntil": nil, "archived": nil, "pinned": nil}, nil, has(later, false, false)},
			{"pinned", ann, updateMembership + own, obj{"conversationId": id, "pinned": true}, nil, has(later, false, true)},
			{"archived and not muted", ann, updateMembership + own, obj{"conversationId": id, "archived": true, "muted": false}, nil, has(nil, true, true)},
			{"muted, and until a time", ann, updateMembership + own, obj{"conversationId": id, "muted": true, "mutedUntil": later}, nil, has(later, true, true)},
			{"not muted, and until a time", ann, updateMembership + own, obj{"conversationId": id, "muted": false, "mutedUntil": later}, []string{"CONFLICT input.mutedUntil"}, nil},
			{"a time that has passed", ann, updateMembership + own, obj{"conversationId": id, "mutedUntil": "2001-01-01T00:00:00Z", "pinned": false}, []string{"INVALID input.mutedUntil"}, nil},
			{"not a time", ann, updateMembership + own, obj{"conversationId": id, "mutedUntil": "tomorrow"}, []string{"BAD_USER_INPUT"}, nil},
			{"a stranger", eve, updateMembership + own, obj{"conversationId": id, "pinned": true}, []string{"NOT_FOUND"}, nil},
			{"another kind", ann, updateMembership + own, obj{"conversationId": m, "pinned": true}, []string{"BAD_USER_INPUT"}, nil},
			{"as it was", ann, updateMembership + own, obj{"conversationId": id}, nil, has(later, true, true)},

			{"draft", ann, saveDraft + draft, obj{"conversationId": id, "content": "  so\r\nit goes "}, nil, obj{"draft": "  so\nit goes "}},
			{"draft: too long", ann, saveDraft + draft, obj{"conversationId": id, "content": long}, []string{"TOO_LONG input.content"}, nil},
			{"draft: NUL", ann, saveDraft + draft, obj{"conversationId": id, "content": "a\x00"}, []string{"INVALID input.content"}, nil},
			{"draft: a stranger", eve, saveDraft + draft, obj{"conversationId": id, "content": "a"}, []string{"NOT_FOUND"}, nil},
			{"draft: another kind", ann, saveDraft + draft, obj{"conversationId": ann.id, "content": "a"}, []string{"BAD_USER_INPUT"}, nil},
			{"draft: another's", bob, saveDraft + draft, obj{"conversationId": id, "content": "bob's"}, nil, obj{"draft": "bob's"}},
			{"draft: as it was, also after sending", ann, replyMessage + ` { message { conversation { draft } } userErrors { code path } } }`, obj{"conversationId": id, "content": "hi"}, nil, obj{"conversation": obj{"draft": "  so\nit goes "}}},
			{"draft: blank", ann, saveDraft + draft, obj{"conversationId": id, "content": " \n "}, nil, obj{"draft": nil}},
			{"a message has brought it back", ann, updateMembership + own, obj{"conversationId": id}, nil, has(later, false, true)},
		})
	})
}

// The filters of the viewer's conversations, by themselves and together.
func TestFilterOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		// Their titles say which of the four they are: archived, pinned, muted, unread.
		all := []string{"", "a", "p", "m", "u", "ap", "am", "pu", "mu", "apm", "pmu"}
		for _, title := range all {
			a := s.must(ann, `mutation($in: CreateConversationInput!) { createConversation(input: $in) { conversation { id } userErrors { code path } } }`,
				obj{"in": obj{"title": "c" + title, "members": list{obj{"userId": bob.id}}}})
			id := a.str(t, "createConversation.conversation.id")
			in := obj{"conversationId": id}
			if strings.Contains(title, "u") {
				s.mustSay(bob, id, "hi @ann")
			} else {
				s.mustSay(ann, id, "hi") // one's own is not unread
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
				for letter, name := range map[string]string{"a": "archived", "p": "pinned", "m": "muted", "u": "unread"} {
					if wanted, given := filter[name].(bool); given && wanted != strings.Contains(title, letter) {
						fits = false
					}
				}
				if fits {
					want = append(want, obj{"title": "c" + title})
				}
			}
			a := s.must(ann, `query($f: ConversationFilter) { viewer { conversations(filter: $f) { nodes { title } } unreadCount unreadMentionCount } }`,
				obj{"f": filter})
			if diff := cmp.Diff(any(want), a.at(t, "viewer.conversations.nodes")); diff != "" {
				t.Errorf("%v: %s", filter, diff)
			}
			if n, m := a.at(t, "viewer.unreadCount"), a.at(t, "viewer.unreadMentionCount"); n != 2.0 || m != 2.0 {
				t.Errorf("%v unread, %v mentions, of two that are not muted", n, m)
			}
		}
		// A page goes on under the same filter.
		const page = `query($after: String) { viewer { conversations(filter: {unread: true}, first: 3, after: $after) {
			nodes { title } pageInfo { endCursor hasNextPage } } } }`
		a := s.must(ann, page, nil)
		b := s.must(ann, page, obj{"after": a.str(t, "viewer.conversations.pageInfo.endCursor")})
		if diff := cmp.Diff(any(list{obj{"title": "cu"}}), b.at(t, "viewer.conversations.nodes")); diff != "" {
			t.Error(diff)
		}
	})
}

// What a search finds, and what it refuses.
func TestSearchOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("eve")
		here, there, hidden := s.mustConversation(ann, bob), s.mustDirect(ann, bob), s.mustConversation(bob, eve)
		s.mustSay(ann, here, "An analytical Engine")
		edited := s.mustSay(bob, here, "an engine, before")
		gone := s.mustSay(ann, there, "the ENGINE is gone")
		s.mustSay(bob, there, "蒸気機関 engine 👩‍💻")
		s.mustSay(bob, hidden, "their engine")
		s.must(bob, editMessage+onlyErrors, obj{"in": obj{"messageId": edited, "content": "a motor, after"}})
		s.must(ann, deleteMessage+onlyErrors, obj{"in": obj{"messageId": gone}})

		const search = `query($query: String!, $conversationId: ID, $authorId: ID, $sentAfter: Time, $sentBefore: Time, $first: Int, $after: String) {
			searchMessages(query: $query, conversationId: $conversationId, authorId: $authorId, sentAfter: $sentAfter, sentBefore: $sentBefore,
				first: $first, after: $after) { edges { cursor snippet { text match } node { createdAt } } nodes { content } pageInfo { hasNextPage } } }`
		whole, japanese, motor := "An analytical Engine", "蒸気機関 engine 👩‍💻", "a motor, after"
		at := s.must(ann, search, obj{"query": "analytical"}).str(t, "searchMessages.edges.0.node.createdAt")
		for _, c := range []struct {
			variables obj
			codes     []string
			want      []string
		}{
			{obj{"query": "engine"}, nil, []string{japanese, whole}},
			{obj{"query": "ENGINE analytical"}, nil, []string{whole}},
			{obj{"query": "気機"}, nil, []string{japanese}},
			{obj{"query": "motor"}, nil, []string{motor}},
			{obj{"query": "before"}, nil, nil},
			{obj{"query": "gone"}, nil, nil},
			{obj{"query": "eng"}, nil, nil},
			{obj{"query": "their"}, nil, nil},
			{obj{"query": `engine" OR "their`}, nil, nil},
			{obj{"query": "engine", "conversationId": here}, nil, []string{whole}},
			{obj{"query": "engine", "conversationId": hidden}, nil, nil},
			{obj{"query": "engine", "authorId": bob.id}, nil, []string{japanese}},
			{obj{"query": "engine", "sentAfter": at}, nil, []string{japanese}},
			{obj{"query": "engine", "sentBefore": at}, nil, nil},
			{obj{"query": "engine", "sentBefore": "2999-01-01T00:00:00+14:00", "sentAfter": "2001-01-01T00:00:00Z"}, nil, []string{japanese, whole}},
			{obj{"query": "engine", "conversationId": here, "authorId": bob.id}, nil, nil},
			{obj{"query": ""}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "?!"}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "a\x00b"}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": strings.Repeat("a", 201)}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21"}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "engine", "conversationId": bob.id}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "engine", "authorId": here}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "engine", "authorId": model.NewUserID().String()}, nil, nil},
			{obj{"query": "engine", "sentAfter": "yesterday"}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "engine", "after": "eHg"}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "engine", "first": 101}, []string{"BAD_USER_INPUT"}, nil},
		} {
			a := s.do(ann.token, search, c.variables)
			if diff := cmp.Diff(c.codes, a.codes()); diff != "" {
				t.Errorf("%.60v: %s", c.variables, diff)
				continue
			}
			if c.codes != nil {
				continue
			}
			var got []string
			for _, m := range a.at(t, "searchMessages.nodes").([]any) {
				got = append(got, m.(obj)["content"].(string))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%v: %s", c.variables, diff)
			}
		}
		first := s.must(ann, search, obj{"query": "engine", "first": 1})
		if diff := cmp.Diff(any(list{
			obj{"text": "蒸気機関 ", "match": false}, obj{"text": "engine", "match": true}, obj{"text": " 👩‍💻", "match": false},
		}), first.at(t, "searchMessages.edges.0.snippet")); diff != "" {
			t.Errorf("the snippet: %s", diff)
		}
		next := s.must(ann, search, obj{"query": "engine", "first": 1, "after": first.str(t, "searchMessages.edges.0.cursor")})
		if diff := cmp.Diff(any(list{obj{"content": whole}}), next.at(t, "searchMessages.nodes")); diff != "" ||
			next.at(t, "searchMessages.pageInfo.hasNextPage") != false {
			t.Errorf("the next page: %s %+v", diff, next)
		}
	})
}
