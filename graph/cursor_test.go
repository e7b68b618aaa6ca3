package graph_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

const eventsAfter = `subscription($c: ID!, $after: String, $seq: Int) {
	conversationEvents(conversationId: $c, after: $after, afterSeq: $seq) {
		__typename seq cursor ... on MessageAdded { message { seq cursor content } }
	}
}`

// goBack makes a conversation what it was when seq was its newest event, as a backup that is
// restored does. Nothing is published.
func goBack(t *testing.T, db *store.DB, conversation string, seq int) {
	t.Helper()
	id, err := model.ParseID[model.ConversationID](conversation)
	if err != nil {
		t.Fatal(err)
	}
	err = db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		for _, table := range []string{"events", "messages"} {
			if _, err := tx.NewDelete().Table(table).Where("conversation_id = ?", id).
				Where("seq > ?", seq).Exec(ctx); err != nil {
				return err
			}
		}
		_, err := tx.NewUpdate().Table("conversations").Set("last_seq = ?", seq).
			Where("id = ?", id).Exec(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// messages lists the newest messages of a conversation, with its eventsCursor.
func (s *api) messages(p person, conversation string) answer {
	s.t.Helper()
	return s.must(p, `query($c: ID!) { conversation(id: $c) { eventsCursor
		messages(last: 50) { edges { cursor node { seq cursor content } } } } }`,
		map[string]any{"c": conversation})
}

// TestCursorsNamePlaces: the cursor of a message is the same wherever it is read, and conversation,
// events and messages continue after it with what comes next.
func TestCursorsNamePlaces(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat := s.mustRegister("Ann"), s.mustRegister("Bob"), s.mustRegister("Cat")
		id := s.mustConversation(ann, bob)
		lively(t, s, ann, bob, cat, id)
		socket := s.mustDial(ann.token, nil)
		follow := func(after string) operation {
			return socket.subscribe(eventsAfter, map[string]any{"c": id, "after": after})
		}
		all := socket.subscribe(eventsAfter, map[string]any{"c": id, "seq": 0})
		cursors := []string{""} // by seq
		for seq := 1.0; seq <= 12; seq++ {
			e := all.next(t, "conversationEvents")
			if e["seq"] != seq {
				t.Fatalf("got %v, want event %v", e, seq)
			}
			cursors = append(cursors, e["cursor"].(string))
			if m, added := e["message"].(map[string]any); added && m["cursor"] != e["cursor"] {
				t.Errorf("the cursors of a message and its event differ: %v", e)
			}
		}
		end := all.next(t, "conversationEvents")
		if end["__typename"] != "CaughtUp" || end["cursor"] != cursors[12] {
			t.Errorf("got %v, want CaughtUp with %s", end, cursors[12])
		}

		listed := s.messages(ann, id)
		for _, edge := range listed.at(t, "conversation.messages.edges").([]any) {
			edge := edge.(map[string]any)
			node := edge["node"].(map[string]any)
			want := cursors[int(node["seq"].(float64))]
			if edge["cursor"] != want || node["cursor"] != want {
				t.Errorf("%v, want twice %s", edge, want)
			}
		}
		// Nothing is missed between a query and what continues after its eventsCursor.
		s.mustSend(bob, id, "after the query")
		at := listed.str(t, "conversation.eventsCursor")
		if got := follow(at).next(t, "conversationEvents"); got["seq"] != 13.0 {
			t.Errorf("after the cursor of the query comes %v", got)
		}
		for seq, cursor := range cursors {
			if seq == 0 {
				continue
			}
			if got := follow(cursor).next(t, "conversationEvents"); got["seq"] != float64(seq+1) {
				t.Errorf("after %d comes %v", seq, got)
			}
		}
		last := s.messages(ann, id).str(t, "conversation.eventsCursor")
		if got := follow(last).next(t,
			"conversationEvents"); got["__typename"] != "CaughtUp" || got["cursor"] != last {
			t.Errorf("after the newest comes %v, want CaughtUp with %s", got, last)
		}
		// The list takes the cursors of events, too.
		page := s.must(ann, `query($c: ID!, $after: String) { conversation(id: $c) {
			messages(first: 1, after: $after) { nodes { content } } } }`,
			map[string]any{"c": id, "after": cursors[5]})
		if got := page.str(t, "conversation.messages.nodes.0.content"); got != "still here" {
			t.Errorf("the list continues with %q", got)
		}
	})
}

func TestCursorsOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		id, other := s.mustConversation(ann, bob), s.mustConversation(ann, bob)
		s.mustSend(ann, id, "hi")
		cursors := s.must(ann, `query($id: ID!, $other: ID!) {
			viewer { eventsCursor conversations(first: 1) { edges { cursor } } }
			conversation(id: $id) { eventsCursor members(first: 1) { edges { cursor } } }
			other: conversation(id: $other) { eventsCursor }
		}`, map[string]any{"id": id, "other": other})
		good := cursors.str(t, "conversation.eventsCursor")
		const notOne = "after: That is not the cursor of a message or an event"
		for name, c := range map[string]struct {
			after any
			seq   any
			want  string
		}{
			"another conversation": {
				cursors.at(t, "other.eventsCursor"), nil, "after: That is a cursor of another",
			},
			"garbage":     {"garbage", nil, notOne},
			"empty":       {"", nil, notOne},
			"cut off":     {good[:len(good)-3], nil, notOne},
			"one longer":  {good + "AAAA", nil, notOne},
			"of events":   {cursors.at(t, "viewer.eventsCursor"), nil, notOne},
			"of members":  {cursors.at(t, "conversation.members.edges.0.cursor"), nil, notOne},
			"of the list": {cursors.at(t, "viewer.conversations.edges.0.cursor"), nil, notOne},
			"both":        {good, 1, "Give after or afterSeq, not both."},
		} {
			for _, query := range []string{
				eventsAfter,
				`subscription($c: ID!, $after: String, $seq: Int) {
					messageAdded(conversationId: $c, after: $after, afterSeq: $seq) { seq } }`,
			} {
				got := s.mustDial(ann.token, nil).subscribe(query,
					map[string]any{"c": id, "after": c.after, "seq": c.seq}).ended(t)
				if got.code() != "BAD_USER_INPUT" || !strings.HasPrefix(got.Message, c.want) {
					t.Errorf("%s: %+v, want BAD_USER_INPUT: %s", name, got, c.want)
				}
			}
		}
		// null is as if it were left out
		s.mustDial(ann.token, nil).subscribe(eventsAfter,
			map[string]any{"c": id, "after": good, "seq": nil}).next(t, "conversationEvents")
	})
}

// ended returns the error that ends the operation.
func (o operation) ended(t testing.TB) answerError {
	t.Helper()
	f := o.frame()
	var list []answerError
	if err := json.Unmarshal(f.Payload, &list); err != nil || f.Type != "error" || len(list) != 1 {
		t.Fatalf("%+v: %v", f, err)
	}
	return list[0]
}

// TestHistoryChanged takes events away from a conversation that is followed, in every way that a
// subscription is served and over both transports. It ends with the place to begin again.
func TestHistoryChanged(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{
		"Broadcast": `subscription($c: ID!, $after: String) {
			messageAdded(conversationId: $c, after: $after) { cursor content } }`,
		"Executed": `subscription($c: ID!, $after: String) {
			messageAdded(conversationId: $c, after: $after) {
				cursor content conversation { viewerMember { lastReadSeq } } } }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Each(t, func(t *testing.T, db *store.DB) { testHistoryChanged(t, db, query) })
		})
	}
}

// follows is a subscription to messageAdded over one of the transports.
type follows struct {
	message func(*testing.T) (content string)
	ended   func(*testing.T) answerError
}

func testHistoryChanged(t *testing.T, db *store.DB, query string) {
	s := mustServe(t, db)
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	id := s.mustConversation(ann, bob)
	s.mustSend(ann, id, "kept")
	in := func(after string) map[string]any { return map[string]any{"c": id, "after": after} }
	transports := map[string]func(after string) follows{
		"WebSocket": func(after string) follows {
			o := s.mustDial(bob.token, nil).subscribe(query, in(after))
			return follows{func(t *testing.T) string {
				return o.next(t, "messageAdded")["content"].(string)
			}, func(t *testing.T) answerError { return o.ended(t) }}
		},
		"server-sent events": func(after string) follows {
			events := s.mustStream(bob.token, query, in(after))
			received := func(t *testing.T) (a answer) {
				t.Helper()
				e := next(t, events)
				if err := json.Unmarshal([]byte(e.data), &a); err != nil || e.event != "next" {
					t.Fatalf("%+v: %v", e, err)
				}
				return a
			}
			return follows{func(t *testing.T) string {
				return received(t).str(t, "messageAdded.content")
			}, func(t *testing.T) answerError {
				a := received(t)
				if e := next(t, events); e.event != "complete" || len(a.Errors) != 1 {
					t.Fatalf("%+v, then %+v", a, e)
				}
				return a.Errors[0]
			}}
		},
	}
	newest := func() string {
		return s.messages(bob, id).str(t, "conversation.eventsCursor")
	}
	wantChanged := func(name string, got answerError) (cursor string) {
		t.Helper()
		want := map[string]any{"code": "HISTORY_CHANGED", "cursor": newest()}
		if diff := cmp.Diff(want, got.Extensions); diff != "" {
			t.Errorf("%s: extensions (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff([]any{"messageAdded"}, got.Path); diff != "" {
			t.Errorf("%s: path (-want +got):\n%s", name, diff)
		}
		return want["cursor"].(string)
	}

	start := newest()
	live := map[string]follows{}
	for name, follow := range transports {
		live[name] = follow(start)
	}
	s.mustSend(ann, id, "lost")
	lost := newest()
	for name, f := range live {
		if got := f.message(t); got != "lost" {
			t.Errorf("%s: got %q", name, got)
		}
	}
	goBack(t, db, id, 2)
	for name, f := range live { // the next round of reconciling finds it
		if cursor := wantChanged(name, f.ended(t)); cursor != start {
			t.Errorf("%s: begin again after %s, want %s", name, cursor, start)
		}
	}
	for name, follow := range transports { // the lost event, which is beyond the newest
		wantChanged(name, follow(lost).ended(t))
	}
	s.mustSend(ann, id, "in its place")
	for name, follow := range transports {
		wantChanged(name, follow(lost).ended(t))
	}
	s.mustSend(ann, id, "after it")
	for name, follow := range transports { // it is not the newest any more
		cursor := wantChanged(name, follow(lost).ended(t))
		again, fromStart := follow(cursor), follow(start)
		for _, want := range []string{"in its place", "after it"} {
			if got := fromStart.message(t); got != want {
				t.Errorf("%s: after what is still there comes %q, want %q", name, got, want)
			}
		}
		s.mustSend(ann, id, "new to "+name)
		if got := again.message(t); got != "new to "+name {
			t.Errorf("%s: after the cursor comes %q", name, got)
		}
	}
}
