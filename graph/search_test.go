package graph_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// Searches find messages, and refuse wrong arguments.
func TestSearchOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("eve")
		here, there, hidden := s.mustConversation(ann, bob), s.mustDirect(ann, bob),
			s.mustConversation(bob, eve)
		s.mustSay(ann, here, "An analytical Engine")
		edited := s.mustSay(bob, here, "an engine, before")
		gone := s.mustSay(ann, there, "the ENGINE is gone")
		s.mustSay(bob, there, "蒸気機関 engine 👩‍💻")
		s.mustSay(bob, hidden, "their engine")
		s.must(bob, editMessage+onlyErrors,
			obj{"in": obj{"messageId": edited, "content": "a motor, after"}})
		s.must(ann, deleteMessage+onlyErrors, obj{"in": obj{"messageId": gone}})

		const search = `query($query: String!, $conversationId: ID, $authorId: ID, $sentAfter: Time,
			$sentBefore: Time, $first: Int, $after: String) {
			searchMessages(query: $query, conversationId: $conversationId, authorId: $authorId,
			sentAfter: $sentAfter, sentBefore: $sentBefore,
				first: $first, after: $after) { edges { cursor snippet { text match }
				node { createdAt } } nodes { content } pageInfo { hasNextPage } } }`
		whole, japanese, motor := "An analytical Engine", "蒸気機関 engine 👩‍💻", "a motor, after"
		at := s.must(ann, search, obj{"query": "analytical"}).str(t,
			"searchMessages.edges.0.node.createdAt")
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
			{obj{
				"query": "engine", "sentBefore": "2999-01-01T00:00:00+14:00",
				"sentAfter": "2001-01-01T00:00:00Z",
			}, nil, []string{japanese, whole}},
			{obj{"query": "engine", "conversationId": here, "authorId": bob.id}, nil, nil},
			{obj{"query": ""}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "?!"}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": "a\x00b"}, []string{"BAD_USER_INPUT"}, nil},
			{obj{"query": strings.Repeat("a", 201)}, []string{"BAD_USER_INPUT"}, nil},
			{
				obj{"query": "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21"},
				[]string{"BAD_USER_INPUT"},
				nil,
			},
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
			obj{"text": "蒸気機関 ", "match": false}, obj{
				"text":  "engine",
				"match": true,
			}, obj{"text": " 👩‍💻", "match": false},
		}), first.at(t, "searchMessages.edges.0.snippet")); diff != "" {
			t.Errorf("the snippet: %s", diff)
		}
		next := s.must(ann, search, obj{
			"query": "engine", "first": 1,
			"after": first.str(t, "searchMessages.edges.0.cursor"),
		})
		if diff := cmp.Diff(any(list{obj{"content": whole}}),
			next.at(t, "searchMessages.nodes")); diff != "" ||
			next.at(t, "searchMessages.pageInfo.hasNextPage") != false {
			t.Errorf("the next page: %s %+v", diff, next)
		}
	})
}
