package graph_test

import (
	"context"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"

	"parley/store"
	"parley/store/storetest"
)

// An internal error shows the client an id and nothing else, and the log has the rest under that id.
func TestInternalErrors(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann := s.mustRegister("ann")
		id := s.mustConversation(ann, s.mustRegister("bob"))
		if _, err := db.ExecContext(t.Context(), "ALTER TABLE messages RENAME TO elsewhere"); err != nil {
			t.Fatal(err)
		}
		a := s.do(ann.token, sendMessage, map[string]any{"in": map[string]any{"conversationId": id, "content": "hi"}})
		if !cmp.Equal(a.codes(), []string{"INTERNAL_SERVER_ERROR"}) {
			t.Fatalf("got %+v", a)
		}
		errorID, _ := a.Errors[0].Extensions["errorId"].(string)
		if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(errorID) || !strings.Contains(a.Errors[0].Message, errorID) {
			t.Errorf("got %+v", a.Errors[0])
		}
		for _, secret := range []string{"messages", "SQL", "relation", ".go", "chat"} {
			if strings.Contains(a.Errors[0].Message, secret) {
				t.Errorf("the client is told %q", a.Errors[0].Message)
			}
		}
		if log := s.log.String(); !strings.Contains(log, errorID) || !strings.Contains(log, "messages") {
			t.Errorf("the log says %s", log)
		}
	})
}

// countingHook counts the statements that a test makes.
type countingHook struct{ n atomic.Int64 }

func (h *countingHook) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	return ctx
}

func (h *countingHook) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	if !strings.Contains(e.Query, "last_seq") || strings.Contains(e.Query, "JOIN") { // not the comparison that runs beside it
		h.n.Add(1)
	}
}

// However many conversations a page has, what hangs on each is fetched for all of them at once.
func TestLoadersGather(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		hook := new(countingHook)
		db.DB = db.WithQueryHook(hook)
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		statements := func(first int) int64 {
			before := hook.n.Load()
			a := s.do(ann.token, `query($n: Int) { viewer { conversations(first: $n) { nodes {
				title memberCount owner { nickname } viewerMember { role user { nickname } } lastMessage { content author { nickname } } } } } }`,
				map[string]any{"n": first})
			if got := len(a.at(t, "viewer.conversations.nodes").([]any)); got != first || a.Errors != nil {
				t.Fatalf("%d conversations: %+v", got, a.Errors)
			}
			return hook.n.Load() - before
		}
		for range 12 {
			s.mustSend(bob, s.mustConversation(ann, bob), "hi")
		}
		one, twelve := statements(1), statements(12)
		// The viewer, the page, counts, owners, memberships, last messages, and people; on a busy machine the fields of one
		// page do not all start within the time that a loader waits. One by one it would be 60.
		if twelve > 20 {
			t.Errorf("%d statements for one conversation, %d for twelve", one, twelve)
		}
	})
}
