package graph_test

import (
	"fmt"
	"strings"
	"testing"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// mustShare is the answer that all who follow ann's conversation with such a selection are sent of
// its first message, bob's. Between the two, meanwhile happens.
func (s *api) mustShare(n int, selected string, meanwhile func(ann, bob person, id string)) string {
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
	answer, err := s.graph.BroadcastAnswer(s.t.Context(), model.Actor{UserID: user}, id, "subscription { "+query+" }",
		func() { meanwhile(ann, bob, text) })
	if err != nil {
		s.t.Fatal(err)
	}
	return string(answer)
}

// TestNobodyIsAnsweredWithWhatCameAfterTheirRemoval: an answer that all followers share may be made
// long after its event.
func TestNobodyIsAnsweredWithWhatCameAfterTheirRemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		for n, test := range []struct {
			selected string
			removed  bool
			want     string
		}{
			{"conversation { lastMessage { content } }", false, `{"conversation":{"lastMessage":{"content":"afterwards"}}}`},
			{"conversation { lastMessage { content } }", true, ""},
			{"content", true, `{"content":"before"}`},
		} {
			got := s.mustShare(n, "messageAdded { "+test.selected+" }", func(ann, bob person, id string) {
				if test.removed {
					s.must(ann, `mutation($c: ID!, $u: ID!) { removeMember(input: {conversationId: $c, userId: $u}) { userErrors { code } } }`,
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

// TestSharedAnswersWaitForNobody: what is asked of the event is looked up at once, and where
// nothing is, there is no statement.
func TestSharedAnswersWaitForNobody(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		counted := new(statements)
		db.Watch(counted)
		s := mustServe(t, db)
		for n, test := range []struct {
			selected, want string
			// of the operation, to which looking for removals afterwards does not belong
			statements int
		}{
			{"messageAdded { seq content }", `{"messageAdded":{"seq":2,"content":"before"}}`, 0},
			{"messageAdded { author { nickname } }", `{"messageAdded":{"author":{"nickname":"bob1"}}}`, 1},
			{
				"conversationEvents { ... on MessageAdded { actor { nickname } message { replyTo { seq } author { nickname } } } }",
				`{"conversationEvents":{"actor":{"nickname":"bob2"},"message":{"replyTo":null,"author":{"nickname":"bob2"}}}}`, 1,
			},
		} {
			got := s.mustShare(n, test.selected, func(person, person, string) {
				counted.take()
				counted.waited()
			})
			if list := counted.take(); len(list) != test.statements {
				t.Errorf("%s took %d statements, not %d:\n%s", test.selected, len(list), test.statements, strings.Join(list, "\n"))
			}
			if n := counted.waited(); n != 0 {
				t.Errorf("%s waited %d times for others", test.selected, n)
			}
			if got != `{"data":`+test.want+`}` {
				t.Errorf("%s: %s", test.selected, got)
			}
		}
	})
}
