package graph_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/auth"
	"parley/document"
	"parley/graph"
	"parley/store"
	"parley/store/storetest"
)

func withMaxAnswer(bytes int) func(*graph.Options, *auth.Options) {
	return func(o *graph.Options, _ *auth.Options) { o.MaxAnswerBytes = bytes }
}

// A short query may select the same long messages many times.
func TestAnswersAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db, withMaxAnswer(24<<10))
		ann := s.mustRegister("ann")
		id := s.mustConversation(ann, s.mustRegister("bob"))
		for range 9 {
			s.mustSend(ann, id, strings.Repeat("😀", 400))
		}
		page := func(selected string) string {
			return fmt.Sprintf(`{ conversation(id: %q) { messages(last: 9) { nodes { %s } } } }`,
				id, selected)
		}
		for name, c := range map[string]struct {
			query string
			want  []string
		}{
			"in it": {page("id content"), nil},
			"once more": {
				page("content a: content b: content c: content d: content"),
				[]string{"OPERATION_TOO_LARGE"},
			},
			"nested": {
				page(
					"conversation { messages(last: 9) { nodes { content } } }"),
				[]string{"OPERATION_TOO_LARGE"},
			},
			"of names": {page(strings.Repeat("x", 200) +
				": id conversation { messages { nodes { " + strings.Repeat("y", 200) +
				": __typename } } }"), []string{"OPERATION_TOO_LARGE"}},
			"of the schema": {"{ __schema { types { description fields { description } " +
				"} } }", []string{"OPERATION_TOO_LARGE"}},
			"of the schema, a little": {`{ __type(name: "User") { description } }`, nil},
		} {
			a := s.do(ann.token, c.query, nil)
			if diff := cmp.Diff(c.want, a.codes()); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
			if c.want != nil && a.Data != nil {
				t.Errorf("%s: there are data", name)
			}
		}
	})
}

// The limit must not be below what the largest page needs.
func TestTheLargestPageIsServed(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))
	content := strings.Repeat("😀", 4000)
	for range 98 {
		s.mustSend(ann, id, content)
	}
	a := s.do(ann.token, fmt.Sprintf(
		`{ conversation(id: %q) { messages(last: 98) {
			nodes { id seq createdAt content author { nickname } } } } }`, id), nil)
	if list, _ := a.at(t, "conversation.messages.nodes").([]any); len(list) != 98 {
		t.Errorf("got %d messages, %v", len(list), a.codes())
	}
	// Messages that are read but not shown are in memory, too.
	a = s.do(ann.token, fmt.Sprintf(
		`{ conversation(id: %q) { messages(last: 98) {
			nodes { conversation { messages(last: 98) { nodes { content } } } } } } }`, id), nil)
	if diff := cmp.Diff([]string{"OPERATION_TOO_LARGE"}, a.codes()); diff != "" {
		t.Error(diff)
	}
}

// Messages that are read are in memory, whether they are shown or not.
func TestMessagesThatAreReadAreBounded(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), withMaxAnswer(10<<10))
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))
	query := fmt.Sprintf(`{ conversation(id: %q) { messages(last: 50) { nodes { seq } } } }`, id)
	for range 10 {
		s.mustSend(ann, id, strings.Repeat("x", 4000))
	}
	if a := s.do(ann.token, query, nil); a.Errors != nil {
		t.Errorf("got %v", a.Errors)
	}
	s.mustSend(ann, id, strings.Repeat("x", 4000))
	if diff := cmp.Diff([]string{"OPERATION_TOO_LARGE"}, s.do(ann.token, query, nil).
		codes()); diff != "" {
		t.Error(diff)
	}
}

// A mutation whose answer is too large has happened, and the client must see that.
func TestMutationsWithTooLargeAnswers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db, withMaxAnswer(3000))
		ann := s.mustRegister("ann")
		id := s.mustConversation(ann, s.mustRegister("bob"))
		in := obj{"in": obj{
			"conversationId": id, "content": strings.Repeat("x", 4000),
			"idempotencyKey": "once",
		}}
		const send = `mutation($in: SendMessageInput!) {
			one: sendMessage(input: $in) { message { content } } }`
		for range 2 {
			body := mustJSON(t, obj{"query": send, "variables": in})
			status, said := s.post(body, http.Header{
				"Authorization": bearer(ann.token),
				"Content-Type":  {"application/json"},
			})
			for _, part := range []string{
				"OPERATION_TOO_LARGE", `"data":null`, "is stored",
				"fields ran: one.",
			} {
				if status != http.StatusOK || !strings.Contains(string(said), part) {
					t.Errorf("%q is not in %d %s", part, status, said)
				}
			}
		}
		a := s.do(ann.token, `mutation($in: SendMessageInput!) {
			sendMessage(input: $in) { message { id } } }`, in)
		first := a.str(t, "sendMessage.message.id")
		a = s.do(ann.token, fmt.Sprintf(`{ conversation(id: %q) { messages { nodes { id } } } }`,
			id), nil)
		if diff := cmp.Diff([]any{obj{"id": first}},
			a.at(t, "conversation.messages.nodes")); diff != "" {
			t.Error(diff)
		}
	})
}

// No mutation after it runs.
func TestMutationsAfterATooLargeAnswer(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), withMaxAnswer(3000))
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))
	a := s.do(ann.token, `mutation($in: SendMessageInput!, $then: SendMessageInput!) {
		one: sendMessage(input: $in) { message { content } }
		two: sendMessage(input: $then) { message { id } } }`, obj{
		"in":   obj{"conversationId": id, "content": strings.Repeat("x", 4000)},
		"then": obj{"conversationId": id, "content": "and then"},
	})
	if diff := cmp.Diff([]string{"OPERATION_TOO_LARGE"}, a.codes()); diff != "" {
		t.Error(diff)
	}
	if len(a.Errors) == 0 || !strings.HasSuffix(a.Errors[0].Message, "fields ran: one.") {
		t.Errorf("got %v", a.Errors)
	}
	a = s.do(ann.token, fmt.Sprintf(`{ conversation(id: %q) {
		lastSeq messages { nodes { id } } } }`, id), nil)
	if list, _ := a.at(t, "conversation.messages.nodes").([]any); len(list) != 1 {
		t.Errorf("%d messages", len(list))
	}
}

// Without the event the client could not go on.
func TestSubscriptionsEndWithTooLargeEvents(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), withMaxAnswer(3000))
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))
	c := s.mustDial(ann.token, nil)
	for name, query := range map[string]string{
		"broadcast": `subscription($id: ID!, $after: Int) {
			messageAdded(conversationId: $id, afterSeq: $after) { content } }`,
		"own": `subscription($id: ID!, $after: Int) {
			messageAdded(conversationId: $id, afterSeq: $after) {
			content conversation { title } } }`,
	} {
		following := c.subscribe(query, obj{"id": id, "after": 0})
		s.mustSendAny(ann, id, strings.Repeat("x", 4000))
		if got := following.failure(t); !cmp.Equal(got, []string{"OPERATION_TOO_LARGE"}) {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// mustSendAny selects nothing of the message.
func (s *api) mustSendAny(from person, conversation, content string) {
	s.t.Helper()
	s.must(from, `mutation($in: SendMessageInput!) {
		sendMessage(input: $in) { userErrors { code } } }`,
		obj{"in": obj{"conversationId": conversation, "content": content}})
}

// An event may be executed for each of its followers.
func TestEventsHaveTheirOwnLimit(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), func(o *graph.Options, _ *auth.Options) {
		o.Limits = document.Limits{EventComplexity: 20}
	})
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))
	c := s.mustDial(ann.token, nil)
	large := c.subscribe(`subscription($id: ID!) {
		messageAdded(conversationId: $id) { conversation {
		members(first: 9) { nodes { role } } } } }`, obj{"id": id})
	if got := large.failure(t); !cmp.Equal(got, []string{"OPERATION_TOO_LARGE"}) {
		t.Errorf("got %v", got)
	}
}

// Internal errors of one answer are one line of the log, and the answer has a few of them.
func TestInternalErrorsOfOneAnswer(t *testing.T) {
	t.Parallel()
	s, ann, query := mustFail(t)
	a := s.do(ann.token, query, nil)
	if len(a.Errors) != 21 || !strings.Contains(a.Errors[20].Message, "9 more errors") {
		t.Errorf("%d errors, at last %s", len(a.Errors), a.Errors[len(a.Errors)-1].Message)
	}
	id, _ := a.Errors[0].Extensions["errorId"].(string)
	for _, e := range a.Errors[:20] {
		if e.Extensions["errorId"] != id || id == "" {
			t.Errorf("got %+v", e)
		}
	}
	if log := s.log.String(); strings.Count(log, "internal error") != 1 ||
		strings.Count(log, id) != 1 || !strings.Contains(log, "count=29") {
		t.Errorf("the log says %s", log)
	}
}

// mustFail returns a query with 29 internal errors.
func mustFail(t *testing.T) (s *api, ann person, query string) {
	t.Helper()
	db := storetest.MustSQLite(t)
	s = mustServe(t, db)
	ann = s.mustRegister("ann")
	if _, err := db.ExecContext(t.Context(),
		"ALTER TABLE messages RENAME TO elsewhere"); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range 29 {
		fmt.Fprintf(&b, ` s%d: searchMessages(query: "x") { nodes { id } }`, i)
	}
	return s, ann, "{" + b.String() + " }"
}

// While the expensive selection of one follower waits for its turn, the others get each event; and
// it misses none.
func TestFeedsGoOnWhileAFollowerWaits(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	id := s.mustConversation(ann, bob)
	release := s.graph.TakeAllTurns()
	expensive := s.mustDial(ann.token, nil).subscribe(`subscription($id: ID!, $after: Int) {
		messageAdded(conversationId: $id, afterSeq: $after) {
		seq content conversation { members(first: 40) {
		nodes { role joinedAt user { id nickname displayName about createdAt } } }
		messages(last: 60) { nodes { content } } } } }`,
		obj{"id": id, "after": 0})
	other := s.mustDial(bob.token, nil).subscribe(messageAdded, obj{"id": id, "after": 0})
	for i := range 3 {
		content := fmt.Sprint("number ", i)
		s.mustSend(ann, id, content)
		if got := other.message(t); !strings.Contains(got, content+" by ann") {
			t.Errorf("got %q", got)
		}
	}
	release()
	for i := range 3 {
		if got, want := string(expensive.frame().Payload), fmt.Sprintf(`"number %d"`,
			i); !strings.Contains(got, want) {
			t.Errorf("%s is not in %.200s", want, got)
		}
	}
}

// Cheap operations do not wait.
func TestLightOperationsNeedNoTurns(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))
	release := s.graph.TakeAllTurns()
	s.mustSend(ann, id, "hi")
	s.must(ann, `{ viewer { email conversations(first: 5) { nodes { id title } } } }`, nil)
	heavy := make(chan answer)
	go func() {
		heavy <- s.do(ann.token, fmt.Sprintf(`{ conversation(id: %q) {
			messages(last: 100) { nodes { id content } } } }`, id), nil)
	}()
	release()
	if a := <-heavy; a.Errors != nil {
		t.Errorf("got %v", a.Errors)
	}
}

// TestListsWithoutPagesAreCounted: how many users a message mentions is not known before, so the
// answer is counted while it is made.
func TestListsWithoutPagesAreCounted(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t),
		func(o *graph.Options, _ *auth.Options) {
			o.Limits.Complexity = 300
		})
	ann := s.mustRegister("ann")
	others := make([]person, 9)
	names := "hello"
	for i := range others {
		name := fmt.Sprint("friend", i)
		others[i] = s.mustRegister(name)
		names += " @" + name
	}
	id := s.mustConversation(ann, others...)
	for range 10 {
		s.mustSend(ann, id, names)
	}
	page := func(n int, mentioned string) string {
		return fmt.Sprintf(`{ conversation(id: %q) {
			messages(last: %d) { nodes { mentions { %s } } } } }`, id, n, mentioned)
	}
	// 10 × (1 + 9 × 5) and a few
	if a := s.do(ann.token, page(10, "id nickname displayName about"), nil); a.Errors != nil {
		t.Errorf("as many as may be: %+v", a.Errors)
	}
	a := s.do(ann.token, page(10, "id nickname displayName about createdAt a: nickname"), nil)
	if diff := cmp.Diff([]string{"OPERATION_TOO_LARGE"}, a.codes()); diff != "" || a.Data != nil {
		t.Errorf("more: %s %v", diff, a.Data)
	}
}

// TestSearchesAreBounded: messages that a search finds are in memory, whether they are shown or
// not.
func TestSearchesAreBounded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db, withMaxAnswer(24<<10))
		ann := s.mustRegister("ann")
		id := s.mustConversation(ann, s.mustRegister("bob"))
		for range 5 {
			s.mustSend(ann, id, "word "+strings.Repeat("x", 3500))
		}
		const search = ` searchMessages(query: "word", first: 5) { nodes { seq } }`
		if a := s.do(ann.token, "{"+search+"}", nil); a.Errors != nil {
			t.Errorf("one: %+v", a.Errors)
		}
		var many strings.Builder
		for i := range 20 {
			fmt.Fprintf(&many, " a%d:%s", i, search)
		}
		a := s.do(ann.token, "{"+many.String()+"}", nil)
		if diff := cmp.Diff([]string{"OPERATION_TOO_LARGE"}, a.codes()); diff != "" {
			t.Error(diff)
		}
	})
}
