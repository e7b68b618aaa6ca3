package chat

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestMembersStartWhereTheConversationDoes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "olga", "ann")
		c := MustConversation(t, w, "olga", "ann")
		w.send("olga", c.ID, "hello")
		want := &model.ConversationMember{
			ConversationID: c.ID, UserID: w.id("ann"), Role: model.Member, JoinedAt: c.CreatedAt, JoinedSeq: 1, LastReadSeq: 1,
		}
		got, err := w.Member(t.Context(), w.actor("olga"), want.ID())
		if err != nil {
			t.Fatal(err)
		}
		want.Position = got.Position
		wantEqual(t, "the member", want, got)
	})
}

// glance is what somebody is shown of a set of conversations, in the ways in which there is one
// answer a conversation.
type glance struct {
	Memberships, Owners, Counts, Last, Member, Message int
	MyConversations                                    int
}

func (w *world) glance(t *testing.T, nickname string, m *model.Message, ids ...model.ConversationID) (g glance) {
	t.Helper()
	actor := w.actor(nickname)
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
	g.Member = must(present(w.Member(t.Context(), actor, model.MemberID{Conversation: m.ConversationID, User: *m.AuthorID})))
	g.Message = must(present(w.Message(t.Context(), actor, m.ID)))
	mine, err := w.MyConversations(t.Context(), actor, ConversationFilter{}, store.PageArgs{})
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
		w := MustWorld(t, db, "olga", "ann", "zoe", "newcomer")
		a, b := MustConversation(t, w, "olga", "ann"), MustConversation(t, w, "zoe", "olga")
		m := w.send("olga", a.ID, "a secret")
		w.send("zoe", b.ID, "another")
		look := func(nickname string) glance { return w.glance(t, nickname, m, a.ID, b.ID, model.NewConversationID()) }

		both := glance{Memberships: 2, Owners: 2, Counts: 2, Last: 2, Member: 1, Message: 1, MyConversations: 2}
		one := glance{Memberships: 1, Owners: 1, Counts: 1, Last: 1, Member: 1, Message: 1, MyConversations: 1}
		other := glance{Memberships: 1, Owners: 1, Counts: 1, Last: 1, MyConversations: 1}
		wantEqual(t, "what olga sees", both, look("olga"))
		wantEqual(t, "what ann sees", one, look("ann"))
		wantEqual(t, "what zoe sees", other, look("zoe"))
		wantEqual(t, "what somebody without conversations sees", glance{}, look("newcomer"))
		w.remove("ann", a.ID)
		wantEqual(t, "what ann sees once removed", glance{}, look("ann"))
	})
}

func TestListsOfAConversationAreForMembers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "olga", "ann", "zoe")
		c := MustConversation(t, w, "olga", "ann")
		w.remove("ann", c.ID)
		for name, test := range map[string]struct {
			nickname string
			id       model.ConversationID
		}{
			"stranger": {"zoe", c.ID}, "removed": {"ann", c.ID}, "unknown": {"olga", model.NewConversationID()},
		} {
			t.Run(name, func(t *testing.T) {
				members, err := w.MembersOf(t.Context(), w.actor(test.nickname), test.id, store.PageArgs{})
				if err != nil || len(members.Items) > 0 {
					t.Errorf("members: %v, %v", members.Items, err)
				}
				messages, err := w.MessagesOf(t.Context(), w.actor(test.nickname), test.id, store.PageArgs{})
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
		w := MustWorld(t, db, "olga", "ann", "ben")
		quiet, busy := MustConversation(t, w, "olga", "ann"), MustConversation(t, w, "ann", "olga", "ben")
		w.send("ben", busy.ID, "first")
		newest := w.send("olga", busy.ID, "second")
		w.skipSeq(t, busy.ID) // the newest event is no message
		ids, olga := []model.ConversationID{quiet.ID, busy.ID, quiet.ID}, w.actor("olga")

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
			return model.MemberID{Conversation: c.ID, User: w.id(nickname)}
		}
		wantEqual(t, "memberships", roles{quiet.ID: member(quiet, "olga"), busy.ID: member(busy, "olga")}, named(own))
		wantEqual(t, "owners", roles{quiet.ID: member(quiet, "olga"), busy.ID: member(busy, "ann")}, named(owners))
		wantEqual(t, "counts", map[model.ConversationID]int{quiet.ID: 2, busy.ID: 3}, counts)
		wantEqual(t, "last messages", map[model.ConversationID]*model.Message{busy.ID: newest}, last)
	})
}

func TestSummariesOfNoConversations(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "olga", "ann")
		m := w.send("olga", MustConversation(t, w, "olga", "ann").ID, "hello")
		want := glance{Member: 1, Message: 1, MyConversations: 1}
		if diff := cmp.Diff(want, w.glance(t, "olga", m)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "olga", "ann", "zoe")
		c := MustConversation(t, w, "olga", "ann")
		if m, err := w.Message(t.Context(), w.actor("olga"), model.NewMessageID()); m != nil || err != nil {
			t.Errorf("message: %v, %v", m, err)
		}
		for name, id := range map[string]model.MemberID{
			"no member":       {Conversation: c.ID, User: w.id("zoe")},
			"no person":       {Conversation: c.ID, User: model.NewUserID()},
			"no conversation": {Conversation: model.NewConversationID(), User: w.id("olga")},
		} {
			if m, err := w.Member(t.Context(), w.actor("olga"), id); m != nil || err != nil {
				t.Errorf("%s: %v, %v", name, m, err)
			}
		}
	})
}

// TestMembershipsAreOnesOwn asks for what nobody else may know: others have drafts, too.
func TestMembershipsAreOnesOwn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		other := MustConversation(t, w, "ann", "ben")
		for _, name := range []string{"ann", "ben"} {
			if _, err := w.SaveDraft(t.Context(), w.actor(name), c.ID, "of "+name); err != nil {
				t.Fatal(err)
			}
		}
		ids := []model.ConversationID{c.ID, other.ID}
		for _, name := range []string{"ann", "ben"} {
			found, err := w.Memberships(t.Context(), w.actor(name), ids)
			if err != nil || len(found) != 2 {
				t.Fatalf("%v: %v", found, err)
			}
			for id, m := range found {
				if m.UserID != w.id(name) || (m.Draft != nil) != (id == c.ID) || m.Draft != nil && *m.Draft != "of "+name {
					t.Errorf("%s's membership is %+v", name, m)
				}
			}
		}
	})
}
