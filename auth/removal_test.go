package auth

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"parley/errs"
	"parley/mail"
	"parley/model"
	"parley/store"
)

// nothingElse is an OnDelete for accounts without rows outside of this package.
func nothingElse(context.Context, *store.Tx, model.UserID) error { return nil }

// removing returns a node that calls onDelete.
func (f *fixture) removing(onDelete func(context.Context, *store.Tx, model.UserID) error) *fixture {
	f.t.Helper()
	return f.node(f.clock, func(o *Options) { o.OnDelete = onDelete })
}

// finish finishes the removal of deleted accounts, as Run does.
func (f *fixture) finish() {
	f.t.Helper()
	f.do("finish the removal", f.removeMarked(f.t.Context()))
	if n, err := f.db.NewSelect().Model((*model.User)(nil)).WhereDeleted().
		Count(f.t.Context()); err != nil || n != 0 {
		f.t.Errorf("%d accounts are left (%v)", n, err)
	}
}

// all returns every value of every row of every table, by table, then row and column.
func (f *fixture) all() map[string]map[string][]byte {
	f.t.Helper()
	list := "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
	if f.db.Postgres() {
		list = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
	}
	var tables []string
	if err := f.db.NewRaw(list).Scan(f.t.Context(), &tables); err != nil {
		f.t.Fatal(err)
	}
	found := map[string]map[string][]byte{}
	for _, table := range tables {
		if n, err := f.db.NewSelect().Table(table).Count(f.t.Context()); err != nil {
			f.t.Fatal(err)
		} else if n > 0 {
			found[table] = f.everything(table)
		}
	}
	return found
}

// traces lists the places in the database that contain one of the needles.
func (f *fixture) traces(needles map[string][]byte) (found []string) {
	f.t.Helper()
	for table, values := range f.all() {
		for place, value := range values {
			for name, needle := range needles {
				if bytes.Contains(bytes.ToLower(value), bytes.ToLower(needle)) {
					found = append(found, fmt.Sprintf("%s, %s: %s", table, place, name))
				}
			}
		}
	}
	return found
}

func TestADeletedAccountLeavesNoTrace(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		var removed []model.UserID
		f := base.removing(func(_ context.Context, _ *store.Tx, id model.UserID) error {
			removed = append(removed, id)
			return nil
		})
		ctx := t.Context()
		from := Client{IP: "192.0.2.66", UserAgent: "traceable/1.0"}
		in := Register{
			Email: "Vanishing@example.org", Nickname: "Vanishing", Password: password,
			DisplayName: new("Vanna Ishing"),
		}
		vanishing, err := f.Register(ctx, in, from)
		f.do("register", err)
		bob := f.register("bob")
		_, err = f.UpdateProfile(ctx, vanishing.Actor(), UpdateProfile{About: new("a life story")})
		f.do("profile", err)
		laptop, err := f.Login(ctx, Login{Email: in.Email, Password: password}, from)
		f.do("login", err)
		_, _ = f.Login(ctx, Login{Email: in.Email, Password: "wrong password"}, from)
		next, err := f.Refresh(ctx, laptop.Tokens.RefreshToken, nil, from)
		f.do("refresh", err)
		f.do("reset", f.RequestPasswordReset(ctx, in.Email, from))
		f.do("change", f.ChangeEmail(ctx, vanishing.Actor(),
			ChangeEmail{NewEmail: "elsewhere@example.com", Password: password}, from))
		needles := map[string][]byte{
			"id":                    []byte(uuid.UUID(vanishing.User.ID).String()),
			"id, as clients see it": []byte(vanishing.User.ID.String()),
			"e-mail":                []byte("vanishing@"), "new e-mail": []byte("elsewhere@"),
			"nickname": []byte("vanishing"), "name": []byte("vanna"),
			"about": []byte("life story"), "address": []byte(from.IP),
			"user agent": []byte(from.UserAgent),
			"password":   []byte(base.passwordHash(vanishing)),
		}
		for _, s := range []*SignedIn{vanishing, next} {
			needles["refresh token of "+s.Session.ID.String()] = f.secrets(s.Session.ID).RefreshHash
		}
		needles["previous refresh token"] = f.secrets(next.Session.ID).PreviousHash
		var hashes [][]byte
		if err := f.db.NewSelect().Table("one_time_tokens").Column("hash").
			Where("user_id = ?", vanishing.User.ID).Scan(ctx, &hashes); err != nil {
			t.Fatal(err)
		}
		for _, hash := range hashes {
			needles["link "+hex.EncodeToString(hash)] = hash
		}
		if len(hashes) != 3 || len(f.traces(needles)) < len(needles) {
			t.Fatalf("%d links; before, only %v was found", len(hashes), f.traces(needles))
		}
		f.sendMails()
		others := f.user(bob.User.ID)
		phoneEnds, laptopEnds, bobStays := newEnding(t), newEnding(t), newEnding(t)
		f.Lease(f.grant(vanishing), phoneEnds.end)
		f.Lease(f.grant(next), laptopEnds.end)
		defer f.Lease(f.grant(bob), bobStays.end).Release()

		f.wantProblem("wrong", f.DeleteAccount(ctx, vanishing.Actor(), "wrong password", from),
			"INVALID_CREDENTIALS password")
		f.wantProblem("blank", f.DeleteAccount(ctx, vanishing.Actor(), "", from),
			"INVALID_CREDENTIALS password")
		f.grant(vanishing)
		if len(removed) != 0 {
			t.Error("OnDelete was called without the password")
		}
		f.do("delete", f.DeleteAccount(ctx, vanishing.Actor(), password, from))
		// The personal data is removed at once. The audit log, the sessions and the id follow.
		atOnce := maps.Clone(needles)
		maps.DeleteFunc(atOnce, func(name string, _ []byte) bool {
			return strings.HasPrefix(name, "id") || strings.Contains(name, "refresh token") ||
				name == "address" || name == "user agent"
		})
		if found := f.traces(atOnce); len(found) > 0 || len(atOnce) < 7 {
			t.Errorf("left behind at once, of %d:\n%s", len(atOnce), strings.Join(found, "\n"))
		}
		if diff := cmp.Diff([]model.UserID{vanishing.User.ID}, removed); diff != "" {
			t.Errorf("OnDelete (-want +got):\n%s", diff)
		}
		phoneEnds.want("phone", 1)
		laptopEnds.want("laptop", 1)
		bobStays.want("another person", 0)
		f.wantEnded("phone", vanishing)
		f.wantEnded("laptop", next)
		base.wantUnauthenticated("on another node", vanishing.Tokens.AccessToken)
		f.signsIn("the account", in.Email, password, false)
		if diff := cmp.Diff(others, f.user(bob.User.ID)); diff != "" {
			t.Errorf("another person (-want +got):\n%s", diff)
		}
		f.grant(bob)
		f.finish()
		if found := f.traces(needles); len(found) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(found, "\n"))
		}
		_, err = f.Register(ctx, in, from)
		f.do("the names are free again", err)
	})
}

// A mail that waits has the address, the nickname and a link.
func TestADeletedAccountsMailsAreNotSent(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.removing(nothingElse)
		ann := f.register("ann")
		f.register("bob")
		f.do("delete", f.DeleteAccount(t.Context(), ann.Actor(), password, Client{}))
		for _, m := range f.takeMails() {
			if m.Recipient == "ann@example.org" {
				t.Errorf("a mail of kind %s still waits to go to %s", m.Kind, m.Recipient)
			}
		}
	})
}

func TestDeletingIsAllOrNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		broken := errors.New("broken in between")
		f := base.removing(func(context.Context, *store.Tx, model.UserID) error { return broken })
		ann := f.register("ann")
		stays := newEnding(t)
		defer f.Lease(f.grant(ann), stays.end).Release()
		before := f.all()
		if err := f.DeleteAccount(t.Context(), ann.Actor(), password, Client{}); !errors.Is(err,
			broken) {
			t.Errorf("got %v, want %v", err, broken)
		}
		if diff := cmp.Diff(before, f.all()); diff != "" {
			t.Errorf("has changed (-before +after):\n%s", diff)
		}
		stays.want("after a failure", 0)
		f.grant(ann)
		f.refresh(ann.Tokens.RefreshToken)
		f.signsIn("after a failure", "ann@example.org", password, true)
	})
}

// Operations that race with the removal of their account do not fail with an internal error.
func TestDeletingRacesWithEverything(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.removing(nothingElse)
		for round := range 5 {
			name := fmt.Sprintf("ann%d", round)
			ann, phone, tablet := f.register(name), f.login(name), f.login(name)
			f.takeMails()
			f.do("ask", f.RequestPasswordReset(t.Context(), name+"@example.org", Client{}))
			reset := f.token(mail.PasswordReset)
			calls := map[string]func() error{
				"delete": func() error {
					return f.DeleteAccount(t.Context(), ann.Actor(), password, Client{})
				},
				"delete again": func() error {
					return f.DeleteAccount(t.Context(), phone.Actor(), password, Client{})
				},
				"refresh": func() error {
					_, err := f.Refresh(t.Context(), tablet.Tokens.RefreshToken, nil, Client{})
					return err
				},
				"logout": func() error { return f.Logout(t.Context(), phone.Actor(), Client{}) },
				"revoke": func() error {
					_, err := f.RevokeOtherSessions(t.Context(), tablet.Actor(), Client{})
					return err
				},
				"profile": func() error {
					_, err := f.UpdateProfile(t.Context(), tablet.Actor(),
						UpdateProfile{About: new("still here")})
					return err
				},
				"forgotten": func() error {
					return f.RequestPasswordReset(t.Context(), name+"@example.org", Client{})
				},
				"verify": func() error {
					return f.RequestEmailVerification(t.Context(), tablet.Actor())
				},
				"reset": func() error {
					return f.ResetPassword(t.Context(), reset, password, Client{})
				},
				"address": func() error {
					in := ChangeEmail{NewEmail: name + "@example.com", Password: password}
					return f.ChangeEmail(t.Context(), tablet.Actor(), in, Client{})
				},
			}
			var names []string
			for name := range calls {
				names = append(names, name)
			}
			results := make([]error, len(names))
			concurrently(len(names), func(i int) { results[i] = calls[names[i]]() })
			for i, err := range results {
				if err != nil && len(errs.Correctable(err)) == 0 &&
					!errs.Is(err, errs.Unauthenticated) {
					t.Errorf("%s: %v", names[i], err)
				}
			}
			// If the reset came first, the deletion with the old password is refused, and the
			// account still exists.
			if result := results[slices.Index(names, "reset")]; result == nil &&
				errs.Is(results[slices.Index(names, "delete")], errs.Unauthenticated) {
				if again, err := f.Login(t.Context(),
					Login{Email: name + "@example.org", Password: password}, Client{}); err == nil {
					f.do("delete after the reset",
						f.DeleteAccount(t.Context(), again.Actor(), password, Client{}))
				}
			}
			if n, err := f.db.NewSelect().Model((*model.User)(nil)).Where("u.id = ?", ann.User.ID).
				Count(t.Context()); err != nil || n != 0 {
				t.Errorf("%d accounts are left (%v)", n, err)
			}
			f.finish()
			if found := f.traces(map[string][]byte{
				"id":   []byte(uuid.UUID(ann.User.ID).String()),
				"name": []byte(name),
			}); len(found) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(found, "\n"))
			}
		}
		if n, err := f.db.NewSelect().Table("sessions").Count(t.Context()); err != nil || n != 0 {
			t.Errorf("%d sessions are left (%v)", n, err)
		}
	})
}

// A sign-in during the removal of the account is refused as for an unknown address.
func TestDeletingDuringASignIn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		other := f.removing(nothingElse)
		ann := f.register("ann")
		var signedIn *SignedIn
		var err error
		f.meanwhile(func() {
			signedIn, err = f.Login(t.Context(),
				Login{Email: "ann@example.org", Password: password}, Client{})
		}, func() {
			other.do("delete", other.DeleteAccount(t.Context(), ann.Actor(), password, Client{}))
		})
		if signedIn != nil {
			t.Errorf("signed in to a removed account: %+v", signedIn)
		}
		f.wantProblem("sign in", err, "INVALID_CREDENTIALS password")
	})
}

// A failed attempt just after the removal of an account must not store anything about it.
func TestDeletingDuringAFailure(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		other := f.removing(nothingElse)
		ann := f.register("ann")
		from := Client{IP: "192.0.2.66"}
		f.meanwhile(func() {
			_, err := f.Login(t.Context(),
				Login{Email: "ann@example.org", Password: "wrong password"}, from)
			f.wantProblem("sign in", err, "INVALID_CREDENTIALS password")
		}, func() {
			other.do("delete", other.DeleteAccount(t.Context(), ann.Actor(), password, Client{}))
		})
		other.finish()
		if found := f.traces(map[string][]byte{"id": []byte(uuid.UUID(ann.User.ID).String())}); len(
			found) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(found, "\n"))
		}
	})
}

// recorded returns the operations that write a client's address into the audit log, for an account
// with two sessions.
func (f *fixture) recorded(phone, laptop *SignedIn, from Client) map[string]func() error {
	ctx := f.t.Context()
	return map[string]func() error{
		"Logout": func() error { return f.Logout(ctx, phone.Actor(), from) },
		"RevokeSession": func() error {
			return f.RevokeSession(ctx, phone.Actor(), laptop.Session.ID, from)
		},
		"RevokeOtherSessions": func() error {
			_, err := f.RevokeOtherSessions(ctx, phone.Actor(), from)
			return err
		},
		"Refresh with a token that was used": func() error {
			_, err := f.Refresh(ctx, phone.Tokens.RefreshToken, nil, from)
			return err
		},
	}
}

// Another node may accept a session for a second after the account was deleted. Operations on it
// then, and those that began just before, must not write the account into the audit log.
func TestADeletedAccountStaysOutOfTheAuditLog(t *testing.T) {
	t.Parallel()
	from := Client{IP: "192.0.2.66", UserAgent: "traceable/1.0"}
	each(t, func(t *testing.T, base *fixture) {
		for name := range base.recorded(new(SignedIn), new(SignedIn), from) {
			t.Run(name, func(t *testing.T) {
				for _, during := range []bool{false, true} {
					if during && !base.db.Postgres() {
						// SQLite has one writer, which reads nothing before it is granted
						continue
					}
					var between func()
					a := base.removing(func(context.Context, *store.Tx, model.UserID) error {
						between()
						return nil
					})
					b := base.removing(nothingElse)
					a.t, b.t = t, t
					phone, laptop := a.register("ann"), a.login("ann")
					// beyond the grace
					a.refresh(a.refresh(phone.Tokens.RefreshToken).Tokens.RefreshToken)
					b.grant(phone)
					call := b.recorded(phone, laptop, from)[name]
					result := make(chan error, 1)
					between = func() {
						if during {
							go func() { result <- call() }()
							b.awaitBlocked()
						}
					}
					a.do("delete", a.DeleteAccount(t.Context(), phone.Actor(), password, Client{}))
					if during {
						if err := <-result; !errs.Is(err, errs.Unauthenticated) &&
							problems(err) != "TOKEN_EXPIRED refreshToken" {
							t.Errorf("during the deletion: %v", err)
						}
					}
					a.finish()
					if _, err := b.Authenticate(t.Context(), phone.Tokens.AccessToken); err != nil {
						t.Errorf(
							"the other node knows that the session has ended, too early for this "+
								"test: %v", err)
					}
					if err := call(); !errs.Is(err, errs.Unauthenticated) &&
						problems(err) != "TOKEN_EXPIRED refreshToken" {
						t.Errorf("after the deletion: %v", err)
					}
					needles := map[string][]byte{
						"id": []byte(uuid.UUID(phone.User.ID).String()), "address": []byte(from.IP),
						"user agent": []byte(from.UserAgent),
					}
					if found := a.traces(needles); len(found) > 0 {
						t.Errorf("left behind (called during the deletion: %v):\n%s", during,
							strings.Join(found, "\n"))
					}
				}
			})
		}
	})
}

// awaitBlocked waits until a transaction waits for a lock.
func (f *fixture) awaitBlocked() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	for n := 0; n == 0; {
		err := f.db.NewRaw(
			"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "+
				"wait_event_type = 'Lock'").
			Scan(ctx, &n)
		if err != nil {
			f.t.Fatalf("nothing waits for a lock: %v", err)
		}
	}
}

// The state of a removal is in the database: if a node stops in the middle, another one continues.
// Two nodes do not remove the same account at once.
func TestAnotherNodeFinishesARemoval(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		const parts = 3
		var done atomic.Int64
		cleanUp := func(_ context.Context, tx *store.Tx, _ model.UserID) (bool, error) {
			if done.Load() == parts {
				return false, nil
			}
			tx.AfterCommit(func() { done.Add(1) })
			return true, nil
		}
		first := base.node(base.clock, func(o *Options) { o.CleanUp = cleanUp })
		ann := first.register("ann")
		id := ann.User.ID
		first.do("delete", first.DeleteAccount(t.Context(), ann.Actor(), password, Client{}))
		for done.Load() == 0 { // the audit log and the sessions come first
			more, err := first.removeSome(t.Context(), id)
			first.do("a part", err)
			if !more {
				t.Fatal("nothing is left")
			}
		}
		second := base.node(base.clock, func(o *Options) { o.CleanUp = cleanUp })
		if base.db.Postgres() { // on SQLite there is one transaction at a time
			first.do("while the first has the claim",
				first.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
					claimed, err := claim(ctx, tx, id)
					if err != nil || !claimed {
						t.Errorf("claimed: %v (%v)", claimed, err)
					}
					second.do("the second skips it", second.removeMarked(ctx))
					return nil
				}))
			if n := done.Load(); n != 1 {
				t.Errorf("%d parts are done, want 1", n)
			}
		}
		second.run()
		second.removals.Notify()
		second.awaitNoAccount(id)
		if n := done.Load(); n != parts {
			t.Errorf("%d parts are done, want %d", n, parts)
		}
		first.do("nothing is left", first.removeMarked(t.Context()))
	})
}

// The removal begins at once after the commit, and not at the next tick.
func TestTheCommitOfADeletionWakesTheRemoval(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		var f *fixture
		f = base.removing(func(context.Context, *store.Tx, model.UserID) error {
			if len(f.removals.C()) != 0 {
				t.Error("woken before the commit")
			}
			return nil
		})
		ann := f.register("ann")
		f.do("delete", f.DeleteAccount(t.Context(), ann.Actor(), password, Client{}))
		if n := len(f.removals.C()); n != 1 {
			t.Errorf("%d notifications, want 1", n)
		}
	})
}

// awaitNoAccount waits until Run has finished a removal.
func (f *fixture) awaitNoAccount(id model.UserID) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	for there := true; there; {
		var err error
		there, err = f.db.NewSelect().Model((*model.User)(nil)).WhereAllWithDeleted().
			Where("u.id = ?", id).Exists(ctx)
		if err != nil {
			f.t.Fatalf("the account is still there: %v", err)
		}
	}
}

// The row of a marked account has no name that a user can have or search for.
func TestAMarkedAccountHasNoName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		f.do("delete", f.DeleteAccount(t.Context(), ann.Actor(), password, Client{}))
		if err := f.DeleteAccount(t.Context(), ann.Actor(), password, Client{}); !errs.Is(err,
			errs.Unauthenticated) {
			t.Errorf("deleting again: %v", err)
		}
		_, err := f.UpdateProfile(t.Context(), ann.Actor(), UpdateProfile{About: new("still here")})
		if !errs.Is(err, errs.Unauthenticated) {
			t.Errorf("profile: %v", err)
		}
		f.signsIn("the account", "ann@example.org", password, false)
		for _, name := range []string{"ann", "", ann.User.ID.String(), uuid.UUID(ann.User.ID).
			String()} {
			if u, err := f.UserByNickname(t.Context(), bob.Actor(), name); u != nil || err != nil {
				t.Errorf("%q is %+v (%v)", name, u, err)
			}
		}
		page, err := f.SearchUsers(t.Context(), bob.Actor(), "", store.PageArgs{})
		if err != nil || len(page.Items) != 1 || page.Items[0].ID != bob.User.ID {
			t.Errorf("the users are %+v (%v)", page.Items, err)
		}
		// A nickname of 36 characters would be its key.
		if maxNickname >= len(uuid.UUID(ann.User.ID).String()) {
			t.Error("its key is a valid nickname")
		}
		again := f.register("ann")
		f.do("delete the next", f.DeleteAccount(t.Context(), again.Actor(), password, Client{}))
		f.finish()
	})
}
