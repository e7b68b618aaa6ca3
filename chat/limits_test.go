package chat_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/store/storetest"
)

// limited is a world in which one bucket holds this many tokens, one of which comes back in a
// minute. That the right bucket counts for each operation is tested with the schema.
func limited(
	t *testing.T, db *store.DB, bucket ratelimit.Bucket, burst int, nicknames ...string,
) (*fixture, *storetest.Clock) {
	t.Helper()
	clock := storetest.NewClock()
	var rates ratelimit.Rates
	rates[bucket] = ratelimit.Rate{Burst: burst, Every: time.Minute}
	return mustFixtureWith(t, db, chattest.Options{
		ReconcileEvery: chattest.Never,
		Limits: ratelimit.NewAccounts(ratelimit.AccountsOptions{
			Rates: rates,
			Now:   clock.Now,
		}),
	}, nicknames...), clock
}

// wantWait makes sure that an operation is refused, and for how long; 0 is not refused.
func wantWait(t *testing.T, what string, err error, want time.Duration) {
	t.Helper()
	var got time.Duration
	if e, ok := errors.AsType[*errs.Error](err); ok && e.Code == errs.RateLimited {
		got = e.RetryAfter
	} else if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if got != want {
		t.Errorf("%s: has to wait %v, want %v", what, got, want)
	}
}

// A refused message is not stored, and its repetition is, once its author has waited as told.
func TestARefusedMessageIsSentLater(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, clock := limited(t, db, ratelimit.Messages, 2, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		send := func(key string) (*model.Message, error) {
			return w.SendMessage(t.Context(), w.Actor("ann"),
				chat.SendMessage{ConversationID: c.ID, Content: key, IdempotencyKey: &key})
		}
		first, err := send("first")
		wantWait(t, "the first", err, 0)
		again, err := send("first")
		wantWait(t, "again", err, 0)
		if again.ID != first.ID {
			t.Errorf("the repetition is another message")
		}
		w.Unchanged(t, func() {
			_, err = send("second")
			wantWait(t, "the second", err, time.Minute)
			_, err = send("first")
			wantWait(t, "a repetition", err, time.Minute)
		})
		_, err = w.SendMessage(t.Context(), w.Actor("ben"),
			chat.SendMessage{ConversationID: c.ID, Content: "of another"})
		wantWait(t, "another's", err, 0)
		_, err = w.SendMessage(t.Context(), w.Actor("ann"), chat.SendMessage{ConversationID: c.ID})
		// which costs nothing, and so is said at once
		chattest.WantMistakes(t, err, "REQUIRED content")
		for _, key := range []string{"second", "first"} {
			clock.Forward(time.Minute)
			m, err := send(key)
			wantWait(t, key, err, 0)
			if key == "first" && m.ID != first.ID {
				t.Errorf("the repetition is another message")
			}
		}
	})
}

// Adding many at once costs what adding them one by one costs, and a group is refused before
// anything of it is stored.
func TestAddedMembersAreCountedOneByOne(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, clock := limited(t, db, ratelimit.Members, 10, "ann", "ben", "cara")
		crowd := w.Crowd(30)
		create := func(who string, others ...string) (*model.Conversation, error) {
			return w.CreateConversation(t.Context(), w.Actor(who),
				chat.CreateConversation{Members: w.NewMembers(slices.Concat(others,
					[]string{who})...)})
		}
		add := func(who string, c *model.Conversation, others ...string) error {
			_, err := w.AddMembers(t.Context(), w.Actor(who), c.ID, w.NewMembers(others...))
			return err
		}
		c, err := create("ann", crowd[:4]...) // its owner costs nothing
		wantWait(t, "a group of 4 others", err, 0)
		wantWait(t, "5 more", add("ann", c, crowd[4:9]...), 0)
		w.Unchanged(t, func() {
			wantWait(t, "2 more", add("ann", c, crowd[9:11]...), time.Minute)
			_, err := create("ann", crowd[:8]...)
			wantWait(t, "another group", err, 7*time.Minute)
			_, err = w.AddMembers(t.Context(), w.Actor("ann"), c.ID, nil)
			chattest.WantMistakes(t, err, "REQUIRED members")
			wantWait(t, "which costs one", add("ann", c, crowd[9]), time.Minute)
		})
		clock.Forward(7 * time.Minute)
		wantWait(t, "after as long as told", add("ann", c, crowd[9:16]...), 0)
		// More than the bucket holds can be added, and is paid for.
		large, err := create("cara", crowd...)
		wantWait(t, "a large group", err, 0)
		wantWait(t, "one more", add("cara", large, "ben"), 21*time.Minute)
	})
}

// Opening a direct conversation that is there already is reading.
func TestOpeningADirectConversationCostsOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, _ := limited(t, db, ratelimit.Conversations, 1, "ann", "ben", "cara")
		open := func(who, with string) error {
			_, err := w.OpenDirect(t.Context(), w.Actor(who), w.UserID(with))
			return err
		}
		for range 5 {
			wantWait(t, "the same", open("ann", "ben"), 0)
			wantWait(t, "by the other", open("ben", "ann"), 0)
		}
		wantWait(t, "another", open("ann", "cara"), time.Minute)
		wantWait(t, "of who has opened none", open("ben", "cara"), 0)
	})
}

func capped(t *testing.T, db *store.DB, limit int, nicknames ...string) *fixture {
	t.Helper()
	return mustFixtureWith(t, db, chattest.Options{
		ReconcileEvery:   chattest.Never,
		MaxConversations: limit,
	}, nicknames...)
}

func (w *fixture) memberships(nickname string) int {
	w.T.Helper()
	n, err := w.DB.NewSelect().Model((*model.ConversationMember)(nil)).
		Where("user_id = ?", w.UserID(nickname)).Count(w.T.Context())
	if err != nil {
		w.T.Fatal(err)
	}
	return int(n)
}

func TestAnAccountIsInSoManyConversations(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := capped(t, db, 2, "ann", "ben", "cara", "dan", "eve")
		create := func(who string, others ...string) error {
			_, err := w.CreateConversation(t.Context(), w.Actor(who),
				chat.CreateConversation{Members: w.NewMembers(others...)})
			return err
		}
		open := func(who, with string) error {
			_, err := w.OpenDirect(t.Context(), w.Actor(who), w.UserID(with))
			return err
		}
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		if err := open("ann", "cara"); err != nil { // a direct conversation counts
			t.Fatal(err)
		}
		other := chattest.MustConversation(t, w.Fixture, "dan", "eve")
		w.Unchanged(t, func() {
			chattest.WantMistakes(t, create("ann", "ben"), "LIMIT_REACHED ")
			chattest.WantMistakes(t, create("ann", "ann", "ben"), "LIMIT_REACHED ")
			chattest.WantMistakes(t, create("dan", "ben", "ann", "cara"),
				"LIMIT_REACHED members.1.userId")
			chattest.WantMistakes(t, open("ann", "dan"), "LIMIT_REACHED ")
			chattest.WantMistakes(t, open("dan", "ann"), "LIMIT_REACHED userId")
			_, err := w.AddMembers(t.Context(), w.Actor("dan"), other.ID,
				w.NewMembers("cara", "ann", "eve"))
			chattest.WantMistakes(t, err, "LIMIT_REACHED members.1.userId",
				"ALREADY_MEMBER members.2.userId")
		})
		// What they have goes on: to read and to write, to open, and to add others to.
		if err := open("cara", "ann"); err != nil {
			t.Errorf("to open what is there: %v", err)
		}
		w.Send("ann", c.ID, "hello")
		if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
			w.NewMembers("cara")); err != nil {
			t.Errorf("to add others: %v", err)
		}
		// Who leaves one has room for another.
		if _, err := w.TransferOwnership(t.Context(), w.Actor("ann"), c.ID,
			w.UserID("ben")); err != nil {
			t.Fatal(err)
		}
		if err := w.Leave(t.Context(), w.Actor("ann"), c.ID); err != nil {
			t.Fatal(err)
		}
		if err := open("dan", "ann"); err != nil {
			t.Errorf("after leaving: %v", err)
		}

		// A lower limit takes nothing from anybody.
		lower := chattest.NewServices(db, chattest.Options{MaxConversations: 1})
		found, err := lower.MyConversations(t.Context(), w.Actor("ann"), chat.ConversationFilter{},
			store.PageArgs{})
		if err != nil || len(found.Items) != 2 {
			t.Errorf("%d conversations (%v), want 2", len(found.Items), err)
		}
		_, err = lower.OpenDirect(t.Context(), w.Actor("ann"), w.UserID("eve"))
		chattest.WantMistakes(t, err, "LIMIT_REACHED ")
	})
}

// Whatever makes members of the same people at the same moment, nobody is in one conversation more
// than may be.
func TestTheLimitOfConversationsHoldsInRaces(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const limit = 3
		w := capped(t, db, limit, "ann", "ben")
		crowd := w.Crowd(12)
		groups := make([]*model.Conversation, 4)
		for i := range groups {
			groups[i] = chattest.MustConversation(t, w.Fixture, crowd[i], crowd[4+i])
		}
		var calls []func() error
		call := func(fn func(ctx context.Context) error) {
			calls = append(calls, func() error { return fn(t.Context()) })
		}
		for i, c := range groups {
			who, both := w.Actor(crowd[i]), []string{"ann", "ben"}
			if i%2 == 1 {
				both = []string{"ben", "ann"}
			}
			call(func(ctx context.Context) error {
				_, err := w.AddMembers(ctx, who, c.ID, w.NewMembers(both...))
				return err
			})
			call(func(ctx context.Context) error {
				_, err := w.CreateConversation(ctx, who,
					chat.CreateConversation{Members: w.NewMembers(both...)})
				return err
			})
			call(func(ctx context.Context) error {
				_, err := w.OpenDirect(ctx, w.Actor("ann"), w.UserID(crowd[8+i]))
				return err
			})
			call(func(ctx context.Context) error {
				_, err := w.OpenDirect(ctx, w.Actor(crowd[8+i]), w.UserID("ben"))
				return err
			})
		}
		for i := range 4 { // and somebody sends, whom all this does not hold up for good
			call(func(ctx context.Context) error {
				_, err := w.SendMessage(ctx, w.Actor(crowd[i]),
					chat.SendMessage{ConversationID: groups[i].ID, Content: "hello @ann"})
				return err
			})
		}
		for _, got := range together(calls...) {
			if got != "ok" && !strings.HasPrefix(got, "LIMIT_REACHED ") {
				t.Errorf("a call: %s", got)
			}
		}
		for _, name := range []string{"ann", "ben"} {
			if n := w.memberships(name); n != limit {
				t.Errorf("%s is in %d conversations, want %d", name, n, limit)
			}
		}
	})
}

// Two who open their conversation at the same moment, of which it is the last that they may have,
// both get it.
func TestTheLastDirectConversationIsOpenedByBoth(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := capped(t, db, 1)
		for n := range 10 {
			a, b := fmt.Sprint("a", n), fmt.Sprint("b", n)
			w.Invite(a, b)
			open := func(who, with string) func() error {
				return func() error {
					_, err := w.OpenDirect(t.Context(), w.Actor(who), w.UserID(with))
					return err
				}
			}
			for _, got := range together(open(a, b), open(b, a)) {
				wantOneOf(t, "opening it", got, "ok")
			}
		}
	})
}
