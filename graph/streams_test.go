package graph_test

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/store"
	"parley/store/storetest"
)

// next is the data of a subscription's next message, at its root field.
func (o operation) next(t testing.TB, field string) map[string]any {
	t.Helper()
	f := o.frame()
	var payload struct {
		Data   map[string]map[string]any
		Errors json.RawMessage
	}
	if err := json.Unmarshal(f.Payload, &payload); f.Type != "next" || err != nil || payload.Errors != nil {
		t.Fatalf("got %s %s (%v)", f.Type, f.Payload, err)
	}
	return payload.Data[field]
}

const allEvents = `
	... on ConversationEvent { seq actor { nickname } conversation { title } }
	... on ConversationRenamed { title }
	... on ConversationSettingsChanged { membersMayRename }
	... on MemberAdded { user { nickname } role }
	... on MemberRemoved { user { nickname } }
	... on MemberRoleChanged { user { nickname } role }
	... on MessageAdded { message { seq content deletedAt } }
	... on MessageEdited { edited: message { content } }
	... on MessageDeleted { deleted: message { content } }
	... on ReactionAdded { user { nickname } emoji count }
	... on ReactionRemoved { user { nickname } emoji count }`

// lively does one of everything in a group of Ann (owner) and Bob, with Cat coming and going:
// events 2 to 12.
func lively(t *testing.T, s *api, ann, bob, cat person, id string) {
	t.Helper()
	in := map[string]any{"c": id, "cat": cat.id, "bob": bob.id}
	m := s.must(bob, `mutation($c: ID!) { sendMessage(input: {conversationId: $c, content: "helo"}) { message { id } } }`, in).
		str(t, "sendMessage.message.id")
	in["m"] = m
	for _, step := range []struct {
		by    person
		query string
	}{
		{bob, `mutation($m: ID!) { editMessage(input: {messageId: $m, content: "hello"}) { message { id } } }`},
		{ann, `mutation($m: ID!) { addReaction(input: {messageId: $m, emoji: "👍"}) { message { id } } }`},
		{ann, `mutation($m: ID!) { removeReaction(input: {messageId: $m, emoji: "👍"}) { message { id } } }`},
		{ann, `mutation($m: ID!) { deleteMessage(input: {messageId: $m}) { message { id } } }`},
		{ann, `mutation($c: ID!) { renameConversation(input: {conversationId: $c, title: "new"}) { userErrors { code } } }`},
		{ann, `mutation($c: ID!) { updateConversationSettings(input: {conversationId: $c, membersMayRename: true}) { userErrors { code } } }`},
		{ann, `mutation($c: ID!, $cat: ID!) { addMembers(input: {conversationId: $c, members: [{userId: $cat}]}) { userErrors { code } } }`},
		{ann, `mutation($c: ID!, $cat: ID!) { changeMemberRole(input: {conversationId: $c, userId: $cat, role: ADMIN}) { userErrors { code } } }`},
		{ann, `mutation($c: ID!, $cat: ID!) { removeMember(input: {conversationId: $c, userId: $cat}) { userErrors { code } } }`},
		{bob, `mutation($c: ID!) { sendMessage(input: {conversationId: $c, content: "still here"}) { message { id } } }`},
	} {
		s.must(step.by, step.query, in)
	}
}

// told is what allEvents shows of lively, but for what depends on when it is read.
func told() []map[string]any {
	user := func(name string) map[string]any { return map[string]any{"nickname": name} }
	event := func(kind string, seq float64, by string, more map[string]any) map[string]any {
		e := map[string]any{"__typename": kind, "seq": seq, "actor": user(by), "conversation": map[string]any{"title": "new"}}
		maps.Copy(e, more)
		return e
	}
	list := []map[string]any{
		event("MessageAdded", 2, "Bob", nil),
		event("MessageEdited", 3, "Bob", nil),
		event("ReactionAdded", 4, "Ann", map[string]any{"user": user("Ann"), "emoji": "👍", "count": 1.0}),
		event("ReactionRemoved", 5, "Ann", map[string]any{"user": user("Ann"), "emoji": "👍", "count": 0.0}),
		event("MessageDeleted", 6, "Ann", map[string]any{"deleted": map[string]any{"content": ""}}),
		event("ConversationRenamed", 7, "Ann", map[string]any{"title": "new"}),
		event("ConversationSettingsChanged", 8, "Ann", map[string]any{"membersMayRename": true}),
		event("MemberAdded", 9, "Ann", map[string]any{"user": user("Cat"), "role": "MEMBER"}),
		event("MemberRoleChanged", 10, "Ann", map[string]any{"user": user("Cat"), "role": "ADMIN"}),
		event("MemberRemoved", 11, "Ann", map[string]any{"user": user("Cat")}),
		event("MessageAdded", 12, "Bob", map[string]any{
			"message": map[string]any{"seq": 12.0, "content": "still here", "deletedAt": nil},
		}),
	}
	return list
}

// comparable leaves out what depends on when an item is read.
func comparable(e map[string]any) map[string]any {
	if e["seq"] == 2.0 {
		delete(e, "message")
	}
	delete(e, "edited")
	if c, ok := e["conversation"].(map[string]any); ok {
		c["title"] = "new"
	}
	return e
}

func TestConversationEvents(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat := s.mustRegister("Ann"), s.mustRegister("Bob"), s.mustRegister("Cat")
		id := s.mustConversation(ann, bob)
		query := `subscription($c: ID!, $after: Int) { conversationEvents(conversationId: $c, afterSeq: $after) { __typename ` + allEvents + `} }`
		live := s.mustDial(bob.token, nil).subscribe(query, map[string]any{"c": id, "after": 1})
		if got := live.next(t, "conversationEvents"); got["__typename"] != "CaughtUp" || got["seq"] != 1.0 {
			t.Errorf("got %v", got)
		}
		lively(t, s, ann, bob, cat, id)
		for _, want := range told() {
			if diff := cmp.Diff(want, comparable(live.next(t, "conversationEvents"))); diff != "" {
				t.Error(diff)
			}
		}
		replay := s.mustDial(ann.token, nil).subscribe(query, map[string]any{"c": id, "after": 1})
		for _, want := range told() {
			if diff := cmp.Diff(want, comparable(replay.next(t, "conversationEvents"))); diff != "" {
				t.Error(diff)
			}
		}
		if got := replay.next(t, "conversationEvents"); got["__typename"] != "CaughtUp" || got["seq"] != 12.0 {
			t.Errorf("got %v", got)
		}
	})
}

func TestEvents(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat := s.mustRegister("Ann"), s.mustRegister("Bob"), s.mustRegister("Cat")
		query := `subscription($after: String) { events(after: $after) { cursor conversationId event { __typename ` + allEvents + `
			... on ConversationJoined { conversationId now: conversation { id } } ... on ConversationLeft { conversationId } } } }`
		start := s.must(bob, `{ viewer { eventsCursor conversations { nodes { id } } } }`, nil).str(t, "viewer.eventsCursor")

		id := s.mustConversation(ann, bob)
		lively(t, s, ann, bob, cat, id)
		check := func(o operation, joined bool) (cursors []string) {
			t.Helper()
			want := told()
			if joined {
				want = append([]map[string]any{{"__typename": "ConversationJoined", "conversationId": id, "now": map[string]any{"id": id}}}, want...)
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

		// Every item's cursor leads to the next one.
		for i, cursor := range cursors {
			o := s.mustDial(bob.token, nil).subscribe(query, map[string]any{"after": cursor})
			seq := 0.0
			for want := 2.0 + float64(i); want <= 12; want++ {
				if seq = o.next(t, "events")["event"].(map[string]any)["seq"].(float64); seq != want {
					t.Fatalf("after item %d came %v, not %v", i, seq, want)
				}
			}
			if got := o.next(t, "events")["event"].(map[string]any); got["__typename"] != "CaughtUp" {
				t.Errorf("after item %d came %v at last", i, got)
			}
		}

		// Cat came and went meanwhile: for her nothing is left to tell but the end.
		s.must(ann, `mutation($c: ID!, $cat: ID!) { addMembers(input: {conversationId: $c, members: [{userId: $cat}]}) { userErrors { code } } }`,
			map[string]any{"c": id, "cat": cat.id})
		late := s.mustDial(cat.token, nil).subscribe(query, nil)
		if got := late.next(t, "events")["event"].(map[string]any); got["__typename"] != "CaughtUp" {
			t.Errorf("got %v", got)
		}
		s.must(ann, `mutation($c: ID!, $cat: ID!) { removeMember(input: {conversationId: $c, userId: $cat}) { userErrors { code } } }`,
			map[string]any{"c": id, "cat": cat.id})
		for _, want := range []string{"MemberRemoved", "ConversationLeft"} {
			item := late.next(t, "events")
			if got := item["event"].(map[string]any); got["__typename"] != want || item["conversationId"] != id {
				t.Errorf("got %v, want %s of %s", item, want, id)
			}
		}
		other := s.mustConversation(bob, cat)
		if got := late.next(t, "events")["event"].(map[string]any); got["__typename"] != "ConversationJoined" || got["conversationId"] != other {
			t.Errorf("got %v", got)
		}
	})
}

func TestInboxAndConversationAdded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("Ann"), s.mustRegister("Bob")
		id := s.mustConversation(ann, bob)
		inbox := s.mustDial(bob.token, nil).subscribe(`subscription { inboxUpdated { conversationId removed unreadCount conversation {
			lastMessage { content } viewerMember { pinned } } } }`, nil)
		added := s.mustDial(bob.token, nil).subscribe(`subscription { conversationAdded { id title } }`, nil)
		// Nothing says when they have begun: so something happens until they tell.
		begun := make(chan struct{})
		go func() {
			defer close(begun)
			inbox.next(t, "inboxUpdated")
			added.next(t, "conversationAdded")
		}()
		for over := false; !over; {
			s.must(bob, `mutation($c: ID!) { a: updateMembership(input: {conversationId: $c, pinned: true}) { userErrors { code } }
				b: updateMembership(input: {conversationId: $c, pinned: false}) { userErrors { code } } }`, map[string]any{"c": id})
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
		s.must(bob, `mutation($c: ID!) { markRead(input: {conversationId: $c, seq: 2}) { userErrors { code } } }`, map[string]any{"c": id})
		for drain(inbox, "inboxUpdated", "conversationId", id)["unreadCount"] != 0.0 {
		}
		other := s.mustConversation(ann, bob)
		drain(added, "conversationAdded", "id", other)
		drain(inbox, "inboxUpdated", "conversationId", other)
		s.must(bob, `mutation($c: ID!) { leaveConversation(input: {conversationId: $c}) { userErrors { code } } }`, map[string]any{"c": id})
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
