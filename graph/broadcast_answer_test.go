package graph_test

import (
	"fmt"
	"strings"
	"testing"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// mustBroadcast returns the answer to the first message of a conversation, bob's, for all followers
// with this selection. It calls meanwhile between the message and the answer.
func (s *api) mustBroadcast(
	n int, selected string, meanwhile func(ann, bob person, id string),
) string {
	s.t.Helper()
	ann, bob := s.mustRegister(fmt.Sprint("ann", n)), s.mustRegister(fmt.Sprint("bob", n))
	text := s.mustConversation(ann, bob)
	s.mustSend(bob, text, "before")
	id, err := model.ParseID[model.ConversationID](text)
	if err != nil {
		s.t.Fatal(err)
	}
	user, err := model.ParseID[model.UserID](ann.id)
	if err != nil {
		s.t.Fatal(err)
	}
	query := strings.Replace(selected, "{", fmt.Sprintf(`(conversationId: %q) {`, text), 1)
	answer, err := s.graph.BroadcastAnswer(s.t.Context(), model.Actor{UserID: user}, id,
		"subscription { "+query+" }",
		func() { meanwhile(ann, bob, text) })
	if err != nil {
		s.t.Fatal(err)
	}
	return string(answer)
}

// TestABroadcastAnswerShowsNothingFromAfterARemoval: it may be made long after its event.
func TestABroadcastAnswerShowsNothingFromAfterARemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		for n, test := range []struct {
			selected string
			removed  bool
			want     string
		}{
			{
				"conversation { lastMessage { content } }", false,
				`{"conversation":{"lastMessage":{"content":"afterwards"}}}`,
			},
			{"conversation { lastMessage { content } }", true, ""},
			{"content", true, `{"content":"before"}`},
		} {
			got := s.mustBroadcast(n, "messageAdded { "+test.selected+" }",
				func(ann, bob person, id string) {
					if test.removed {
						s.must(ann,
							`mutation($c: ID!, $u: ID!) {
								removeMember(input: {conversationId: $c, userId: $u}) {
								userErrors { code } } }`,
							obj{"c": id, "u": bob.id})
					}
					s.mustSend(ann, id, "afterwards")
				})
			want := test.want
			if want != "" {
				want = `{"data":{"messageAdded":` + want + `}}`
			}
			if got != want {
				t.Errorf("%s, removed %t: %s", test.selected, test.removed, got)
			}
		}
	})
}

// TestBroadcastAnswersDoNotWait: what is selected of the event is looked up at once, and if the
// event has everything, there is no statement.
func TestBroadcastAnswersDoNotWait(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		counted := new(statements)
		db.Watch(counted)
		s := mustServe(t, db)
		for n, test := range []struct {
			selected, want string
			// of the operation, without the check for removals
			statements int
		}{
			{"messageAdded { seq content }", `{"messageAdded":{"seq":2,"content":"before"}}`, 0},
			{
				"messageAdded { author { nickname } }",
				`{"messageAdded":{"author":{"nickname":"bob1"}}}`, 1,
			},
			{
				"conversationEvents { ... on MessageAdded { actor { nickname } message { replyTo " +
					"{ seq } author { nickname } } } }",
				`{"conversationEvents":{"actor":{"nickname":"bob2"},` +
					`"message":{"replyTo":null,"author":{"nickname":"bob2"}}}}`, 1,
			},
		} {
			got := s.mustBroadcast(n, test.selected, func(person, person, string) {
				counted.drain()
				counted.batched()
			})
			if list := counted.drain(); len(list) != test.statements {
				t.Errorf("%s took %d statements, not %d:\n%s", test.selected, len(list),
					test.statements, strings.Join(list, "\n"))
			}
			if n := counted.batched(); n != 0 {
				t.Errorf("%s waited for a batch %d times", test.selected, n)
			}
			if got != `{"data":`+test.want+`}` {
				t.Errorf("%s: %s", test.selected, got)
			}
		}
	})
}
