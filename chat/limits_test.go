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

// limited returns a fixture in which one bucket holds this many tokens and gets one back in a
// minute. The tests of the schema check that each operation uses the right bucket.
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

// wantWait checks that an operation is refused, and for how long. 0 means that it is not refused.
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

// A rate limited message is not stored. Sent again after RetryAfter, it is.
func TestRateLimitedMessageIsSentLater(t *testing.T) {
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
		// This is refused before the rate limit, so it costs nothing.
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

// Adding many members at once costs as much as adding them one by one. A group that costs too much
// is refused before any of its rows is stored.
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
		c, err := create("ann", crowd[:4]...) // the owner costs nothing
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
		wantWait(t, "after RetryAfter", add("ann", c, crowd[9:16]...), 0)
		// More members than the bucket holds can be added; then the bucket is in debt.
		large, err := create("cara", crowd...)
		wantWait(t, "a large group", err, 0)
		wantWait(t, "one more", add("cara", large, "ben"), 21*time.Minute)
	})
}

// Opening a direct conversation that exists already costs nothing.
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
		wantWait(t, "a user who has opened none", open("ben", "cara"), 0)
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

func TestConversationLimit(t *testing.T) {
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
		if err := open("ann", "cara"); err != nil { // a direct conversation counts too
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
		// Conversations that they are in still work: reading, writing, opening, adding others.
		if err := open("cara", "ann"); err != nil {
			t.Errorf("opening an existing conversation: %v", err)
		}
		w.Send("ann", c.ID, "hello")
		if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
			w.NewMembers("cara")); err != nil {
			t.Errorf("to add others: %v", err)
		}
		// Leaving one makes room for another.
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

		// With a lower limit no one loses a membership.
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

// The limit holds even if several operations add the same users at the same time.
func TestConversationLimitHoldsInRaces(t *testing.T) {
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
		for i := range 4 { // messages are sent meanwhile, and are not blocked for long
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

// Two users open their direct conversation at the same time, and it is the last that the limit
// allows. Both calls return it.
func TestLastAllowedDirectConversationIsOpenedByBoth(t *testing.T) {
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
