package chat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// company is a conversation with everybody that a rule can tell apart: owner, two admins, two
// members, somebody who was removed, and a stranger.
type company struct {
	*fixture
	c *model.Conversation
}

func mustCompany(t *testing.T, w *fixture, change ...func(*chat.CreateConversation)) *company {
	t.Helper()
	in := chat.CreateConversation{Members: []*chat.NewMember{
		{UserID: w.UserID("admin"), Role: model.Admin},
		{UserID: w.UserID("admin2"), Role: model.Admin},
		{UserID: w.UserID("member"), Role: model.Member},
		{UserID: w.UserID("member2"), Role: model.Member},
		{UserID: w.UserID("removed"), Role: model.Member},
	}}
	for _, fn := range change {
		fn(&in)
	}
	c, err := w.CreateConversation(t.Context(), w.Actor("owner"), in)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.RemoveMember(t.Context(), w.Actor("owner"), c.ID,
		w.UserID("removed")); err != nil {
		t.Fatal(err)
	}
	return &company{fixture: w, c: c}
}

func companyWorld(t *testing.T, db *store.DB) *fixture {
	t.Helper()
	return mustFixture(t, db, "owner", "admin", "admin2", "member", "member2", "removed",
		"stranger", "new")
}

// outcome is an error in short: "ok", a code, or a code with the path that a person can correct.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	if list := errs.Correctable(err); list != nil {
		var parts []string
		for _, e := range list {
			parts = append(parts, string(e.Code)+" "+strings.Join(e.Path, "."))
		}
		return strings.Join(parts, ", ")
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return string(e.Code)
	}
	return err.Error()
}

func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	const ok, no, not = "ok", "FORBIDDEN", "NOT_FOUND"
	type operation func(co *company, ctx context.Context, as model.Actor) error
	add := func(role model.Role) operation {
		return func(co *company, ctx context.Context, as model.Actor) error {
			_, err := co.AddMembers(ctx, as, co.c.ID,
				[]*chat.NewMember{{UserID: co.UserID("new"), Role: role}})
			return err
		}
	}
	remove := func(whom string) operation {
		return func(co *company, ctx context.Context, as model.Actor) error {
			_, err := co.RemoveMember(ctx, as, co.c.ID, co.UserID(whom))
			return err
		}
	}
	changeRole := func(whom string, role model.Role) operation {
		return func(co *company, ctx context.Context, as model.Actor) error {
			_, err := co.ChangeRole(ctx, as, co.c.ID, co.UserID(whom), role)
			return err
		}
	}
	transfer := func(whom string) operation {
		return func(co *company, ctx context.Context, as model.Actor) error {
			_, err := co.TransferOwnership(ctx, as, co.c.ID, co.UserID(whom))
			return err
		}
	}
	rename := func(co *company, ctx context.Context, as model.Actor) error {
		_, err := co.Rename(ctx, as, co.c.ID, "another title")
		return err
	}
	settings := func(co *company, ctx context.Context, as model.Actor) error {
		_, err := co.UpdateConversationSettings(ctx, as, co.c.ID, true)
		return err
	}
	leave := func(co *company, ctx context.Context,
		as model.Actor,
	) error {
		return co.Leave(ctx, as, co.c.ID)
	}

	tests := map[string]struct {
		do operation
		// owner, admin, member, removed, stranger
		want [5]string
	}{
		"rename":       {rename, [5]string{ok, ok, no, not, not}},
		"settings":     {settings, [5]string{ok, no, no, not, not}},
		"add a member": {add(model.Member), [5]string{ok, ok, no, not, not}},
		"add an admin": {
			add(model.Admin),
			[5]string{ok, "CONFLICT members.0.role", no, not, not},
		},
		"add an owner": {
			add(model.Owner),
			[5]string{"CONFLICT members.0.role", "CONFLICT members.0.role", no, not, not},
		},
		"remove a member":  {remove("member2"), [5]string{ok, ok, no, not, not}},
		"remove an admin":  {remove("admin2"), [5]string{ok, no, no, not, not}},
		"remove the owner": {remove("owner"), [5]string{"CONFLICT userId", no, no, not, not}},
		"remove a stranger": {
			remove("stranger"),
			[5]string{"NOT_FOUND userId", "NOT_FOUND userId", no, not, not},
		},
		"make an admin": {
			changeRole("member2", model.Admin),
			[5]string{ok, no, no, not, not},
		},
		"make a member": {
			changeRole("admin2", model.Member),
			[5]string{ok, no, no, not, not},
		},
		"make a second owner": {
			changeRole("member2", model.Owner),
			[5]string{
				"CONFLICT role", "CONFLICT role", "CONFLICT role", "CONFLICT role",
				"CONFLICT role",
			},
		},
		"degrade the owner": {
			changeRole("owner", model.Member),
			[5]string{"CONFLICT userId", no, no, not, not},
		},
		"transfer": {transfer("member2"), [5]string{ok, no, no, not, not}},
		"transfer to oneself": {
			transfer("owner"),
			[5]string{"CONFLICT userId", no, no, not, not},
		},
		"transfer to a stranger": {
			transfer("stranger"),
			[5]string{"NOT_FOUND userId", no, no, not, not},
		},
		"leave": {leave, [5]string{"OWNER_REQUIRED conversationId", ok, ok, not, not}},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := companyWorld(t, db)
		for name, test := range tests {
			for i, who := range []string{"owner", "admin", "member", "removed", "stranger"} {
				co := mustCompany(t, w)
				before, roles := co.last(), co.Roles(co.c.ID)
				got := outcome(test.do(co, t.Context(), co.Actor(who)))
				if got != test.want[i] {
					t.Errorf("%s by the %s: got %s, want %s", name, who, got, test.want[i])
				}
				if after := co.last(); (got == ok) != (after > before) {
					t.Errorf("%s by the %s: %s, and seq went from %d to %d", name, who, got, before,
						after)
				}
				if got != ok {
					chattest.WantEqual(t, name+" by the "+who+": roles", roles, co.Roles(co.c.ID))
				}
				if owners := countOwners(co.Roles(co.c.ID)); owners != 1 {
					t.Errorf("%s by the %s: %d owners", name, who, owners)
				}
				co.wantLogEqualsTables(t)
			}
		}
	})
}

func (co *company) last() int64 {
	co.T.Helper()
	seq, _, err := co.Bounds(co.T.Context(), co.anyMember(), co.c.ID)
	if err != nil {
		co.T.Fatal(err)
	}
	return seq
}

func (co *company) anyMember() model.Actor {
	co.T.Helper()
	for name := range co.Roles(co.c.ID) {
		return co.Actor(name)
	}
	co.T.Fatal("nobody is left")
	return model.Actor{}
}

func countOwners(roles map[string]model.Role) (n int) {
	for _, role := range roles {
		if role == model.Owner {
			n++
		}
	}
	return n
}

// wantLogEqualsTables replays the events of a conversation, and compares with what the tables hold.
func (co *company) wantLogEqualsTables(t *testing.T) {
	t.Helper()
	roles := map[model.UserID]model.Role{}
	var title string
	var mayRename bool
	for i, e := range co.Stored(co.c.ID) {
		if e.Seq != int64(i)+1 {
			t.Fatalf("event %d has seq %d", i, e.Seq)
		}
		var data struct {
			Title            *string
			MembersMayRename *bool
			Members          []model.MemberData
			model.MemberData
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		if data.Title != nil {
			title = *data.Title
		}
		if data.MembersMayRename != nil {
			mayRename = *data.MembersMayRename
		}
		switch e.Kind { //nolint:exhaustive // messages change nothing here
		case model.ConversationCreated:
			for _, m := range data.Members {
				roles[m.UserID] = m.Role
			}
		case model.MemberAdded, model.MemberRoleChanged:
			roles[data.UserID] = data.Role
		case model.MemberRemoved:
			delete(roles, data.UserID)
		}
	}
	var c model.Conversation
	if err := co.DB.NewSelect().Model(&c).Where("c.id = ?", co.c.ID).Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	byName := map[string]model.Role{}
	for name, actor := range co.Actors {
		if role, in := roles[actor.UserID]; in {
			byName[name] = role
		}
	}
	chattest.WantEqual(t, "roles by the log", co.Roles(co.c.ID), byName)
	chattest.WantEqual(t, "title by the log", c.Title, title)
	chattest.WantEqual(t, "settings by the log", c.MembersMayRename, mayRename)
}

func TestMembersMayRenameWhereTheOwnerAllowsIt(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		co := mustCompany(t, companyWorld(t, db),
			func(in *chat.CreateConversation) { in.MembersMayRename = true })
		c, err := co.Rename(t.Context(), co.Actor("member"), co.c.ID, "  ours ")
		if err != nil || c.Title != "ours" {
			t.Fatalf("%+v (%v)", c, err)
		}
		before := co.last()
		if _, err := co.Rename(t.Context(), co.Actor("member"), co.c.ID, "ours"); err != nil ||
			co.last() != before {
			t.Errorf("the same title again is no change: %v", err)
		}
		for title, want := range map[string]string{
			" ": "REQUIRED title", strings.Repeat("x", 201): "TOO_LONG title",
			"a\nb": "INVALID title",
		} {
			if _, err := co.Rename(t.Context(), co.Actor("owner"), co.c.ID,
				title); outcome(err) != want {
				t.Errorf("%.10q: %v", title, err)
			}
		}
	})
}

func TestAddMembersIsAllOrNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := companyWorld(t, db)
		co := mustCompany(t, w)
		_, err := w.AddMembers(t.Context(), w.Actor("owner"), co.c.ID, []*chat.NewMember{
			{UserID: w.UserID("new"), Role: model.Member},
			{UserID: w.UserID("member"), Role: model.Member},
			{UserID: model.NewUserID(), Role: model.Member},
			{UserID: w.UserID("new"), Role: model.Member},
		})
		if got, want := outcome(
			err),
			"CONFLICT members.3.userId, ALREADY_MEMBER members.1.userId, NOT_FOUND members.2.userId"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if _, in := w.Roles(co.c.ID)["new"]; in {
			t.Error("one of them was added")
		}
		// with the five that are there, one too many
		crowd := w.NewMembers(w.Crowd(membership.Max - 4)...)
		if _, err := w.AddMembers(t.Context(), w.Actor("owner"), co.c.ID,
			crowd); outcome(err) != "LIMIT_REACHED members" {
			t.Errorf("beyond the limit: %v", err)
		}
		if _, err := w.AddMembers(t.Context(), w.Actor("owner"), co.c.ID, crowd[1:]); err != nil {
			t.Errorf("up to the limit: %v", err)
		}
		if _, err := w.AddMembers(t.Context(), w.Actor("owner"), co.c.ID,
			nil); outcome(err) != "REQUIRED members" {
			t.Errorf("nobody: %v", err)
		}
	})
}

// Who is removed sees nothing any more, and who is added back is a member anew.
func TestHistoryVisibility(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for history, want := range map[model.History][]string{
			model.FromStart: {"before", "after"}, model.FromJoining: {"after"},
		} {
			w := mustFixture(t, db)
			w.Invite(string(history)+" ann", string(history)+" ben")
			w.Actors["ann"], w.Actors["ben"] = w.Actor(string(history)+" ann"),
				w.Actor(string(history)+" ben")
			w.Invite(string(history) + " cleo")
			w.Actors["cleo"] = w.Actor(string(history) + " cleo")
			c, err := w.CreateConversation(t.Context(), w.Actor("ann"),
				chat.CreateConversation{Members: w.NewMembers("ben"), HistoryVisibility: history})
			if err != nil {
				t.Fatal(err)
			}
			first := w.Send("ann", c.ID, "before")
			if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
				w.NewMembers("cleo")); err != nil {
				t.Fatal(err)
			}
			w.Send("ann", c.ID, "after")

			slice, err := w.MessagesOf(t.Context(), w.Actor("cleo"), c.ID, store.PageArgs{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range slice.Items {
				got = append(got, m.Content)
			}
			chattest.WantEqual(t, fmt.Sprintf("%s: messages", history), want, got)
			if m, err := w.Message(t.Context(), w.Actor("cleo"), first.ID); err != nil ||
				(m != nil) != (history == model.FromStart) {
				t.Errorf("%s: the first message by its id: %v (%v)", history, m, err)
			}
			p := w.Pull(t, "cleo", c.ID, new(int64(0)))
			if history == model.FromStart {
				p.Events(1, 4)
			} else {
				p.Events(3, 4) // their own joining, and what came after it
			}

			if _, err := w.RemoveMember(t.Context(), w.Actor("ann"), c.ID,
				w.UserID("cleo")); err != nil {
				t.Fatal(err)
			}
			p.Event(5)
			chattest.WantCode(t, p.End(), errs.Forbidden)
			if left, err := w.MessagesOf(t.Context(), w.Actor("cleo"), c.ID,
				store.PageArgs{}); err != nil || len(left.Items) > 0 {
				t.Errorf("%s: once removed: %v, %v", history, left.Items, err)
			}
		}
	})
}

// A follower that sleeps through being removed and added back gets nothing of what happened in
// between, where history is hidden from those who join.
func TestRemovedAndBackWhileAsleep(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c, err := w.CreateConversation(t.Context(), w.Actor("ann"),
			chat.CreateConversation{
				Members:           w.NewMembers("ben"),
				HistoryVisibility: model.FromJoining,
			})
		if err != nil {
			t.Fatal(err)
		}
		w.LoseHints() // nobody wakes it
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		if _, err := w.RemoveMember(t.Context(), w.Actor("ann"), c.ID,
			w.UserID("ben")); err != nil {
			t.Fatal(err)
		}
		w.Send("ann", c.ID, "not for ben")
		if _, err := w.AddMembers(t.Context(), w.Actor("ann"), c.ID,
			w.NewMembers("ben")); err != nil {
			t.Fatal(err)
		}
		w.Hints().PublishLocal(feed.Topic(c.ID), feed.Hint{Seq: 4})
		p.Event(2)
		chattest.WantCode(t, p.End(), errs.Forbidden)
	})
}

func TestLeaveAlone(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		if err := w.Leave(t.Context(), w.Actor("ben"), c.ID); err != nil {
			t.Fatal(err)
		}
		w.Send("ann", c.ID, "alone")
		if err := w.Leave(t.Context(), w.Actor("ann"), c.ID); err != nil {
			t.Fatal(err)
		}
		chattest.WantEqual(t, "rows", map[string]int64{
			"conversations":        0,
			"conversation_members": 0, "messages": 0, "events": 0,
		}, w.Rows())
	})
}

func TestOpenDirect(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cleo")
		var wg sync.WaitGroup
		opened := make([]*model.Conversation, 20)
		for i := range opened {
			wg.Go(func() {
				a, b := "ann", "ben"
				if i%2 == 1 {
					a, b = b, a
				}
				var err error
				if opened[i], err = w.OpenDirect(t.Context(), w.Actor(a), w.UserID(b)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, c := range opened {
			if c == nil || c.ID != opened[0].ID || c.Kind != model.Direct {
				t.Fatalf("got %+v and %+v", c, opened[0])
			}
		}
		id := opened[0].ID
		chattest.WantEqual(t, "roles",
			map[string]model.Role{"ann": model.Member, "ben": model.Member}, w.Roles(id))
		partners, err := w.Partners(t.Context(), w.Actor("ann"), []model.ConversationID{id})
		if err != nil || partners[id] != w.UserID("ben") {
			t.Errorf("ann's partner: %v (%v)", partners, err)
		}
		for name, do := range map[string]func() error{
			"add": func() error {
				_, err := w.AddMembers(t.Context(), w.Actor("ann"), id, w.NewMembers("cleo"))
				return err
			},
			"remove": func() error {
				_, err := w.RemoveMember(t.Context(), w.Actor("ann"), id,
					w.UserID("ben"))
				return err
			},
			"rename": func() error {
				_, err := w.Rename(t.Context(), w.Actor("ann"), id,
					"x")
				return err
			},
			"leave": func() error { return w.Leave(t.Context(), w.Actor("ann"), id) },
			"transfer": func() error {
				_, err := w.TransferOwnership(t.Context(), w.Actor("ann"), id, w.UserID("ben"))
				return err
			},
		} {
			if got := outcome(do()); got != "FORBIDDEN" {
				t.Errorf("%s: %s", name, got)
			}
		}
		for whom, want := range map[model.UserID]string{
			w.UserID("ann"):   "CONFLICT userId",
			model.NewUserID(): "NOT_FOUND userId",
		} {
			if _, err := w.OpenDirect(t.Context(), w.Actor("ann"), whom); outcome(err) != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	})
}

// Whatever races, there is exactly one owner, no gap in the log, and the log tells the very state
// of the tables.
func TestRosterRaces(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := companyWorld(t, db)
		for range 5 {
			co := mustCompany(t, w)
			ctx := t.Context()
			var wg sync.WaitGroup
			for _, do := range []func() error{
				func() error {
					_, err := co.TransferOwnership(ctx, co.Actor("owner"), co.c.ID,
						co.UserID("admin"))
					return err
				},
				func() error {
					_, err := co.TransferOwnership(ctx, co.Actor("owner"), co.c.ID,
						co.UserID("member"))
					return err
				},
				func() error { return co.Leave(ctx, co.Actor("owner"), co.c.ID) },
				func() error { return co.Leave(ctx, co.Actor("admin"), co.c.ID) },
				func() error {
					_, err := co.RemoveMember(ctx, co.Actor("owner"), co.c.ID, co.UserID("member"))
					return err
				},
				func() error {
					_, err := co.AddMembers(ctx, co.Actor("owner"), co.c.ID, co.NewMembers("new"))
					return err
				},
				func() error {
					_, err := co.AddMembers(ctx, co.Actor("admin2"), co.c.ID, co.NewMembers("new"))
					return err
				},
				func() error {
					_, err := co.RemoveMember(ctx, co.Actor("admin2"), co.c.ID, co.UserID("new"))
					return err
				},
				func() error {
					_, err := co.SendMessage(ctx, co.Actor("member"),
						chat.SendMessage{ConversationID: co.c.ID, Content: "x"})
					return err
				},
				func() error {
					_, err := co.Rename(ctx, co.Actor("admin"), co.c.ID,
						"raced")
					return err
				},
			} {
				wg.Go(func() {
					err := do()
					if e, known := errors.AsType[*errs.Error](err); err != nil &&
						errs.Correctable(err) == nil && (!known || e.Code == errs.Unavailable) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if owners := countOwners(co.Roles(co.c.ID)); owners != 1 {
				t.Errorf("%d owners: %v", owners, co.Roles(co.c.ID))
			}
			co.wantLogEqualsTables(t)
		}
	})
}
