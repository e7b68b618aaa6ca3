package chat_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/chat"
	"parley/chat/chattest"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestMembersStartWhereTheConversationDoes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann")
		c := chattest.MustConversation(t, w.Fixture, "olga", "ann")
		w.Send("olga", c.ID, "hello")
		want := &model.ConversationMember{
			ConversationID: c.ID, UserID: w.UserID("ann"), Role: model.Member,
			JoinedAt: c.CreatedAt, JoinedSeq: 1, LastReadSeq: 1,
		}
		got, err := w.Member(t.Context(), w.Actor("olga"), want.ID())
		if err != nil {
			t.Fatal(err)
		}
		want.Position = got.Position
		chattest.WantEqual(t, "the member", want, got)
	})
}

// glance is what somebody is shown of a set of conversations, in the ways in which there is one
// answer a conversation.
type glance struct {
	Memberships, Owners, Counts, Last, Member, Message int
	MyConversations                                    int
}

func (w *fixture) glance(
	t *testing.T, nickname string, m *model.Message, ids ...model.ConversationID,
) (g glance) {
	t.Helper()
	actor := w.Actor(nickname)
	must := func(n int, err error) int {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
		return n
	}
	g.Memberships = must(size(w.Memberships(t.Context(), actor, ids)))
	g.Owners = must(size(w.Owners(t.Context(), actor, ids)))
	g.Counts = must(size(w.MemberCounts(t.Context(), actor, ids)))
	g.Last = must(size(w.LastMessages(t.Context(), actor, ids)))
	g.Member = must(present(w.Member(t.Context(), actor,
		model.MemberID{Conversation: m.ConversationID, User: *m.AuthorID})))
	g.Message = must(present(w.Message(t.Context(), actor, m.ID)))
	mine, err := w.MyConversations(t.Context(), actor, chat.ConversationFilter{}, store.PageArgs{})
	g.MyConversations = must(len(mine.Items), err)
	return g
}

func size[K comparable, V any](found map[K]V, err error) (int, error) { return len(found), err }

func present[T any](found *T, err error) (int, error) {
	if found == nil {
		return 0, err
	}
	return 1, err
}

func TestAStrangerSeesNothingOfAConversation(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "zoe", "newcomer")
		a, b := chattest.MustConversation(t, w.Fixture, "olga", "ann"),
			chattest.MustConversation(t, w.Fixture, "zoe", "olga")
		m := w.Send("olga", a.ID, "a secret")
		w.Send("zoe", b.ID, "another")
		look := func(nickname string) glance {
			return w.glance(t, nickname, m, a.ID, b.ID,
				model.NewConversationID())
		}

		both := glance{
			Memberships: 2, Owners: 2, Counts: 2, Last: 2, Member: 1, Message: 1,
			MyConversations: 2,
		}
		one := glance{
			Memberships: 1, Owners: 1, Counts: 1, Last: 1, Member: 1, Message: 1,
			MyConversations: 1,
		}
		other := glance{Memberships: 1, Owners: 1, Counts: 1, Last: 1, MyConversations: 1}
		chattest.WantEqual(t, "what olga sees", both, look("olga"))
		chattest.WantEqual(t, "what ann sees", one, look("ann"))
		chattest.WantEqual(t, "what zoe sees", other, look("zoe"))
		chattest.WantEqual(t, "what somebody without conversations sees", glance{},
			look("newcomer"))
		w.EndMembership("ann", a.ID)
		chattest.WantEqual(t, "what ann sees once removed", glance{}, look("ann"))
	})
}

func TestListsOfAConversationAreForMembers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "zoe")
		c := chattest.MustConversation(t, w.Fixture, "olga", "ann")
		w.EndMembership("ann", c.ID)
		for name, test := range map[string]struct {
			nickname string
			id       model.ConversationID
		}{
			"stranger": {"zoe", c.ID}, "removed": {"ann", c.ID},
			"unknown": {"olga", model.NewConversationID()},
		} {
			t.Run(name, func(t *testing.T) {
				members, err := w.MembersOf(t.Context(), w.Actor(test.nickname), test.id,
					store.PageArgs{})
				if err != nil || len(members.Items) > 0 {
					t.Errorf("members: %v, %v", members.Items, err)
				}
				messages, err := w.MessagesOf(t.Context(), w.Actor(test.nickname), test.id,
					store.PageArgs{})
				if err != nil || len(messages.Items) > 0 {
					t.Errorf("messages: %v, %v", messages.Items, err)
				}
			})
		}
	})
}

func TestSummariesOfManyConversations(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "ben")
		quiet, busy := chattest.MustConversation(t, w.Fixture, "olga", "ann"),
			chattest.MustConversation(t, w.Fixture, "ann", "olga", "ben")
		w.Send("ben", busy.ID, "first")
		newest := w.Send("olga", busy.ID, "second")
		w.SkipSeq(t, busy.ID) // the newest event is no message
		ids, olga := []model.ConversationID{quiet.ID, busy.ID, quiet.ID}, w.Actor("olga")

		own, err := w.Memberships(t.Context(), olga, ids)
		if err != nil {
			t.Fatal(err)
		}
		owners, err := w.Owners(t.Context(), olga, ids)
		if err != nil {
			t.Fatal(err)
		}
		counts, err := w.MemberCounts(t.Context(), olga, ids)
		if err != nil {
			t.Fatal(err)
		}
		last, err := w.LastMessages(t.Context(), olga, ids)
		if err != nil {
			t.Fatal(err)
		}
		type roles = map[model.ConversationID]model.MemberID
		named := func(members map[model.ConversationID]*model.ConversationMember) roles {
			out := roles{}
			for id, m := range members {
				out[id] = m.ID()
			}
			return out
		}
		member := func(c *model.Conversation, nickname string) model.MemberID {
			return model.MemberID{Conversation: c.ID, User: w.UserID(nickname)}
		}
		chattest.WantEqual(t, "memberships",
			roles{quiet.ID: member(quiet, "olga"), busy.ID: member(busy, "olga")}, named(own))
		chattest.WantEqual(t, "owners",
			roles{quiet.ID: member(quiet, "olga"), busy.ID: member(busy, "ann")}, named(owners))
		chattest.WantEqual(t, "counts", map[model.ConversationID]int{quiet.ID: 2, busy.ID: 3},
			counts)
		chattest.WantEqual(t, "last messages",
			map[model.ConversationID]*model.Message{busy.ID: newest}, last)
	})
}

func TestSummariesOfNoConversations(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann")
		m := w.Send("olga", chattest.MustConversation(t, w.Fixture, "olga", "ann").ID, "hello")
		want := glance{Member: 1, Message: 1, MyConversations: 1}
		if diff := cmp.Diff(want, w.glance(t, "olga", m)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "zoe")
		c := chattest.MustConversation(t, w.Fixture, "olga", "ann")
		if m, err := w.Message(t.Context(), w.Actor("olga"), model.NewMessageID()); m != nil ||
			err != nil {
			t.Errorf("message: %v, %v", m, err)
		}
		for name, id := range map[string]model.MemberID{
			"no member":       {Conversation: c.ID, User: w.UserID("zoe")},
			"no person":       {Conversation: c.ID, User: model.NewUserID()},
			"no conversation": {Conversation: model.NewConversationID(), User: w.UserID("olga")},
		} {
			if m, err := w.Member(t.Context(), w.Actor("olga"), id); m != nil || err != nil {
				t.Errorf("%s: %v, %v", name, m, err)
			}
		}
	})
}

// TestMembershipsAreOnesOwn asks for what nobody else may know: others have drafts, too.
func TestMembershipsAreOnesOwn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		other := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for _, name := range []string{"ann", "ben"} {
			if _, err := w.SaveDraft(t.Context(), w.Actor(name), c.ID, "of "+name); err != nil {
				t.Fatal(err)
			}
		}
		ids := []model.ConversationID{c.ID, other.ID}
		for _, name := range []string{"ann", "ben"} {
			found, err := w.Memberships(t.Context(), w.Actor(name), ids)
			if err != nil || len(found) != 2 {
				t.Fatalf("%v: %v", found, err)
			}
			for id, m := range found {
				if m.UserID != w.UserID(name) || (m.Draft != nil) != (id == c.ID) ||
					m.Draft != nil && *m.Draft != "of "+name {
					t.Errorf("%s's membership is %+v", name, m)
				}
			}
		}
	})
}
