package chat_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/membership"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// together runs all of them at the same moment and returns their outcomes, in short.
func together(calls ...func() error) []string {
	start := make(chan struct{})
	outcomes := make([]string, len(calls))
	var all sync.WaitGroup
	for i, call := range calls {
		all.Go(func() {
			<-start
			outcomes[i] = outcome(call())
		})
	}
	close(start)
	all.Wait()
	return outcomes
}

func wantOneOf(t *testing.T, what, got string, want ...string) {
	t.Helper()
	if !slices.Contains(want, got) {
		t.Errorf("%s: got %s, want one of %q", what, got, want)
	}
}

func (w *fixture) editing(who string, m *model.Message, content string) func() error {
	actor := w.Actor(who)
	return func() error {
		_, err := w.EditMessage(w.T.Context(), actor,
			chat.EditMessage{MessageID: m.ID, Content: content})
		return err
	}
}

func (w *fixture) deleting(who string, m *model.Message) func() error {
	actor := w.Actor(who)
	return func() error {
		_, err := w.DeleteMessage(w.T.Context(), actor, m.ID)
		return err
	}
}

func (w *fixture) reacting(who string, m *model.Message, emoji string) func() error {
	actor := w.Actor(who)
	return func() error {
		_, err := w.AddReaction(w.T.Context(), actor, m.ID, emoji)
		return err
	}
}

func (w *fixture) takingBack(who string, m *model.Message, emoji string) func() error {
	actor := w.Actor(who)
	return func() error {
		_, err := w.RemoveReaction(w.T.Context(), actor, m.ID, emoji)
		return err
	}
}

func (w *fixture) kinds(id model.ConversationID) map[model.EventKind]int {
	w.T.Helper()
	kinds := map[model.EventKind]int{}
	for _, e := range w.Stored(id) {
		kinds[e.Kind]++
	}
	return kinds
}

func TestADeleteBeatsAnEdit(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for range 10 {
			m := w.Send("ben", c.ID, "first @ann")
			got := together(w.editing("ben", m, "second @ann"), w.deleting("ann", m),
				w.editing("ben", m, "third"), w.deleting("ben", m))
			wantOneOf(t, "edit", got[0], "ok", "CONFLICT messageId")
			wantOneOf(t, "edit", got[2], "ok", "CONFLICT messageId")
			chattest.WantEqual(t, "deletions", []string{"ok", "ok"}, []string{got[1], got[3]})
			after, err := w.Message(t.Context(), w.Actor("ann"), m.ID)
			if err != nil || after.Content != "" || after.DeletedAt == nil {
				t.Fatalf("it is %+v (%v)", after, err)
			}
			chattest.WantEqual(t, "what a search finds", []string(nil),
				w.search("ann", chat.Search{Query: "ann"}))
		}
		if n := w.kinds(c.ID)[model.MessageDeleted]; n != 10 {
			t.Errorf("%d deletions of 10 messages are told", n)
		}
		w.wantLogTells(t, c.ID)
	})
}

// Of several edits that expect the same state, one is done, and the others are told.
func TestEditsThatExpectTheSame(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		m := w.Send("ben", c.ID, "first")
		for round := range 10 {
			var calls []func() error
			for i := range 4 {
				in := chat.EditMessage{
					MessageID: m.ID, Content: fmt.Sprint(round, " by ", i),
					Expected: &chat.Edited{m.EditedAt},
				}
				calls = append(calls, func() error {
					_, err := w.EditMessage(t.Context(), w.Actor("ben"), in)
					return err
				})
			}
			got := together(calls...)
			winner := slices.Index(got, "ok")
			slices.Sort(got)
			conflict := "CONFLICT expectedEditedAt"
			chattest.WantEqual(t, "outcomes", []string{conflict, conflict, conflict, "ok"}, got)
			var err error
			if m, err = w.Message(t.Context(), w.Actor("ann"), m.ID); err != nil ||
				m.Content != fmt.Sprint(round, " by ", winner) {
				t.Fatalf("%d has won, and it is %+v (%v)", winner, m, err)
			}
		}
		if n := w.kinds(c.ID)[model.MessageEdited]; n != 10 {
			t.Errorf("%d edits are told, want 10", n)
		}
		w.wantLogTells(t, c.ID)
	})
}

func TestReactingAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for range 10 {
			m := w.Send("ben", c.ID, "react")
			before := w.kinds(c.ID)
			got := together(w.reacting("ann", m, "❤️"), w.reacting("ann", m, "❤"),
				w.reacting("ann", m, "❤️"), w.reacting("ben", m, "❤"))
			chattest.WantEqual(t, "outcomes", []string{"ok", "ok", "ok", "ok"}, got)
			after := w.kinds(c.ID)
			if n := after[model.ReactionAdded] - before[model.ReactionAdded]; n != 2 {
				t.Errorf("%d events of 2 reactions", n)
			}
			got = together(w.takingBack("ann", m, "❤"), w.takingBack("ann", m, "❤️"),
				w.reacting("ben", m, "❤️"))
			chattest.WantEqual(t, "outcomes", []string{"ok", "ok", "ok"}, got)
			if n := w.kinds(c.ID)[model.ReactionRemoved] - after[model.ReactionRemoved]; n != 1 {
				t.Errorf("%d events of 1 reaction taken back", n)
			}
			// What is taken back while it is put there is there or is not, and the log knows.
			together(w.reacting("ann", m, "👍"), w.takingBack("ann", m, "👍"),
				w.reacting("ann", m, "👍"), w.takingBack("ann", m, "👍"))
		}
		w.wantLogTells(t, c.ID)
	})
}

var manyEmoji = []string{
	"😀", "😁", "😂", "🤣", "😃", "😄", "😅", "😆", "😉", "😊", "😋", "😎", "😍", "😘", "🥰", "😗", "😙", "😚", "🙂",
	"🤗", "🤩", "🤔", "🤨", "😐", "😑", "😶",
}

func TestTwentyKindsOfReactions(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cat")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cat")
		for range 3 {
			m := w.Send("ben", c.ID, "react")
			var calls []func() error
			for i, emoji := range manyEmoji {
				calls = append(calls, w.reacting([]string{"ann", "ben", "cat"}[i%3], m, emoji))
			}
			got := together(calls...)
			counts := map[string]int{}
			for _, o := range got {
				counts[o]++
			}
			chattest.WantEqual(t, "outcomes",
				map[string]int{
					"ok":                  chat.MaxReactions,
					"LIMIT_REACHED emoji": len(manyEmoji) - chat.MaxReactions,
				}, counts)
			there, missing := manyEmoji[slices.Index(got, "ok")],
				manyEmoji[slices.Index(got, "LIMIT_REACHED emoji")]
			for _, who := range []string{"ann", "ben", "cat"} {
				w.addReaction(who, m, there) // more of what is there is no further kind
			}
			if got := outcome(w.reacting("ann", m, missing)()); got != "LIMIT_REACHED emoji" {
				t.Errorf("the 21st: %s", got)
			}
			for _, who := range []string{"ann", "ben", "cat"} {
				if err := w.takingBack(who, m, there)(); err != nil {
					t.Error(err)
				}
			}
			if got := outcome(w.reacting("ann", m, missing)()); got != "ok" {
				t.Errorf("once there is room: %s", got)
			}
		}
		w.wantLogTells(t, c.ID)
	})
}

func TestReadingOnlyMovesForward(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		read := func(seq int64) func() error {
			actor := w.Actor("ann")
			return func() error {
				m, err := w.MarkRead(t.Context(), actor, c.ID, seq)
				if err == nil && m.LastReadSeq < min(seq, 2) {
					return fmt.Errorf("marked up to %d, and it is %d", seq, m.LastReadSeq)
				}
				return err
			}
		}
		for range 8 {
			w.SendMany("ben", c.ID, 6)
			last := w.Stored(c.ID)[len(w.Stored(c.ID))-1].Seq
			calls := []func() error{
				read(last - 1), read(last - 4), read(last), read(last - 5), read(0), read(last - 2),
				// whatever else is changed of the membership meanwhile stays changed, and changes
				// nothing else
				func() error {
					_, err := w.UpdateMembership(t.Context(), w.Actor("ann"),
						chat.UpdateMembership{ConversationID: c.ID, Pinned: new(true)})
					return err
				},
			}
			for _, o := range together(calls...) {
				if o != "ok" {
					t.Error(o)
				}
			}
			m, err := w.Member(t.Context(), w.Actor("ann"),
				model.MemberID{Conversation: c.ID, User: w.UserID("ann")})
			if err != nil || m.LastReadSeq != last || !m.Pinned {
				t.Fatalf("after reading up to %d: %+v (%v)", last, m, err)
			}
			// Beyond the newest is the newest, also while one more comes.
			together(read(1<<40), func() error {
				_, err := w.SendMessage(t.Context(), w.Actor("ben"),
					chat.SendMessage{ConversationID: c.ID, Content: "more"})
				return err
			})
			m, err = w.Member(t.Context(), w.Actor("ann"),
				model.MemberID{Conversation: c.ID, User: w.UserID("ann")})
			if err != nil || m.LastReadSeq < last || m.LastReadSeq > last+1 {
				t.Fatalf("the newest was %d or %d: %+v (%v)", last, last+1, m, err)
			}
		}
	})
}

// A message that comes as a conversation is put away brings it back, unless it was there already.
func TestArchivingAgainstANewMessage(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for range 10 {
			var sent *model.Message
			var archived *model.ConversationMember
			got := together(
				func() (err error) {
					in := chat.UpdateMembership{ConversationID: c.ID, Archived: new(true)}
					archived, err = w.UpdateMembership(t.Context(), w.Actor("ann"), in)
					return err
				},
				func() (err error) {
					sent, err = w.SendMessage(t.Context(), w.Actor("ben"),
						chat.SendMessage{ConversationID: c.ID, Content: "new"})
					return err
				},
			)
			chattest.WantEqual(t, "outcomes", []string{"ok", "ok"}, got)
			if archived.ArchivedSeq != sent.Seq && archived.ArchivedSeq != sent.Seq-1 {
				t.Errorf("archived at %d as %d came", archived.ArchivedSeq, sent.Seq)
			}
			away := archived.ArchivedSeq == sent.Seq // the message was there before
			for _, filter := range []bool{true, false} {
				list, err := w.MyConversations(t.Context(), w.Actor("ann"),
					chat.ConversationFilter{Archived: &filter}, store.PageArgs{})
				if err != nil || (len(list.Items) == 1) != (away == filter) {
					t.Errorf("archived at %d, message %d: filter %v finds %d (%v)",
						archived.ArchivedSeq, sent.Seq, filter, len(list.Items), err)
				}
			}
		}
	})
}

func TestADeleteAgainstAReaction(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cat")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cat")
		for range 10 {
			m := w.Send("ben", c.ID, "react")
			w.addReaction("cat", m, "🎉")
			got := together(w.reacting("ann", m, "👍"), w.deleting("ben", m),
				w.reacting("cat", m, "👍"), w.takingBack("cat", m, "🎉"))
			wantOneOf(t, "react", got[0], "ok", "CONFLICT messageId")
			wantOneOf(t, "delete", got[1], "ok")
			wantOneOf(t, "react", got[2], "ok", "CONFLICT messageId")
			wantOneOf(t, "take back", got[3], "ok")
		}
		if n, err := countOf(w, "reactions"); n != 0 || err != nil {
			t.Errorf("%d reactions to what is deleted (%v)", n, err)
		}
		w.wantLogTells(t, c.ID)
	})
}

// Whoever's account goes leaves no reaction and no mention behind, whatever happens to the messages
// meanwhile.
func TestLeavingRacesWithReactionsAndMentions(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "cat")
		for round := range 8 {
			bob := fmt.Sprint("bob", round)
			w.Invite(bob)
			c, other := chattest.MustConversation(t, w.Fixture, "ann", bob, "cat"),
				chattest.MustConversation(t, w.Fixture, "cat", bob)
			m, deleted, bobs := w.Send("ann", c.ID, "one"), w.Send("cat", other.ID, "two"),
				w.Send(bob, c.ID, "three")
			w.addReaction(bob, m, "👍")
			w.addReaction(bob, deleted, "👍")
			w.addReaction(bob, bobs, "👍")
			got := together(
				func() error { return w.RemoveAccount(bob) },
				w.reacting(bob, m, "🎉"), w.reacting("cat", m, "👍"), w.takingBack(bob, m, "👍"),
				w.deleting("cat", deleted),
				w.editing("ann", m, "one for @"+bob), w.editing(bob, bobs, "four"),
				w.deleting("ann", bobs),
				func() error {
					_, err := w.MarkRead(t.Context(), w.Actor(bob), c.ID,
						2)
					return err
				},
				func() error {
					_, err := w.RemoveMember(t.Context(), w.Actor("ann"), c.ID,
						w.UserID(bob))
					return err
				},
			)
			for i, o := range got {
				if i == 0 || !strings.HasPrefix(o, "NOT_FOUND") && o != "CONFLICT messageId" {
					wantOneOf(t, fmt.Sprint("call ", i), o, "ok")
				}
			}
			for _, table := range []string{"reactions", "mentions", "conversation_members"} {
				if there, err := w.DB.NewSelect().Table(table).Where("user_id = ?", w.UserID(bob)).
					Exists(t.Context()); err != nil || there {
					t.Errorf("something is left in %s (%v)", table, err)
				}
			}
			w.wantLogTells(t, c.ID)
			w.wantLogTells(t, other.ID)
		}
		w.checkAll()
	})
}

// After a removal nothing of the removed happens any more.
func TestARemovalAgainstAnEdit(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for round := range 10 {
			m := w.Send("ben", c.ID, "first")
			got := together(
				func() error {
					_, err := w.RemoveMember(t.Context(), w.Actor("ann"), c.ID,
						w.UserID("ben"))
					return err
				},
				w.editing("ben", m, "second"), w.reacting("ben", m, "👍"), w.deleting("ben", m),
				func() error {
					_, err := w.SaveDraft(t.Context(), w.Actor("ben"), c.ID,
						"x")
					return err
				},
				func() error {
					_, err := w.MarkRead(t.Context(), w.Actor("ben"), c.ID,
						1<<40)
					return err
				},
			)
			wantOneOf(t, "removal", got[0], "ok")
			for _, o := range got[1:] {
				wantOneOf(t, "what they did", o, "ok", "NOT_FOUND", "CONFLICT messageId")
			}
			removed := int64(0)
			for _, e := range w.Stored(c.ID) {
				switch {
				case e.Kind == model.MemberRemoved:
					removed = e.Seq
				case e.Kind == model.MemberAdded:
					removed = 0
				case removed > 0 && *e.ActorID == w.UserID("ben"):
					t.Errorf("round %d: seq %d, %s, comes after the removal at %d", round, e.Seq,
						e.Kind, removed)
				}
			}
			w.wantLogTells(t, c.ID)
			w.Add("ann", c.ID, "ben")
			if me, err := membership.Of(t.Context(), db, w.Actor("ben"), c.ID); err != nil ||
				me.Draft != nil || me.LastReadSeq != me.JoinedSeq {
				t.Errorf("back as %+v (%v)", me, err)
			}
		}
		_, err := w.SaveDraft(t.Context(), w.Actor("ann"), model.NewConversationID(), "x")
		chattest.WantCode(t, err, errs.NotFound)
	})
}

// Many who change what somebody else has locked hold up nobody who changes something else.
func TestChangesThatWaitHoldUpNoOthers(t *testing.T) {
	t.Parallel()
	const many = 40 // more than there are connections
	w := mustFixture(t, storetest.MustPostgres(t), "ann", "ben")
	locked, free := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
		chattest.MustConversation(t, w.Fixture, "ann", "ben")
	m := w.Send("ann", locked.ID, "0")
	changes := map[string]func(ctx context.Context, of *model.Conversation, i int) error{
		"edits": func(ctx context.Context, _ *model.Conversation, i int) error {
			_, err := w.EditMessage(ctx, w.Actor("ann"),
				chat.EditMessage{MessageID: m.ID, Content: fmt.Sprint(i)})
			return err
		},
		"renames": func(ctx context.Context, of *model.Conversation, i int) error {
			_, err := w.Rename(ctx, w.Actor("ann"), of.ID, fmt.Sprint(i))
			return err
		},
		"reading": func(ctx context.Context, of *model.Conversation, i int) error {
			_, err := w.MarkRead(ctx, w.Actor("ann"), of.ID, int64(i))
			return err
		},
	}
	var waiting sync.WaitGroup
	defer waiting.Wait()
	err := w.DB.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Lock(ctx, (*model.Conversation)(nil), "id = ?", locked.ID); err != nil {
			return err
		}
		member := (*model.ConversationMember)(nil)
		if err := tx.Lock(ctx, member, "conversation_id = ? AND user_id = ?", locked.ID,
			w.UserID("ann")); err != nil {
			return err
		}
		for what, change := range changes {
			for i := range many {
				waiting.Go(func() {
					if err := change(t.Context(), locked, i); err != nil {
						t.Errorf("%s that wait: %v", what, err)
					}
				})
			}
		}
		w.untilSomebodyWaits(t)
		during, cancel := context.WithTimeout(t.Context(), chattest.Patience)
		defer cancel()
		for i := range many {
			if err := changes["renames"](during, free, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
