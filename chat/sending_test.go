package chat_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/batch"
	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// mustOutgoing is a message that has passed every check before its transaction.
func (w *fixture) mustOutgoing(t *testing.T, author string, in chat.SendMessage) *chat.Outgoing {
	t.Helper()
	o, err := w.NewOutgoing(t.Context(), w.Actor(author), in)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (w *fixture) mustStore(t *testing.T, all ...*chat.Outgoing) {
	t.Helper()
	if busy, err := w.StoreMessages(t.Context(), all, false); err != nil || len(busy) > 0 {
		t.Fatalf("%d are busy, %v", len(busy), err)
	}
}

// Each message of a batch is judged by itself, and those before it count.
func TestABatchJudgesEachMessageByItself(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "eve")
		one, two := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ben", "ann")
		earlier := w.Send("ann", one.ID, "earlier")
		if _, err := w.SendMessage(t.Context(), w.Actor("ann"),
			chat.SendMessage{
				ConversationID: one.ID, Content: "once",
				IdempotencyKey: new("used"),
			}); err != nil {
			t.Fatal(err)
		}
		var told [][]int64
		w.Hints().Intercept(func(_ string, h feed.Hint) {
			var seqs []int64
			for _, e := range h.Events {
				seqs = append(seqs, e.Seq)
			}
			if seqs[len(seqs)-1] != h.Seq {
				t.Errorf("a hint at seq %d has the events %v", h.Seq, seqs)
			}
			told = append(told, seqs)
		})
		in := func(id model.ConversationID, content string) chat.SendMessage {
			return chat.SendMessage{ConversationID: id, Content: content}
		}
		keyed := func(content, key string) chat.SendMessage {
			return chat.SendMessage{ConversationID: one.ID, Content: content, IdempotencyKey: &key}
		}
		replying := func(id model.ConversationID, to model.MessageID) chat.SendMessage {
			return chat.SendMessage{ConversationID: id, Content: "a reply", ReplyToID: &to}
		}
		refusedTwice := replying(two.ID, earlier.ID)
		refusedTwice.IdempotencyKey = new("of a refused one")
		cases := []struct {
			author  string
			in      chat.SendMessage
			refused error // nil is sent
			seq     int64
		}{
			{"ann", in(one.ID, "first"), nil, 4},
			{"eve", in(one.ID, "from outside"), errs.New(errs.NotFound, ""), 0},
			{"ben", in(two.ID, "the other conversation"), nil, 2},
			{"ann", in(model.NewConversationID(), "nowhere"), errs.New(errs.NotFound, ""), 0},
			{"ben", keyed("with a key", "new"), nil, 5},
			{"ben", keyed("with a key", "new"), chat.ErrKeyUsed, 0},
			{"ann", keyed("with the key of somebody else", "new"), nil, 6},
			{"ann", keyed("once", "used"), chat.ErrKeyUsed, 0},
			{"ben", replying(one.ID, earlier.ID), nil, 7},
			{"ben", replying(two.ID, earlier.ID), errs.Input(errs.NotFound, "replyToId", ""), 0},
			{"ben", refusedTwice, errs.Input(errs.NotFound, "replyToId", ""), 0},
			{"ben", refusedTwice, errs.Input(errs.NotFound, "replyToId", ""), 0},
			{"ben", in(one.ID, "@ann and @ben and not @eve"), nil, 8},
			{"ann", in(two.ID, "last"), nil, 3},
		}
		var all []*chat.Outgoing
		for _, c := range cases {
			all = append(all, w.mustOutgoing(t, c.author, c.in))
		}
		w.mustStore(t, all...)
		for i, c := range cases {
			if got, want := outcome(all[i].Refused()), outcome(c.refused); got != want {
				t.Errorf("%s: %s, want %s", c.in.Content, got, want)
			}
			if c.refused == nil && all[i].Stored().Seq != c.seq {
				t.Errorf("%s: seq %d, want %d", c.in.Content, all[i].Stored().Seq, c.seq)
			}
		}
		w.wantLogTells(t, one.ID)
		w.wantLogTells(t, two.ID)
		slices.SortFunc(told, func(a, b []int64) int { return len(a) - len(b) })
		chattest.WantEqual(t, "what was told, a hint for each conversation",
			[][]int64{{2, 3}, {4, 5, 6, 7, 8}}, told)
		mentioned, err := w.Mentioned(t.Context(), w.Actor("ann"),
			[]model.MessageID{all[12].Stored().ID})
		if err != nil {
			t.Fatal(err)
		}
		chattest.WantEqual(t, "mentioned", []string{"ann", "ben"},
			slices.Sorted(slices.Values(w.nicknamesOf(mentioned[all[12].Stored().ID]))))
	})
}

// A message that the database refuses takes nobody with it, though it is in one batch with the
// others.
func TestAPoisonousMessageHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		if db.Postgres() {
			w.Exec("ALTER TABLE messages ADD CHECK (content <> 'poison')")
		} else {
			w.Exec(
				"CREATE TRIGGER poison BEFORE INSERT ON messages WHEN new.content = 'poison' " +
					"BEGIN SELECT RAISE(ABORT, 'poison'); END")
		}
		all := []*chat.Outgoing{
			w.mustOutgoing(t, "ann", chat.SendMessage{ConversationID: c.ID, Content: "before"}),
			w.mustOutgoing(t, "ann", chat.SendMessage{ConversationID: c.ID, Content: "poison"}),
		}
		if _, err := w.StoreMessages(t.Context(), all, false); err == nil ||
			errors.Is(err, batch.ErrFinal) {
			t.Fatalf("a batch with poison in it: %v", err)
		}
		chattest.WantEqual(t, "nothing of it is stored", 0, len(w.contents(c.ID)["messages"]))

		const n = 40
		var calls []func() error
		for i := range n {
			content := fmt.Sprint("message ", i)
			if i == n/2 {
				content = "poison"
			}
			calls = append(calls, func() error {
				_, err := w.SendMessage(t.Context(), w.Actor("ann"),
					chat.SendMessage{ConversationID: c.ID, Content: content})
				return err
			})
		}
		failed := 0
		for _, o := range together(calls...) {
			if o != "ok" {
				failed++
			}
		}
		if last := w.LastSeq(c.ID); failed != 1 || last != n {
			t.Errorf("%d of %d failed; the last seq is %d", failed, n, last)
		}
		w.wantLogTells(t, c.ID)
	})
}

// Where the database is away, all are told at once, and not one after the other.
func TestADatabaseThatIsAwayIsNotAskedForEachMessage(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		late, cancel := context.WithDeadline(t.Context(), time.Now())
		defer cancel()
		_, err := w.StoreMessages(late,
			[]*chat.Outgoing{w.mustOutgoing(t, "ann",
				chat.SendMessage{ConversationID: c.ID, Content: "hi"})}, false)
		if !errs.Is(err, errs.Unavailable) || !errors.Is(err, batch.ErrFinal) {
			t.Errorf("got %v", err)
		}
		if last := w.LastSeq(c.ID); last != 1 {
			t.Errorf("the last seq is %d", last)
		}
	})
}

// A conversation, or an account, that somebody else has locked holds up its own messages, and no
// others.
func TestALockHoldsUpWhatIsBehindIt(t *testing.T) {
	t.Parallel()
	for name, lock := range map[string]func(w *fixture, tx *store.Tx,
		id model.ConversationID) error{
		"a conversation": func(_ *fixture, tx *store.Tx, id model.ConversationID) error {
			return tx.Lock(context.Background(), (*model.Conversation)(nil), "id = ?", id)
		},
		"an account": func(w *fixture, tx *store.Tx, _ model.ConversationID) error {
			return tx.Lock(context.Background(), (*model.User)(nil), "id = ?", w.UserID("ann"))
		},
		"the account of somebody who is mentioned": func(w *fixture, tx *store.Tx,
			_ model.ConversationID,
		) error {
			return tx.Lock(context.Background(), (*model.User)(nil), "id = ?", w.UserID("cat"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := mustFixture(t, storetest.MustPostgres(t), "ann", "ben", "cat")
			locked, free := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cat"),
				chattest.MustConversation(t, w.Fixture, "ben", "ann")
			var behind sync.WaitGroup
			defer behind.Wait()
			rolledBack := errors.New("rolled back")
			err := w.DB.InTx(t.Context(), func(_ context.Context, tx *store.Tx) error {
				if err := lock(w, tx, locked.ID); err != nil {
					return err
				}
				for i := range 3 {
					behind.Go(func() {
						in := chat.SendMessage{
							ConversationID: locked.ID,
							Content:        fmt.Sprintf("%d for @cat", i),
						}
						if _, err := w.SendMessage(t.Context(), w.Actor("ann"), in); err != nil {
							t.Error(err)
						}
					})
				}
				for range 20 {
					w.Send("ben", free.ID, "beside")
				}
				return rolledBack
			})
			if !errors.Is(err, rolledBack) {
				t.Fatal(err)
			}
			behind.Wait()
			if last := w.LastSeq(locked.ID); last != 1+3 {
				t.Errorf("the last seq is %d, want 4", last)
			}
			w.wantLogTells(t, locked.ID)
			w.wantLogTells(t, free.ID)
		})
	}
}

// What is sent after a message that is held up does not overtake it, though it needs nothing that
// is locked.
func TestNothingOvertakesAMessageThatIsHeldUp(t *testing.T) {
	t.Parallel()
	w := mustFixture(t, storetest.MustPostgres(t), "ann", "ben", "cat")
	one, two := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cat"),
		chattest.MustConversation(t, w.Fixture, "ann", "ben", "cat")
	all := []*chat.Outgoing{
		w.mustOutgoing(t, "ben", chat.SendMessage{ConversationID: one.ID, Content: "before"}),
		w.mustOutgoing(t, "ann", chat.SendMessage{ConversationID: one.ID, Content: "for @cat"}),
		w.mustOutgoing(t, "ann", chat.SendMessage{ConversationID: one.ID, Content: "after"}),
		w.mustOutgoing(t, "ann", chat.SendMessage{ConversationID: two.ID, Content: "elsewhere"}),
	}
	err := w.DB.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Lock(ctx, (*model.User)(nil), "id = ?", w.UserID("cat")); err != nil {
			return err
		}
		busy, err := w.StoreMessages(ctx, all, false)
		if !slices.Equal(busy, all[1:3]) {
			t.Errorf("%d are held up, want two", len(busy))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A removal for which something had to wait counts, also one by another node.
func TestARemovalThatWasWaitedForCounts(t *testing.T) {
	t.Parallel()
	w := mustFixture(t, storetest.MustPostgres(t), "ann", "ben")
	ctx, ben := t.Context(), w.Actor("ben")
	for name, do := range map[string]func(id model.ConversationID, m model.MessageID) error{
		"a message": func(id model.ConversationID, _ model.MessageID) error {
			_, err := w.SendMessage(ctx, ben,
				chat.SendMessage{ConversationID: id, Content: "still here"})
			return err
		},
		"an edit": func(_ model.ConversationID, m model.MessageID) error {
			_, err := w.EditMessage(ctx, ben, chat.EditMessage{MessageID: m, Content: "still here"})
			return err
		},
		"a reaction": func(_ model.ConversationID, m model.MessageID) error {
			_, err := w.AddReaction(ctx, ben, m, "👍")
			return err
		},
		"leaving": func(id model.ConversationID,
			_ model.MessageID,
		) error {
			return w.Leave(ctx, ben, id)
		},
	} {
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		m := w.Send("ben", c.ID, "here")
		done := make(chan error, 1)
		err := w.DB.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
			err := tx.Lock(ctx, (*model.Conversation)(nil), "id = ?", c.ID)
			if err != nil {
				return err
			}
			go func() { done <- do(c.ID, m.ID) }()
			w.untilSomebodyWaits(t)
			_, err = tx.NewDelete().Model((*model.ConversationMember)(nil)).
				Where("conversation_id = ?", c.ID).
				Where("user_id = ?", ben.UserID).Exec(ctx)
			if err != nil {
				return err
			}
			e := &model.Event{
				ConversationID: c.ID, Kind: model.MemberRemoved,
				ActorID: new(w.UserID("ann")),
			}
			_, err = w.Append(ctx, tx, e, model.MemberRemovedData{UserID: ben.UserID})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Beyond the bound nothing is taken, and the sender is told when to come again.
func TestTooManySendersAreSentAway(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{
			ReconcileEvery: chattest.Never,
			Sending:        batch.Options{MaxItems: 1, MaxWaiting: 2},
		}, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		var calls []func() error
		const n = 60
		for i := range n {
			calls = append(calls, func() error {
				_, err := w.SendMessage(t.Context(), w.Actor("ann"),
					chat.SendMessage{ConversationID: c.ID, Content: fmt.Sprint(i)})
				if e, ok := errors.AsType[*errs.Error](err); ok &&
					e.RetryAfter < 100*time.Millisecond {
					t.Errorf("%v, to be tried again after %v", err, e.RetryAfter)
				}
				return err
			})
		}
		stored := int64(0)
		for _, o := range together(calls...) {
			switch o {
			case "ok":
				stored++
			case string(errs.Unavailable):
			default:
				t.Errorf("a message was refused with %s", o)
			}
		}
		if stored == n {
			t.Error("there was room for everybody")
		}
		if last := w.LastSeq(c.ID); last != 1+stored {
			t.Errorf("the last seq is %d after %d messages were acknowledged", last, stored)
		}
		w.wantLogTells(t, c.ID)
	})
}

// Several nodes write to the same conversations: no gap, no double, and what is acknowledged is
// there.
func TestNodesShareTheirConversations(t *testing.T) {
	t.Parallel()
	url := storetest.PostgresURL(t)
	a := mustFixture(t, storetest.MustOpen(t, url), "ann", "ben")
	b := &fixture{chattest.NewIdle(t, storetest.MustOpen(t, url),
		chattest.Options{ReconcileEvery: chattest.Never}, a.Actors)}
	var ids []model.ConversationID
	for range 3 {
		ids = append(ids, chattest.MustConversation(t, a.Fixture, "ann", "ben").ID)
	}
	const senders, each = 12, 25
	var mu sync.Mutex
	acknowledged := map[model.MessageID]int64{}
	var working sync.WaitGroup
	for sender := range senders {
		node, author := []*fixture{a, b}[sender%2], []string{"ann", "ben"}[sender/2%2]
		working.Go(func() {
			for i := range each {
				key := fmt.Sprint(sender, " ", i)
				m, err := node.SendMessage(t.Context(), node.Actor(author), chat.SendMessage{
					ConversationID: ids[(sender+i)%len(ids)], Content: strings.Repeat(key, 3),
					IdempotencyKey: &key,
				})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged[m.ID] = m.Seq
				mu.Unlock()
			}
		})
	}
	working.Wait()
	total := 0
	for _, id := range ids {
		var stored []*model.Message
		if err := a.DB.NewSelect().Model(&stored).Where("m.conversation_id = ?", id).
			OrderExpr("m.seq").Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, m := range stored {
			if m.Seq != int64(i+2) || acknowledged[m.ID] != m.Seq {
				t.Fatalf("message %d has seq %d, and was acknowledged as %d", i, m.Seq,
					acknowledged[m.ID])
			}
		}
		total += len(stored)
		a.wantLogTells(t, id)
	}
	if total != senders*each {
		t.Errorf("%d messages are stored, of %d", total, senders*each)
	}
}

// untilSomebodyWaits returns once a transaction of this database waits for another's lock.
func (w *fixture) untilSomebodyWaits(t *testing.T) {
	t.Helper()
	for waiting := 0; waiting == 0; {
		err := w.DB.NewRaw(
			`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).
			Scan(t.Context(), &waiting)
		if err != nil {
			t.Fatal(err)
		}
	}
}
