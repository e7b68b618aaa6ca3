package auth

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store"
)

func TestAChangeOfPasswordEndsTheOtherSessions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, laptop, bob := f.register("ann"), f.login("ann"), f.register("bob")
		f.takeMails()
		stays, ends := newEnding(t), newEnding(t)
		defer f.Lease(f.grant(ann), stays.end).Release()
		f.Lease(f.grant(laptop), ends.end)
		change := func(old, to string) error {
			return f.ChangePassword(t.Context(), ann.Actor(),
				ChangePassword{OldPassword: old, NewPassword: to}, Client{})
		}
		f.wantProblem("wrong", change("wrong password", newPassword),
			"INVALID_CREDENTIALS oldPassword")
		f.wantProblem("blank", change("", newPassword), "INVALID_CREDENTIALS oldPassword")
		f.wantProblem("short", change(password, "seven77"), "TOO_SHORT newPassword")
		f.wantProblem("weak", change(password, weak), "INVALID newPassword")
		f.wantProblem("long", change(password, strings.Repeat("é", 257)), "TOO_LONG newPassword")
		f.grant(laptop)
		f.signsIn("refused", "ann@example.org", password, true)
		f.wantMails("refused")

		f.do("change", change(password, newPassword))
		f.wantMails("change", "password_changed ann@example.org")
		f.grant(ann)
		stays.want("this session", 0)
		ends.want("the other", 1)
		f.wantEnded("the other", laptop)
		f.refresh(ann.Tokens.RefreshToken)
		f.grant(bob)
		f.signsIn("old", "ann@example.org", password, false)
		f.signsIn("new", "ann@example.org", newPassword, true)
		f.signsIn("another person", "bob@example.org", password, true)
	})
}

func TestUpdateProfile(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.register("bob")
		want := f.user(ann.User.ID)
		update := func(name string, in UpdateProfile, change func()) {
			t.Helper()
			got, err := f.UpdateProfile(t.Context(), ann.Actor(), in)
			f.do(name, err)
			change()
			want.SearchKey = got.SearchKey // tested below, with searches
			for from, u := range map[string]*model.User{
				"returned": got,
				"stored":   f.user(ann.User.ID),
			} {
				if diff := cmp.Diff(want, u); diff != "" {
					t.Errorf("%s: %s (-want +got):\n%s", name, from, diff)
				}
			}
		}
		finds := func(what string, people ...string) {
			t.Helper()
			found, err := f.search(what, store.PageArgs{})
			if diff := cmp.Diff(append([]string{}, people...),
				nicknames(found.Items)); err != nil || diff != "" {
				t.Errorf("%q finds (-want +got):\n%s(%v)", what, diff, err)
			}
		}
		update("nothing", UpdateProfile{}, func() {})
		update("display name", UpdateProfile{DisplayName: new(" Ann of Cleves ")},
			func() { want.DisplayName = new("Ann of Cleves") })
		finds("cleves", "ann")
		update("about", UpdateProfile{About: new(" one\ntwo ")},
			func() { want.About = new("one\ntwo") })
		update("nickname", UpdateProfile{Nickname: new("Zoë")},
			func() { want.Nickname, want.NicknameKey = "Zoë", "zoë" })
		finds("zoë", "Zoë")
		finds("cleves", "Zoë")
		finds("ann o", "Zoë")
		finds("zoëann") // there is no match across two names
		update("her own nickname, written otherwise", UpdateProfile{Nickname: new("ZOË")},
			func() { want.Nickname = "ZOË" })
		update("blank display name", UpdateProfile{DisplayName: new(" ")},
			func() { want.DisplayName = nil })
		finds("cleves")
		update("blank about", UpdateProfile{About: new("")}, func() { want.About = nil })
		update("all", UpdateProfile{Nickname: new("ann"), DisplayName: new("A"), About: new("B")},
			func() {
				want.Nickname, want.NicknameKey, want.DisplayName, want.About = "ann", "ann",
					new("A"), new("B")
			})
		finds("zoë")

		for _, test := range []struct {
			in   UpdateProfile
			want string
		}{
			{UpdateProfile{Nickname: new("BOB")}, "TAKEN nickname"},
			{UpdateProfile{Nickname: new("")}, "REQUIRED nickname"},
			{UpdateProfile{Nickname: new("a")}, "TOO_SHORT nickname"},
			{UpdateProfile{Nickname: new(strings.Repeat("a", 33))}, "TOO_LONG nickname"},
			{UpdateProfile{DisplayName: new("a\x01b")}, "INVALID displayName"},
			{UpdateProfile{DisplayName: new("a\u202Eb")}, "INVALID displayName"},
			{UpdateProfile{About: new(strings.Repeat("a", 501))}, "TOO_LONG about"},
			{UpdateProfile{About: new("a\x00b")}, "INVALID about"},
			{
				UpdateProfile{
					Nickname: new("a"), DisplayName: new("\x01"),
					About: new(strings.Repeat("a", 501)),
				},
				"TOO_SHORT nickname, INVALID displayName, TOO_LONG about",
			},
			{UpdateProfile{Nickname: new("bob"), About: new("refused together")}, "TAKEN nickname"},
		} {
			u, err := f.UpdateProfile(t.Context(), ann.Actor(), test.in)
			f.wantProblem(test.want, err, test.want)
			_ = u // undefined with an error
			if diff := cmp.Diff(want, f.user(ann.User.ID)); diff != "" {
				t.Errorf("refused with %s, and yet stored (-want +got):\n%s", test.want, diff)
			}
		}
		update("500", UpdateProfile{About: new(strings.Repeat("é", 500))},
			func() { want.About = new(strings.Repeat("é", 500)) })
		finds("bob", "bob")
	})
}

func TestUpdateSettings(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		var notified []model.UserID
		f := base.node(base.clock, func(o *Options) {
			o.OnSettings = func(_ *store.Tx, id model.UserID) { notified = append(notified, id) }
		})
		ann, bob := f.register("ann"), f.register("bob")
		for _, test := range []struct {
			in                 UpdateSettings
			presence, receipts bool
			notified           []model.UserID
		}{
			{UpdateSettings{}, true, true, nil},
			{UpdateSettings{ShowPresence: new(true)}, true, true, nil},
			{UpdateSettings{ShowPresence: new(false)}, false, true, []model.UserID{ann.User.ID}},
			{
				UpdateSettings{SendReadReceipts: new(false)},
				false, false,
				[]model.UserID{ann.User.ID},
			},
			{UpdateSettings{ShowPresence: new(true)}, true, false, []model.UserID{ann.User.ID}},
			{
				UpdateSettings{ShowPresence: new(false), SendReadReceipts: new(true)},
				false, true,
				[]model.UserID{ann.User.ID},
			},
		} {
			notified = nil
			got, err := f.UpdateSettings(t.Context(), ann.Actor(), test.in)
			f.do("update", err)
			if !slices.Equal(notified, test.notified) {
				t.Errorf("%+v: OnSettings was called with %v, want %v", test.in, notified,
					test.notified)
			}
			for from, u := range map[string]*model.User{
				"returned": got,
				"stored":   f.user(ann.User.ID),
			} {
				if u.ShowPresence != test.presence || u.SendReadReceipts != test.receipts {
					t.Errorf("%s: %t, %t, want %t, %t", from, u.ShowPresence, u.SendReadReceipts,
						test.presence, test.receipts)
				}
			}
		}
		if u := f.user(bob.User.ID); !u.ShowPresence || !u.SendReadReceipts {
			t.Error("another person's settings have changed")
		}
	})
}

// ids lists sessions in order.
func ids(sessions []*model.Session) (list []model.SessionID) {
	for _, s := range sessions {
		list = append(list, s.ID)
	}
	return list
}

func TestSessionsAreTheActorsOwn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		ann := f.register("ann")
		bob := f.register("bob")
		f.clock.Forward(time.Minute)
		laptop := f.login("ann")
		f.clock.Forward(time.Minute)
		tablet := f.login("ann")
		f.clock.Forward(time.Minute)
		f.refresh(ann.Tokens.RefreshToken)
		list := func(name string, actor model.Actor, want ...*SignedIn) {
			t.Helper()
			var wanted []model.SessionID
			for _, s := range want {
				wanted = append(wanted, s.Session.ID)
			}
			got, err := f.Sessions(ctx, actor)
			if diff := cmp.Diff(wanted, ids(got)); err != nil || diff != "" {
				t.Errorf("%s (-want +got):\n%s(%v)", name, diff, err)
			}
		}
		list("the most recently used first", ann.Actor(), ann, tablet, laptop)
		list("another person's", bob.Actor(), bob)

		for name, id := range map[string]model.SessionID{
			"unknown":          model.NewSessionID(),
			"another person's": bob.Session.ID,
		} {
			f.wantProblem(name, f.RevokeSession(ctx, ann.Actor(), id, Client{}),
				"NOT_FOUND sessionId")
			if s, err := f.Session(ctx, ann.Actor(), id); s != nil || err != nil {
				t.Errorf("%s: sees %+v (%v)", name, s, err)
			}
		}
		f.grant(bob)
		ends, stays := newEnding(t), newEnding(t)
		f.Lease(f.grant(laptop), ends.end)
		defer f.Lease(f.grant(tablet), stays.end).Release()
		f.do("revoke", f.RevokeSession(ctx, ann.Actor(), laptop.Session.ID, Client{}))
		ends.want("revoked", 1)
		stays.want("another session", 0)
		f.wantEnded("revoked", laptop)
		list("without the revoked", ann.Actor(), ann, tablet)
		f.wantProblem("again", f.RevokeSession(ctx, ann.Actor(), laptop.Session.ID, Client{}),
			"NOT_FOUND sessionId")

		n, err := f.RevokeOtherSessions(ctx, tablet.Actor(), Client{})
		if n != 1 || err != nil {
			t.Errorf("ended %d sessions (%v), want 1", n, err)
		}
		f.wantUnauthenticated("the other", ann.Tokens.AccessToken)
		stays.want("this session", 0)
		list("alone", ann.Actor(), tablet)
		n, err = f.RevokeOtherSessions(ctx, tablet.Actor(), Client{})
		if n != 0 || err != nil {
			t.Errorf("ended %d sessions (%v), want none", n, err)
		}
		f.grant(bob)
		f.do("one's own", f.RevokeSession(ctx, tablet.Actor(), tablet.Session.ID, Client{}))
		f.wantEnded("one's own", tablet)
		list("none", ann.Actor())

		f.clock.Forward(refreshTTL)
		list("over", bob.Actor())
		f.wantProblem("over", f.RevokeSession(ctx, bob.Actor(), bob.Session.ID, Client{}),
			"NOT_FOUND sessionId")
	})
}

// Sessions are ended one by one and all at once: no session survives, and no call fails.
func TestRevokingRaces(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		others := []*SignedIn{f.login("ann"), f.login("ann"), f.login("ann"), f.login("ann")}
		results := make([]error, 2*len(others))
		concurrently(len(results), func(i int) {
			if i%2 == 0 {
				_, results[i] = f.RevokeOtherSessions(t.Context(), ann.Actor(), Client{})
			} else if err := f.RevokeSession(t.Context(), ann.Actor(), others[i/2].Session.ID,
				Client{}); problems(err) != "NOT_FOUND sessionId" {
				results[i] = err
			}
		})
		if i := slices.IndexFunc(results, func(err error) bool { return err != nil }); i >= 0 {
			t.Error(results[i])
		}
		f.grant(ann)
		for _, other := range others {
			f.wantEnded("the other", other)
		}
	})
}

func TestAPasswordIsAskedForAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		bob := f.register("bob")
		f.takeMails()
		// Bob's password does not work for Ann.
		f.do("bob", f.ChangePassword(t.Context(), bob.Actor(),
			ChangePassword{OldPassword: password, NewPassword: newPassword}, Client{}))
		f.takeMails()
		err := f.ChangeEmail(t.Context(), ann.Actor(),
			ChangeEmail{NewEmail: "ann@example.com", Password: newPassword}, Client{})
		f.wantProblem("another's password", err, "INVALID_CREDENTIALS password")
		f.wantMails("another's password")
		if n, err := f.db.NewSelect().Table("one_time_tokens").
			Where("purpose = ?", string(changeEmail)).Count(t.Context()); err != nil || n != 0 {
			t.Errorf("%d links (%v)", n, err)
		}
	})
}
