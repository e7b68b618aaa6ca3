package graph_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/store"
	"parley/store/storetest"
)

// The client sees only the id of an internal error, and the log has the rest under that id.
func TestInternalErrors(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann := s.mustRegister("ann")
		id := s.mustConversation(ann, s.mustRegister("bob"))
		if _, err := db.ExecContext(t.Context(),
			"ALTER TABLE messages RENAME TO elsewhere"); err != nil {
			t.Fatal(err)
		}
		a := s.do(ann.token, sendMessage,
			map[string]any{"in": map[string]any{"conversationId": id, "content": "hi"}})
		if !cmp.Equal(a.codes(), []string{"INTERNAL_SERVER_ERROR"}) {
			t.Fatalf("got %+v", a)
		}
		errorID, _ := a.Errors[0].Extensions["errorId"].(string)
		if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(errorID) ||
			!strings.Contains(a.Errors[0].Message, errorID) {
			t.Errorf("got %+v", a.Errors[0])
		}
		for _, secret := range []string{"messages", "SQL", "relation", ".go", "chat"} {
			if strings.Contains(a.Errors[0].Message, secret) {
				t.Errorf("the client sees %q", a.Errors[0].Message)
			}
		}
		if log := s.log.String(); !strings.Contains(log, errorID) ||
			!strings.Contains(log, "messages") {
			t.Errorf("the log says %s", log)
		}
	})
}
