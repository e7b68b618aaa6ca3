package graph_test

import (
	"strings"
	"testing"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// TestNobodyIsAnsweredWithWhatCameAfterTheirRemoval: an answer that all followers share may be made long after its event.
func TestNobodyIsAnsweredWithWhatCameAfterTheirRemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		for name, test := range map[string]struct {
			selected          string
			removed, isShared bool
		}{
			"nobody was removed":    {"conversation { lastMessage { content } }", false, true},
			"somebody was removed":  {"conversation { lastMessage { content } }", true, false},
			"nothing was looked up": {"content", true, true},
		} {
			ann, bob := s.mustRegister(nicknameOf(name)+"a"), s.mustRegister(nicknameOf(name)+"b")
			text := s.mustConversation(ann, bob)
			s.mustSend(ann, text, "before")
			id, err := model.ParseID[model.ConversationID](text)
			if err != nil {
				t.Fatal(err)
			}
			user, err := model.ParseID[model.UserID](ann.id)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := s.graph.SharedAnswer(t.Context(), model.Actor{UserID: user}, id,
				`subscription { messageAdded(conversationId: "`+text+`") { `+test.selected+` } }`, func() {
					if test.removed {
						s.must(ann, `mutation($c: ID!, $u: ID!) { removeMember(input: {conversationId: $c, userId: $u}) { userErrors { code } } }`,
							obj{"c": text, "u": bob.id})
					}
					s.mustSend(ann, text, "afterwards")
				})
			if err != nil {
				t.Fatal(err)
			}
			if got := answer != nil; got != test.isShared {
				t.Errorf("%s: %s", name, answer)
			}
			if test.removed && strings.Contains(string(answer), "afterwards") {
				t.Errorf("%s: %s", name, answer)
			}
		}
	})
}

func nicknameOf(name string) string { return strings.ReplaceAll(name, " ", "") }
