package graph_test

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/feed"
	"parley/store"
	"parley/store/storetest"
)

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
	m := s.must(bob,
		`mutation($c: ID!) { sendMessage(input: {conversationId: $c, content: "helo"}) {
			message { id } } }`, in).
		str(t, "sendMessage.message.id")
	in["m"] = m
	for _, step := range []struct {
		by    person
		query string
	}{
		{
			bob,
			`mutation($m: ID!) { editMessage(input: {messageId: $m, content: "hello"}) {
				message { id } } }`,
		},
		{
			ann,
			`mutation($m: ID!) { addReaction(input: {messageId: $m, emoji: "👍"}) {
				message { id } } }`,
		},
		{
			ann,
			`mutation($m: ID!) { removeReaction(input: {messageId: $m, emoji: "👍"}) {
				message { id } } }`,
		},
		{ann, `mutation($m: ID!) { deleteMessage(input: {messageId: $m}) { message { id } } }`},
		{
			ann,
			`mutation($c: ID!) { renameConversation(input: {conversationId: $c, title: "new"}) {
				userErrors { code } } }`,
		},
		{
			ann,
			`mutation($c: ID!) { updateConversationSettings(input: {conversationId: $c,
				membersMayRename: true}) { userErrors { code } } }`,
		},
		{
			ann,
			`mutation($c: ID!, $cat: ID!) { addMembers(input: {conversationId: $c,
				members: [{userId: $cat}]}) { userErrors { code } } }`,
		},
		{
			ann,
			`mutation($c: ID!, $cat: ID!) { changeMemberRole(input: {conversationId: $c,
				userId: $cat, role: ADMIN}) { userErrors { code } } }`,
		},
		{
			ann,
			`mutation($c: ID!, $cat: ID!) { removeMember(input: {conversationId: $c,
				userId: $cat}) { userErrors { code } } }`,
		},
		{
			bob,
			`mutation($c: ID!) { sendMessage(input: {conversationId: $c, content: "still here"}) {
				message { id } } }`,
		},
	} {
		s.must(step.by, step.query, in)
	}
}

// livelyEvents is what allEvents shows of lively, except what depends on when it is read.
func livelyEvents() []map[string]any {
	user := func(name string) map[string]any { return map[string]any{"nickname": name} }
	event := func(kind string, seq float64, by string, more map[string]any) map[string]any {
		e := map[string]any{
			"__typename": kind, "seq": seq, "actor": user(by),
			"conversation": map[string]any{"title": "new"},
		}
		maps.Copy(e, more)
		return e
	}
	list := []map[string]any{
		event("MessageAdded", 2, "Bob", nil),
		event("MessageEdited", 3, "Bob", nil),
		event("ReactionAdded", 4, "Ann",
			map[string]any{"user": user("Ann"), "emoji": "👍", "count": 1.0}),
		event("ReactionRemoved", 5, "Ann",
			map[string]any{"user": user("Ann"), "emoji": "👍", "count": 0.0}),
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
		query :=
			`subscription($c: ID!, $after: Int) {
				conversationEvents(conversationId: $c, afterSeq: $after) { __typename ` +
				allEvents + `} }`
		live := s.mustDial(bob.token, nil).subscribe(query, map[string]any{"c": id, "after": 1})
		if got := live.next(t, "conversationEvents"); got["__typename"] != "CaughtUp" ||
			got["seq"] != 1.0 {
			t.Errorf("got %v", got)
		}
		lively(t, s, ann, bob, cat, id)
		for _, want := range livelyEvents() {
			if diff := cmp.Diff(want, comparable(live.next(t, "conversationEvents"))); diff != "" {
				t.Error(diff)
			}
		}
		replay := s.mustDial(ann.token, nil).subscribe(query, map[string]any{"c": id, "after": 1})
		for _, want := range livelyEvents() {
			if diff := cmp.Diff(want, comparable(replay.next(t,
				"conversationEvents"))); diff != "" {
				t.Error(diff)
			}
		}
		if got := replay.next(t, "conversationEvents"); got["__typename"] != "CaughtUp" ||
			got["seq"] != 12.0 {
			t.Errorf("got %v", got)
		}
	})
}

// After a restore another process raises the seqs. Streams of a conversation and of everything
// deliver the event with its range, and streams of messages only what follows.
func TestHistoryRestored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("Ann"), s.mustRegister("Bob")
		id := s.mustConversation(ann, bob)
		in := map[string]any{"c": id}
		conn := s.mustDial(bob.token, nil)
		events := conn.subscribe(`subscription($c: ID!) {
			conversationEvents(conversationId: $c, afterSeq: 1) { __typename
				... on ConversationEvent { seq actor { nickname } conversation { lastSeq } }
				... on HistoryRestored { firstSeq lastSeq } } }`, in)
		everything := conn.subscribe(`subscription { events { conversationId event { __typename
			... on HistoryRestored { seq firstSeq lastSeq } } } }`, nil)
		messages := conn.subscribe(`subscription($c: ID!) {
			messageAdded(conversationId: $c, afterSeq: 1) { seq } }`, in)
		events.next(t, "conversationEvents") // CaughtUp
		everything.next(t, "events")

		operator := feed.New(db, feed.Options{})
		if _, err := operator.RaiseSeqs(t.Context(), db.Now().Add(-time.Hour), 1000,
			nil); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"__typename": "HistoryRestored", "seq": 1001.0, "firstSeq": 2.0, "lastSeq": 1000.0,
			"actor": nil, "conversation": map[string]any{"lastSeq": 1001.0},
		}
		if diff := cmp.Diff(want, events.next(t, "conversationEvents")); diff != "" {
			t.Error(diff)
		}
		delete(want, "actor")
		delete(want, "conversation")
		item := map[string]any{"conversationId": id, "event": want}
		if diff := cmp.Diff(item, everything.next(t, "events")); diff != "" {
			t.Error(diff)
		}
		s.must(ann, `mutation($c: ID!) { sendMessage(input: {conversationId: $c, content: "on"}) {
			message { id } } }`, in)
		got := messages.next(t, "messageAdded")
		if diff := cmp.Diff(map[string]any{"seq": 1002.0}, got); diff != "" {
			t.Error(diff)
		}
	})
}
