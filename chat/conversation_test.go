package chat_test

import (
	"strings"
	"testing"

	"parley/chat"
	"parley/chat/chattest"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestCreateConversationTitle(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		title *string
		want  string   // where it is accepted
		fails []string // where it is not
	}{
		"missing":       {nil, "olga, ann, ben", nil},
		"empty":         {new(""), "olga, ann, ben", nil},
		"blank":         {new(" \t\r\n\u00a0\u3000"), "olga, ann, ben", nil},
		"given":         {new("Parley"), "Parley", nil},
		"trimmed":       {new("  two words \n"), "two words", nil},
		"composed":      {new("Cafe\u0301"), "Caf\u00e9", nil},
		"right to left": {new("שיחה محادثة"), "שיחה محادثة", nil},
		"emoji":         {new("👩‍👩‍👧‍👦 🏳️‍🌈"), "👩‍👩‍👧‍👦 🏳️‍🌈", nil},
		"as long as allowed": {
			new(strings.Repeat("é", 200)), strings.Repeat("é", 200),
			nil,
		},
		"as long as allowed when stored": {
			new(strings.Repeat("e\u0301", 200)),
			strings.Repeat("é", 200), nil,
		},
		"the spaces around do not count": {
			new(" " + strings.Repeat("x", 200) + " "),
			strings.Repeat("x", 200), nil,
		},
		"too long": {
			new(strings.Repeat("é", 201)), "",
			[]string{"TOO_LONG title"},
		},
		"too long with combining marks": {
			new(strings.Repeat("q\u0301", 101)), "",
			[]string{"TOO_LONG title"},
		},
		"two lines":        {new("a\nb"), "", []string{"INVALID title"}},
		"tab":              {new("a\tb"), "", []string{"INVALID title"}},
		"NUL":              {new("a\x00b"), "", []string{"INVALID title"}},
		"escape":           {new("\x1b[31mred"), "", []string{"INVALID title"}},
		"C1 control":       {new("a\u0085b"), "", []string{"INVALID title"}},
		"not UTF-8":        {new("a\xffb"), "", []string{"INVALID title"}},
		"half a surrogate": {new("a\xed\xa0\x80b"), "", []string{"INVALID title"}},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "ben")
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				create := func() (*model.Conversation, error) {
					return w.CreateConversation(t.Context(), w.Actor("olga"),
						chat.CreateConversation{
							Title:   test.title,
							Members: w.NewMembers("ann", "ben"),
						})
				}
				if test.fails != nil {
					w.Unchanged(t, func() {
						_, err := create()
						chattest.WantMistakes(t, err, test.fails...)
					})
					return
				}
				c, err := create()
				if err != nil {
					t.Fatal(err)
				}
				again, err := w.Conversation(t.Context(), w.Actor("ann"), c.ID)
				if err != nil || again == nil {
					t.Fatalf("not to be found again: %v", err)
				}
				chattest.WantEqual(t, "the conversation, as stored", c, again)
				chattest.WantEqual(t, "title", test.want, again.Title)
			})
		}
	})
}

func TestCreateConversationMembers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		members string // nickname:role; "nobody" is not registered
		fails   []string
	}{
		"one other":               {"ann:MEMBER", nil},
		"an admin":                {"ann:ADMIN ben:MEMBER", nil},
		"viewer listed as owner":  {"olga:OWNER ann:MEMBER", nil},
		"viewer listed as admin":  {"ann:MEMBER olga:ADMIN", nil},
		"viewer listed as member": {"ann:MEMBER olga:MEMBER ben:ADMIN", nil},
		"nobody":                  {"", []string{"REQUIRED members"}},
		"only the viewer":         {"olga:OWNER", []string{"REQUIRED members"}},
		"only the viewer, twice": {
			"olga:OWNER olga:OWNER",
			[]string{"CONFLICT members.1.userId", "REQUIRED members"},
		},
		"listed twice": {
			"ann:MEMBER ben:MEMBER ann:MEMBER",
			[]string{"CONFLICT members.2.userId"},
		},
		"listed twice, other role": {
			"ann:MEMBER ann:ADMIN",
			[]string{"CONFLICT members.1.userId"},
		},
		"listed three times": {
			"ann:ADMIN ann:ADMIN ann:ADMIN",
			[]string{"CONFLICT members.1.userId", "CONFLICT members.2.userId"},
		},
		"viewer listed twice": {
			"olga:OWNER ann:MEMBER olga:MEMBER",
			[]string{"CONFLICT members.2.userId"},
		},
		"a second owner": {"ann:OWNER", []string{"CONFLICT members.0.role"}},
		"two other owners": {
			"ann:OWNER ben:OWNER",
			[]string{"CONFLICT members.0.role", "CONFLICT members.1.role"},
		},
		"unknown person": {
			"ann:MEMBER nobody:MEMBER",
			[]string{"NOT_FOUND members.1.userId"},
		},
		"unknown owner": {
			"nobody:OWNER",
			[]string{"CONFLICT members.0.role", "NOT_FOUND members.0.userId"},
		},
		"several mistakes, in turn": {
			"ann:MEMBER nobody:ADMIN ben:OWNER ann:MEMBER",
			[]string{
				"CONFLICT members.2.role", "CONFLICT members.3.userId",
				"NOT_FOUND members.1.userId",
			},
		},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "ben")
		w.Actors["nobody"] = model.Actor{UserID: model.NewUserID()}
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				in := chat.CreateConversation{Title: new("x")}
				want := map[string]model.Role{"olga": model.Owner}
				for m := range strings.FieldsSeq(test.members) {
					name, role, _ := strings.Cut(m, ":")
					in.Members = append(in.Members,
						&chat.NewMember{UserID: w.UserID(name), Role: model.Role(role)})
					if name != "olga" {
						want[name] = model.Role(role)
					}
				}
				if test.fails != nil {
					w.Unchanged(t, func() {
						_, err := w.CreateConversation(t.Context(), w.Actor("olga"), in)
						chattest.WantMistakes(t, err, test.fails...)
					})
					return
				}
				c, err := w.CreateConversation(t.Context(), w.Actor("olga"), in)
				if err != nil {
					t.Fatal(err)
				}
				chattest.WantEqual(t, "members", want, w.Roles(c.ID))
			})
		}
	})
}

func TestCreateConversationNamesEveryMistakeAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "ben")
		in := chat.CreateConversation{
			Title:   new(strings.Repeat("x", 201)),
			Members: w.NewMembers("ann", "ann", "ben"),
		}
		in.Members[2].Role = model.Owner
		in.Members = append(in.Members,
			&chat.NewMember{UserID: model.NewUserID(), Role: model.Member})
		w.Unchanged(t, func() {
			_, err := w.CreateConversation(t.Context(), w.Actor("olga"), in)
			chattest.WantMistakes(t, err, "TOO_LONG title", "CONFLICT members.1.userId",
				"CONFLICT members.2.role", "NOT_FOUND members.3.userId")
		})
	})
}

func TestCreateConversationHasRoomFor500(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga")
		crowd := w.Crowd(500)
		create := func(nicknames ...string) (*model.Conversation, error) {
			return w.CreateConversation(t.Context(), w.Actor("olga"),
				chat.CreateConversation{Title: new("x"), Members: w.NewMembers(nicknames...)})
		}
		for name, nicknames := range map[string][]string{
			"viewer not listed": crowd[:499],
			"viewer listed":     append([]string{"olga"}, crowd[:499]...),
		} {
			c, err := create(nicknames...)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := len(w.Roles(c.ID)); got != 500 {
				t.Errorf("%s: %d members", name, got)
			}
		}
		manyTimes := make([]string, 600)
		for i := range manyTimes {
			manyTimes[i] = crowd[0]
		}
		w.Unchanged(t, func() {
			_, err := create(crowd...)
			chattest.WantMistakes(t, err, "LIMIT_REACHED members")
			_, err = create(append([]string{"olga"}, crowd...)...)
			chattest.WantMistakes(t, err, "LIMIT_REACHED members")
			// more than are looked up
			_, err = create(append([]string{"olga", "olga"}, crowd...)...)
			chattest.WantMistakes(t, err, "CONFLICT members.1.userId", "LIMIT_REACHED members")
			if _, err = create(manyTimes...); len(chattest.Mistakes(err)) != 599 {
				t.Errorf("one person 600 times: %d mistakes", len(chattest.Mistakes(err)))
			}
		})
	})
}

func TestCreateConversationIsNotIdempotent(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann")
		first, second := chattest.MustConversation(t, w.Fixture, "olga", "ann"),
			chattest.MustConversation(t, w.Fixture, "olga", "ann")
		if first.ID == second.ID {
			t.Error("two groups of the same people are one")
		}
	})
}

func TestAStrangerSeesNoConversation(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "zoe")
		theirs, shared := chattest.MustConversation(t, w.Fixture, "olga", "ann"),
			chattest.MustConversation(t, w.Fixture, "zoe", "ann")
		unknown := model.NewConversationID()
		seen := func(nickname string) map[string]bool {
			found, err := w.Conversations(t.Context(), w.Actor(nickname),
				[]model.ConversationID{theirs.ID, shared.ID, unknown})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for name, id := range map[string]model.ConversationID{
				"theirs": theirs.ID,
				"shared": shared.ID, "unknown": unknown,
			} {
				one, err := w.Conversation(t.Context(), w.Actor(nickname), id)
				if err != nil {
					t.Fatal(err)
				}
				if (one != nil) != (found[id] != nil) {
					t.Errorf("%s: %s is seen one way and not the other", nickname, name)
				}
				got[name] = one != nil
			}
			return got
		}
		chattest.WantEqual(t, "olga's view",
			map[string]bool{"theirs": true, "shared": false, "unknown": false}, seen("olga"))
		chattest.WantEqual(t, "ann's view",
			map[string]bool{"theirs": true, "shared": true, "unknown": false}, seen("ann"))
		chattest.WantEqual(t, "zoe's view",
			map[string]bool{"theirs": false, "shared": true, "unknown": false}, seen("zoe"))
		w.EndMembership("ann", theirs.ID)
		chattest.WantEqual(t, "ann's view once removed",
			map[string]bool{"theirs": false, "shared": true, "unknown": false}, seen("ann"))
		if found, err := w.Conversations(t.Context(), w.Actor("ann"), nil); err != nil ||
			len(found) != 0 {
			t.Errorf("no ids: %v, %v", found, err)
		}
	})
}
