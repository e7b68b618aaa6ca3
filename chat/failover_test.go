package chat_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/privatepg"
	"parley/store/storetest"
)

// A message that is sent while the primary changes is UNAVAILABLE, with a time after which to try
// again, and stored once when it is repeated with its key.
func TestSendingDuringASwitchover(t *testing.T) {
	t.Parallel()
	if storetest.Skipped("postgres") {
		t.Skipf("%s names postgres", storetest.Skip)
	}
	primary, err := privatepg.Start(t.Context(), "fsync = off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = primary.Stop() })
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Stop() })
	db := storetest.MustOpen(t, privatepg.URL("postgres", primary, standby))
	w := mustFixture(t, db, "ann", "ben")
	c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
	send := func(key string) (*model.Message, error) {
		return w.SendMessage(t.Context(), w.Actor("ann"), chat.SendMessage{
			ConversationID: c.ID, Content: key, IdempotencyKey: &key,
		})
	}
	refused := func(key string) error {
		_, err := send(key)
		if known, ok := errors.AsType[*errs.Error](err); !ok || known.Code != errs.Unavailable ||
			known.RetryAfter <= 0 {
			return fmt.Errorf("%s: got %w", key, err)
		}
		return nil
	}
	all := func(do func(key string) error) {
		t.Helper()
		var group errgroup.Group
		for i := range 20 {
			group.Go(func() error { return do(fmt.Sprintf("key %d", i)) })
		}
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	}
	before, err := send("before")
	if err != nil {
		t.Fatal(err)
	}

	if err := primary.SetReadOnly(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	all(refused) // there is no primary
	if err := errors.Join(standby.CatchUp(t.Context()), standby.Promote(t.Context())); err != nil {
		t.Fatal(err)
	}
	all(func(key string) error {
		return store.RetryWhileUnavailable(t.Context(), func() error {
			_, err := send(key)
			return err
		})
	})
	if again, err := send("before"); err != nil || again.ID != before.ID {
		t.Errorf("what was stored on the old primary is %v (%v)", again, err)
	}
	var counts []int
	if err := db.NewRaw("SELECT count(*) FROM messages WHERE content LIKE 'key %' "+
		"GROUP BY content").Scan(t.Context(), &counts); err != nil {
		t.Fatal(err)
	}
	once := make([]int, 20)
	for i := range once {
		once[i] = 1
	}
	if diff := cmp.Diff(once, counts); diff != "" {
		t.Errorf("how often each is stored (-want +got):\n%s", diff)
	}
}
