package auth

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store/storetest"
)

// The clocks of two machines differ. A session that ends on one node ends on the other within two
// polls.
func TestPollingWithAClockThatIsOff(t *testing.T) {
	t.Parallel()
	if 2*pollEvery > time.Second {
		t.Errorf("polls every %v: a session would live on for more than a second", pollEvery)
	}
	for name, off := range map[string]time.Duration{
		"30 s behind": -30 * time.Second,
		"30 s ahead":  30 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, f *fixture) {
				ann, laptop := f.register("ann"), f.login("ann")
				c := storetest.NewClock()
				c.Forward(off)
				node := f.node(c)
				ends, stays := newEnding(t), newEnding(t)
				node.Lease(node.grant(ann), ends.end)
				defer node.Lease(node.grant(laptop), stays.end).Release()
				node.run()
				f.do("revoke", f.RevokeSession(t.Context(), laptop.Actor(), ann.Session.ID,
					Client{}))
				since := time.Now()
				ends.wait("on the other node")
				t.Logf("after %v", time.Since(since))
				node.wantUnauthenticated("on the other node", ann.Tokens.AccessToken)
				stays.want("another session", 0)
				node.grant(laptop)
			})
		})
	}
}

// If many sessions end at once, their leases end on every node.
func TestPollingAReset(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		token := f.askForReset("ann@example.org")
		node := f.node(f.clock)
		var endings []*ending
		for range 3 {
			e := newEnding(t)
			node.Lease(node.grant(f.login("ann")), e.end)
			endings = append(endings, e)
		}
		node.run()
		f.do("reset", f.ResetPassword(t.Context(), token, newPassword, Client{}))
		for i, e := range endings {
			e.wait(fmt.Sprint("session ", i))
		}
	})
}

// A revocation outlives the rows of the account.
func TestPollingADeletion(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.removing(nothingElse)
		ann := f.register("ann")
		node := f.node(f.clock)
		e := newEnding(t)
		node.Lease(node.grant(ann), e.end)
		node.run()
		f.do("delete", f.DeleteAccount(t.Context(), ann.Actor(), password, Client{}))
		e.wait("a deleted account's")
	})
}

func TestDeleteExpired(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		ann := f.register("ann")
		now := f.db.Now()
		count := func() map[string]int64 {
			n := f.rows()
			for _, table := range []string{"revocations", "rate_limits", "audit_log"} {
				m, err := f.db.NewSelect().Table(table).Count(ctx)
				f.do(table, err)
				n[table] = m
			}
			return n
		}
		kept := count()
		insert := func(row any) {
			t.Helper()
			_, err := f.db.NewInsert().Model(row).Exec(ctx)
			f.do("insert", err)
		}
		// Two rows for each table, one of which has expired a microsecond ago.
		for i, late := range []time.Duration{-time.Microsecond, 0} {
			insert(&revocation{
				SessionID: model.NewSessionID(),
				At:        now.Add(-accessTTL - 2*time.Minute + late),
			})
			id := model.NewSessionID()
			insert(&model.SessionSecrets{
				Session: model.Session{
					ID: id, UserID: ann.User.ID, CreatedAt: now, LastUsedAt: now,
					ExpiresAt: now.Add(-accessTTL + late),
				},
				RefreshHash: hashOf(id[:]),
			})
			insert(&model.OneTimeToken{
				Hash: hashOf([]byte{byte(i)}), Purpose: "verify_email", UserID: ann.User.ID,
				CreatedAt: now, ExpiresAt: now.Add(-24*time.Hour + late),
			})
			insert(&rateLimitRow{Key: fmt.Sprint(i), At: now.Add(-time.Hour + late)})
			insert(&model.AuditEntry{
				ID: model.NewAuditID(), At: now.Add(-365*24*time.Hour + late),
				Action: "registered",
			})
		}
		for _, table := range []string{
			"sessions", "one_time_tokens", "revocations", "rate_limits",
			"audit_log",
		} {
			kept[table]++
		}
		f.do("delete", f.deleteExpired(ctx))
		if diff := cmp.Diff(kept, count()); diff != "" {
			t.Errorf("rows (-want +got):\n%s", diff)
		}
		f.do("delete again", f.deleteExpired(ctx))
		if diff := cmp.Diff(kept, count()); diff != "" {
			t.Errorf("rows, after the second time (-want +got):\n%s", diff)
		}
		f.grant(ann)
		f.refresh(ann.Tokens.RefreshToken)
	})
}

// Deleting an expired row must not make the token work again that the row had disabled.
func TestDeletingExpiredRowsBringsNothingBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		out := f.login("ann")
		f.logout(out)
		used := f.askForReset("ann@example.org")
		f.do("reset", f.ResetPassword(t.Context(), used, newPassword, Client{}))
		for range 40 {
			f.clock.Forward(24 * time.Hour)
			f.do("clean", f.deleteExpired(t.Context()))
			f.wantEnded("signed out", out)
			f.wantProblem("used", f.ResetPassword(t.Context(), used, newPassword, Client{}),
				tokenExpired)
		}
		if n := f.rows(); n["sessions"] != 0 || n["one_time_tokens"] != 0 {
			t.Errorf("after 40 days: %v", n)
		}
	})
}

func TestRenewMovesTheDeadline(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fixture) {
		actor := model.Actor{UserID: model.NewUserID(), SessionID: model.NewSessionID()}
		grant := func(ttl time.Duration) Grant {
			return Grant{Actor: actor, ExpiresAt: f.db.Now().
				Add(ttl)}
		}
		later, sooner, over, released := newEnding(t), newEnding(t), newEnding(t), newEnding(t)
		l, s := f.Lease(grant(accessTTL), later.end), f.Lease(grant(accessTTL), sooner.end)
		o, r := f.Lease(grant(accessTTL/4), over.end), f.Lease(grant(accessTTL), released.end)
		r.Release()
		pass(accessTTL / 2)
		l.Renew(grant(accessTTL))
		s.Renew(grant(accessTTL / 4))
		o.Renew(grant(accessTTL))
		r.Renew(grant(accessTTL))
		over.want("ended before", 1)
		pass(accessTTL / 4)
		sooner.want("moved nearer", 1)
		pass(accessTTL / 4)
		later.want("at the first deadline", 0)
		pass(accessTTL/2 - time.Microsecond)
		later.want("just before the new deadline", 0)
		pass(time.Microsecond)
		later.want("at the new deadline", 1)
		pass(10 * accessTTL)
		over.want("renewed after its end", 1)
		released.want("renewed after its release", 0)
		l.Renew(grant(accessTTL))
		l.Release()
		f.wantNoLeases()
	})
}

func TestRenewMovesTheSession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		first, second := f.register("ann"), f.login("ann")
		moved, stays := newEnding(t), newEnding(t)
		l := f.Lease(f.grant(first), moved.end)
		other := f.Lease(f.grant(first), stays.end)
		l.Renew(f.grant(second))
		f.logout(first)
		moved.want("after the end of the session that it came from", 0)
		stays.want("left behind", 1)
		f.logout(second)
		moved.want("after the end of the session that it went to", 1)

		third := f.login("ann")
		l.Renew(f.grant(third)) // too late, and without effect
		other.Renew(f.grant(third))
		f.logout(third)
		moved.want("renewed after its end", 1)
		stays.want("renewed after its end", 1)
		f.wantNoLeases()
	})
}

// The session may end between the check of the new token and Renew.
func TestRenewToASessionThatHasJustEnded(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		first, second := f.register("ann"), f.login("ann")
		e := newEnding(t)
		l := f.Lease(f.grant(first), e.end)
		grant := f.grant(second)
		f.logout(second)
		l.Renew(grant)
		f.run()
		e.wait("renewed to a session that had just ended")
	})
}

func TestRenewRaces(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for round := range 5 {
			name := fmt.Sprint("ann", round)
			first, second := f.register(name), f.login(name)
			e := newEnding(t)
			l := f.Lease(f.grant(first), e.end)
			a, b := f.grant(first), f.grant(second)
			concurrently(8, func(i int) {
				switch i % 4 {
				case 0:
					l.Renew(a)
				case 1:
					l.Renew(b)
				case 2:
					f.logout(first)
				case 3:
					f.logout(second)
				}
			})
			if n := e.count.Load(); n > 1 {
				t.Errorf("ended %d times", n)
			}
			l.Release()
		}
		f.wantNoLeases()
	})
}
