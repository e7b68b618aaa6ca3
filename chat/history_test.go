package chat_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"parley/chat/chattest"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// This is an invariant: after any operations, sequential or concurrent, a replay of a
// conversation's log gives what the tables hold. That is the members, the title, the settings, and
// the messages with their edits, deletions, mentions and reactions.
func TestReplayedLogEqualsTheTables(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db)
		checks := 0
		rapid.Check(t, func(rt *rapid.T) {
			checks++
			plan := chattest.DrawHistory(rt, fmt.Sprintf("p%dx", checks))
			w.Invite(plan.People...)
			for _, err := range plan.Run(w.Fixture) {
				t.Errorf("an operation failed with an internal error: %v", err)
			}
			var all []*model.Conversation
			if err := db.NewSelect().Model(&all).Scan(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, c := range all {
				w.wantReplayEqualsTables(t, c.ID)
			}
			// The next check starts with an empty database.
			w.Exec("DELETE FROM conversations")
			clear(w.Actors)
		})
	})
}
