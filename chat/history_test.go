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

// The law: whatever people do, one after the other or all at once, the log of a conversation alone
// tells what the tables hold: its members, title and settings, and its messages with their edits,
// deletions, mentions and reactions.
func TestTheLogTellsEverything(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db)
		checks := 0
		rapid.Check(t, func(rt *rapid.T) {
			checks++
			plan := chattest.DrawHistory(rt, fmt.Sprintf("p%dx", checks))
			w.Invite(plan.People...)
			for _, err := range plan.Run(w.Fixture) {
				t.Errorf("nothing that was asked for is the server's fault: %v", err)
			}
			var all []*model.Conversation
			if err := db.NewSelect().Model(&all).Scan(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, c := range all {
				w.wantLogTells(t, c.ID)
			}
			// The next check begins with an empty world.
			w.Exec("DELETE FROM conversations")
			clear(w.Actors)
		})
	})
}
