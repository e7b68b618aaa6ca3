package auth

import (
	"context"
	"testing"
	"time"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// restorable is a service whose database the test takes back to a backup.
type restorable struct {
	*fixture
	restore func(testing.TB)
}

func (f *fixture) backup() *restorable {
	f.t.Helper()
	return &restorable{f, storetest.Backup(f.t, f.url)}
}

// takeBack restores the backup, and returns a service on the restored database.
func (r *restorable) takeBack() *fixture {
	r.t.Helper()
	if err := r.db.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.restore(r.t)
	f := r.node(r.clock)
	f.entries() // of before the backup
	return f
}

// refreshes trades a token and its successors n times, a minute apart. It returns all of them, the
// given one first.
func (f *fixture) refreshes(n int, first *SignedIn) []*SignedIn {
	f.t.Helper()
	all := []*SignedIn{first}
	for range n {
		f.clock.Forward(time.Minute)
		all = append(all, f.refresh(all[len(all)-1].Tokens.RefreshToken))
	}
	return all
}

// wantStoredCount checks that a session has the count of a token.
func (f *fixture) wantStoredCount(s *SignedIn) {
	f.t.Helper()
	token, _ := readRefresh(s.Tokens.RefreshToken)
	count, counted := f.tokens.count(token)
	var stored int64
	err := f.db.InTx(f.t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
		stored, err = refreshCountOf(ctx, tx, s.Session.ID)
		return err
	})
	if err != nil || !counted || stored != count {
		f.t.Errorf("the stored count is %d (%v), the token's is %d", stored, err, count)
	}
}

// A client that refreshed its token since the backup stays signed in, and is not taken for a thief.
func TestRefreshWithATokenAheadOfTheDatabase(t *testing.T) {
	t.Parallel()
	for rotations := 1; rotations <= 3; rotations++ {
		each(t, func(_ *testing.T, f *fixture) {
			ann, bob := f.register("ann"), f.register("bob")
			ann = f.refreshes(2, ann)[2]
			r := f.backup()
			all := f.refreshes(rotations, ann)
			newest := all[rotations]

			f = r.takeBack()
			f.grant(newest) // the session is there
			next := f.refresh(newest.Tokens.RefreshToken)
			f.wantEntries("a token ahead", Client{},
				entry{"refresh_token_ahead", ann.User.ID.String(), ann.Session.ID.String()})
			f.wantStoredCount(next)
			f.grant(next)

			// From here on the session is as any other.
			again := f.refresh(newest.Tokens.RefreshToken)
			if again.Tokens.RefreshToken != next.Tokens.RefreshToken {
				f.t.Error("another successor within the grace")
			}
			next = f.refreshes(2, next)[2]
			f.wantEntries("no other event", Client{})
			f.refresh(bob.Tokens.RefreshToken)

			f.wantTokenExpired("the token that was ahead, again", newest.Tokens.RefreshToken)
			f.wantEntries("theft", Client{},
				entry{"refresh_token_reused", ann.User.ID.String(), ann.Session.ID.String()})
			f.wantEnded("the newest tokens", next)
		})
	}
}

// Two tabs race with a token ahead of the database, on two nodes.
func TestRefreshRacesWithATokenAheadOfTheDatabase(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		r := f.backup()
		newest := f.refreshes(2, ann)[2]
		f = r.takeBack()
		other := f.node(f.clock)
		successors := make([]string, 20)
		concurrently(len(successors), func(i int) {
			s := f
			if i%2 == 0 {
				s = other
			}
			signedIn, err := s.Refresh(t.Context(), newest.Tokens.RefreshToken, nil, Client{})
			if err != nil {
				t.Error(err)
				return
			}
			successors[i] = signedIn.Tokens.RefreshToken
		})
		for _, s := range successors {
			if s != successors[0] {
				t.Errorf("two successors: %s and %s", s, successors[0])
			}
		}
		f.wantEntries("one event for all", Client{},
			entry{"refresh_token_ahead", ann.User.ID.String(), ann.Session.ID.String()})
		f.refresh(successors[0])
	})
}

// Two tabs have different tokens, both ahead of the database. The older one is the parent of the
// newer one, so that they race as without a restore.
func TestRefreshWithTwoTokensAheadOfTheDatabase(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		r := f.backup()
		all := f.refreshes(3, ann)
		f = r.takeBack()
		if next := f.refresh(all[2].Tokens.RefreshToken); next.Tokens.RefreshToken !=
			all[3].Tokens.RefreshToken {
			t.Error("the successor is not the one from before the restore")
		}
		next := f.refresh(all[3].Tokens.RefreshToken)
		f.grant(next)
		// Without the restore, the older token would be a grandparent here.
		f.wantTokenExpired("the older token after the newer one", all[2].Tokens.RefreshToken)
		f.wantEnded("the newest tokens", next)
	})
}

// A thief has an older token than the owner. Whichever of them is first, the session ends when both
// have refreshed.
func TestTheftIsNoticedAfterARestore(t *testing.T) {
	t.Parallel()
	for name, stolen := range map[string]int{
		"the token of the backup": 0, "a token that is lost": 1, "the parent": 2,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(_ *testing.T, f *fixture) {
				ann := f.register("ann")
				r := f.backup()
				all := f.refreshes(3, ann)
				owners, thiefs := all[3].Tokens.RefreshToken, all[stolen].Tokens.RefreshToken

				f = r.takeBack()
				next := f.refreshes(1, f.refresh(owners))[1]
				f.wantTokenExpired("the thief after the owner", thiefs)
				f.wantEnded("the owner", next)

				f = (&restorable{f, r.restore}).takeBack()
				theirs := f.refresh(thiefs)
				f.clock.Forward(time.Minute)
				own := f.refresh(owners)
				f.clock.Forward(time.Minute)
				own = f.refresh(own.Tokens.RefreshToken)
				f.wantTokenExpired("the thief before the owner", theirs.Tokens.RefreshToken)
				f.wantEnded("the owner", own)
			})
		})
	}
}

// A session that was started after the backup is gone, and others do not suffer from its tokens.
func TestRefreshOfASessionThatTheRestoreLost(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ann := f.register("ann")
		r := f.backup()
		lost := f.refreshes(1, f.login("ann"))[1]
		f = r.takeBack()
		f.wantEnded("a session that is lost", lost)
		f.wantEntries("nothing happened", Client{})
		f.refresh(ann.Tokens.RefreshToken)
	})
}

// refreshOld does what a node of the version before does: it issues tokens without a count.
func (f *fixture) refreshOld(s *SignedIn) *SignedIn {
	f.t.Helper()
	used, ok := readIssued(f.tokens, s.Tokens.RefreshToken)
	if !ok {
		f.t.Fatal("a node of the version before refuses the token")
	}
	next := nextUncounted(f.tokens.refreshKeys[0], used)
	row := new(model.SessionSecrets)
	err := f.db.InTx(f.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		res, err := tx.NewUpdate().Model(row).
			Set("previous_hash = refresh_hash").Set("refresh_hash = ?", next.hash()).
			Set("rotated_at = ?", tx.Now).
			Where("id = ?", used.session()).Where("refresh_hash = ?", used.hash()).
			Returning("*").Exec(ctx) // so no column may be added to the table
		if err == nil {
			if n, _ := res.RowsAffected(); n != 1 {
				f.t.Errorf("%d rows", n)
			}
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return &SignedIn{
		User: s.User, Session: row.Session,
		Tokens: Tokens{AccessToken: s.Tokens.AccessToken, RefreshToken: next.String()},
	}
}

// While nodes are upgraded, a session is refreshed on both kinds, and theft is noticed on both.
func TestRefreshBesideNodesOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		first := f.refreshes(2, ann)[2]
		old := f.refreshOld(first)
		again := f.refresh(first.Tokens.RefreshToken)
		if again.Tokens.RefreshToken != old.Tokens.RefreshToken {
			t.Error("a tab that races on a new node does not get the successor of the old one")
		}
		old = f.refreshOld(old)
		next := f.refresh(old.Tokens.RefreshToken)
		f.wantStoredCount(next)
		if race := f.refresh(old.Tokens.RefreshToken); race.Tokens.RefreshToken !=
			next.Tokens.RefreshToken {
			t.Error("two tabs that race with a token without a count get two successors")
		}
		counted := f.refreshes(3, next)[3]
		f.wantStoredCount(counted)
		old = f.refreshOld(f.refreshOld(counted))
		f.entries()
		f.wantTokenExpired("a stolen token whose count is the stored one",
			counted.Tokens.RefreshToken)
		f.wantEnded("the newest tokens", old)
		f.wantEntries("theft", Client{},
			entry{"refresh_token_reused", ann.User.ID.String(), ann.Session.ID.String()})
	})
}

// A backup from before the upgrade has no counts. Tokens that have one are ahead of it; tokens that
// a node of the version before issued since cannot be told from stolen ones.
func TestRefreshAfterARestoreFromTheVersionBefore(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		oldAnn, oldBob := f.refreshOld(ann), f.refreshOld(bob)
		r := f.backup()
		newest := f.refreshes(1, f.refreshOld(oldAnn))[1]
		oldBob = f.refreshOld(oldBob)
		f = r.takeBack()
		f.grant(f.refresh(newest.Tokens.RefreshToken))
		f.wantTokenExpired("without a count", oldBob.Tokens.RefreshToken)
	})
}

// Two keys verify while one replaces the other. A token is ahead whichever of them tagged it.
func TestATokenAheadOfTheDatabaseWithAReplacedKey(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ann := f.register("ann")
		r := f.backup()
		newest := f.refreshes(2, ann)[2]
		f = r.takeBack()
		both := f.node(f.clock, func(o *Options) { o.Keys = []Key{secretKey("x"), secretKey("k")} })
		next := both.refresh(newest.Tokens.RefreshToken)
		both.wantStoredCount(next)
		other := f.node(f.clock, func(o *Options) { o.Keys = []Key{secretKey("y")} })
		// The stored hash alone decides without the key.
		other.wantStoredCount(other.refreshes(1, next)[1])
		// It is ahead, but this node cannot know.
		other.wantTokenExpired("of an unknown key", newest.Tokens.RefreshToken)
	})
}

// What a restore has undone is found by the lines of the log, until it is done again.
func TestUndoneBy(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, phone := f.register("ann"), f.login("ann")
		r := f.backup()
		f.clock.Forward(5 * time.Minute)
		f.logout(phone)
		line := func(act action) AuditLine {
			return AuditLine{
				At: f.clock.Now(), Action: string(act), User: &ann.User.ID,
				Session: &phone.Session.ID,
			}
		}
		check := func(f *fixture, name string, act action, want Undone) {
			t.Helper()
			got, err := UndoneBy(t.Context(), f.db, line(act))
			if err != nil || got != want {
				t.Errorf("%s, %s: got %q (%v), want %q", name, act, got, err, want)
			}
		}
		check(f, "not restored", loggedOut, NothingUndone)
		f = r.takeBack()
		for _, act := range []action{loggedOut, sessionRevoked, refreshReused} {
			check(f, "restored", act, SessionUndone)
		}
		for _, act := range []action{passwordChanged, passwordReset} {
			check(f, "restored", act, PasswordUndone)
		}
		check(f, "restored", emailChanged, EmailUndone)
		for _, act := range []action{registered, loggedIn, refreshAhead, "unknown", ""} {
			check(f, "restored", act, NothingUndone)
		}

		f.grant(phone)
		for _, want := range []bool{true, false} {
			ended, err := EndAgain(t.Context(), f.db, f.opts.Log, phone.Session.ID)
			if err != nil || ended != want {
				t.Errorf("ended %v (%v), want %v", ended, err, want)
			}
		}
		f.wantEntries("ended again", Client{},
			entry{"session_revoked", ann.User.ID.String(), phone.Session.ID.String()})
		f.clock.Forward(sessionCacheTTL)
		f.wantEnded("the session", phone)
		check(f, "ended again", loggedOut, NothingUndone)
		f.grant(ann)
		f.do("change the password", f.ChangePassword(t.Context(), ann.Actor(),
			ChangePassword{OldPassword: password, NewPassword: newPassword}, Client{}))
		check(f, "changed again", passwordReset, NothingUndone)
		check(f, "changed again", emailChanged, EmailUndone)
	})
}
