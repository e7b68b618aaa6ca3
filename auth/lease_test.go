package auth

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"parley/errs"
	"parley/model"
	"parley/store/storetest"
)

// ending counts how often a lease has ended, and checks the code.
type ending struct {
	t     *testing.T
	count atomic.Int64
	first chan struct{}
	once  sync.Once
}

func newEnding(t *testing.T) *ending { return &ending{t: t, first: make(chan struct{})} }

func (e *ending) end(reason error) {
	if !errs.Is(reason, errs.Unauthenticated) {
		e.t.Errorf("ended with %v, want UNAUTHENTICATED", reason)
	}
	e.count.Add(1)
	e.once.Do(func() { close(e.first) })
}

func (e *ending) want(name string, n int64) {
	e.t.Helper()
	if got := e.count.Load(); got != n {
		e.t.Errorf("%s: ended %d times, want %d", name, got, n)
	}
}

// wait waits until the lease has ended.
func (e *ending) wait(name string) {
	e.t.Helper()
	select {
	case <-e.first:
	case <-time.After(patience):
		e.t.Fatalf("%s: the lease has not ended", name)
	}
}

// wantNoLeases checks that the service has no leases, and no entries for sessions without one.
func (f *fixture) wantNoLeases() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.leases) != 0 {
		f.t.Errorf("leases are left: %v", f.leases)
	}
}

func TestLeasesEndWithTheirSession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, laptop, bob := f.register("ann"), f.login("ann"), f.register("bob")
		tabs := []*ending{newEnding(t), newEnding(t), newEnding(t)}
		for _, e := range tabs {
			f.Lease(f.grant(ann), e.end)
		}
		released, elsewhere, other := newEnding(t), newEnding(t), newEnding(t)
		r := f.Lease(f.grant(ann), released.end)
		r.Release()
		r.Release()
		l1, l2 := f.Lease(f.grant(laptop), elsewhere.end), f.Lease(f.grant(bob), other.end)
		f.logout(ann)
		// Logout returns after the leases on this node have ended.
		for _, e := range tabs {
			e.want("a socket of the session", 1)
		}
		f.logout(ann)
		r.Release()
		for _, e := range tabs {
			e.want("after a second logout", 1)
		}
		released.want("released before", 0)
		elsewhere.want("another session of hers", 0)
		other.want("another person", 0)
		l1.Release()
		l2.Release()
		f.logout(laptop)
		elsewhere.want("released after", 0)
		f.wantNoLeases()
	})
}

func TestLeasesEndWhenARefreshTokenIsUsedTwice(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		socket, other := newEnding(t), newEnding(t)
		f.Lease(f.grant(ann), socket.end)
		l := f.Lease(f.grant(bob), other.end)
		next := f.refresh(ann.Tokens.RefreshToken)
		f.refresh(ann.Tokens.RefreshToken)
		socket.want("a refresh, and its repetition within the grace", 0)
		f.refresh(next.Tokens.RefreshToken)
		f.wantTokenExpired("two generations old", ann.Tokens.RefreshToken)
		socket.want("the second use", 1)
		other.want("another person", 0)
		l.Release()
	})
}

// The session may end between the check of a token and the lease, which would not be found then.
func TestALeaseOfASessionThatHasJustEndedEnds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		grant := f.grant(ann)
		f.logout(ann)
		late := newEnding(t)
		f.Lease(grant, late.end)
		f.run()
		late.wait("a lease from just after logout")
	})
}

// run calls Run until the test ends.
func (f *fixture) run() {
	f.t.Helper()
	var running sync.WaitGroup
	running.Go(func() { f.Run(f.t.Context()) })
	f.t.Cleanup(running.Wait) // the test's context has ended by then
}

func TestLeasesOnOtherNodesEndToo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, bob, cat := f.register("ann"), f.register("bob"), f.register("cat")
		next := f.refresh(bob.Tokens.RefreshToken)
		behind := storetest.NewClock()
		behind.Forward(-10 * time.Second) // clocks of two machines differ
		for name, c := range map[string]*storetest.Clock{"in time": f.clock, "behind": behind} {
			node := f.node(c)
			annEnds, bobEnds, catStays := newEnding(t), newEnding(t), newEnding(t)
			for e, s := range map[*ending]*SignedIn{annEnds: ann, bobEnds: next, catStays: cat} {
				l := node.Lease(Grant{Actor: s.Actor(), ExpiresAt: s.Tokens.ExpiresAt}, e.end)
				t.Cleanup(l.Release)
			}
			node.run()
			f.logout(ann)
			annEnds.wait("after logout, " + name)
			f.clock.Forward(refreshGrace + time.Microsecond)
			f.wantTokenExpired("the second use", bob.Tokens.RefreshToken)
			bobEnds.wait("after a second use of a refresh token, " + name)
			annEnds.want("after logout, "+name, 1)
			catStays.want("another person, "+name, 0)
		}
		f.grant(cat)
	})
}

// A timer may fire, and two goroutines that end the session may find the lease, while it is being
// released.
func TestALeaseThatIsFoundTwiceEndsOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fixture) {
		grant := Grant{Actor: model.Actor{SessionID: model.NewSessionID()}, ExpiresAt: f.db.Now().
			Add(time.Minute)}
		twice, released := newEnding(t), newEnding(t)
		l, r := f.Lease(grant, twice.end), f.Lease(grant, released.end)
		r.Release()
		for range 2 {
			l.finish(errSessionEnded)
			r.finish(errSessionEnded)
		}
		twice.want("found twice", 1)
		released.want("found after it was released", 0)
	})
}

func TestLeasesRaceWithLogout(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		grant := f.grant(ann)
		kept, released := make([]*ending, 20), make([]*ending, 20)
		leases := make([]*Lease, len(released))
		for i := range kept {
			kept[i], released[i] = newEnding(t), newEnding(t)
			f.Lease(grant, kept[i].end)
			leases[i] = f.Lease(grant, released[i].end)
		}
		concurrently(4+len(leases), func(i int) {
			if i < 4 {
				if err := f.Logout(t.Context(), ann.Actor(), Client{}); err != nil {
					t.Error(err)
				}
				return
			}
			leases[i-4].Release()
		})
		for i := range kept {
			kept[i].want("kept", 1)
			if n := released[i].count.Load(); n > 1 {
				t.Errorf("released in the race: ended %d times", n)
			}
		}
		f.wantNoLeases()
	})
}

// bubble runs fn in a synctest bubble. Its database is opened outside, and used only for the time.
func bubble(t *testing.T, fn func(t *testing.T, f *fixture)) {
	t.Helper()
	db := mustSQLite(t, time.Now)
	synctest.Test(t, func(t *testing.T) {
		fn(t, &fixture{Service: mustService(t, db), t: t})
	})
}

// pass lets time pass, and waits until everything that is due has happened.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestLeasesEndWhenTheTokenExpires(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fixture) {
		actor := model.Actor{UserID: model.NewUserID(), SessionID: model.NewSessionID()}
		lease := func(ttl time.Duration) (*ending, *Lease) {
			e := newEnding(t)
			return e, f.Lease(Grant{Actor: actor, ExpiresAt: f.db.Now().Add(ttl)}, e.end)
		}
		long, _ := lease(2 * accessTTL)
		short, _ := lease(accessTTL)
		released, r := lease(accessTTL)
		late, l := lease(accessTTL)
		r.Release()

		pass(accessTTL - time.Microsecond)
		short.want("a microsecond before", 0)
		pass(time.Microsecond)
		short.want("at its expiry", 1)
		late.want("at its expiry", 1)
		l.Release()
		long.want("the lease of a newer token", 0)

		f.endLeases(actor.SessionID)
		long.want("at the end of the session", 1)
		short.want("which had ended before", 1)
		pass(10 * accessTTL)
		for name, e := range map[string]*ending{"long": long, "short": short, "late": late} {
			e.want(name+", long after", 1)
		}
		released.want("released", 0)
		f.wantNoLeases()
	})
}

func TestALeaseOfAnExpiredTokenEndsAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fixture) {
		for _, ttl := range []time.Duration{0, -time.Microsecond, -time.Hour, -1 << 62} {
			e := newEnding(t)
			f.Lease(Grant{
				Actor:     model.Actor{SessionID: model.NewSessionID()},
				ExpiresAt: f.db.Now().Add(ttl),
			}, e.end)
			synctest.Wait() // no time passes
			e.want(ttl.String(), 1)
		}
		f.wantNoLeases()
	})
}

// The function that is called at the end of a lease may release it, and others, as sockets do.
func TestTheEndOfALeaseMayUseTheService(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fixture) {
		grant := Grant{Actor: model.Actor{SessionID: model.NewSessionID()}, ExpiresAt: f.db.Now().
			Add(time.Minute)}
		var own, other *Lease
		ended, forgotten := newEnding(t), newEnding(t)
		own = f.Lease(grant, func(reason error) {
			ended.end(reason)
			own.Release()
			other.Release()
		})
		other = f.Lease(Grant{
			Actor:     model.Actor{SessionID: model.NewSessionID()},
			ExpiresAt: grant.ExpiresAt.Add(time.Minute),
		}, forgotten.end)
		f.endLeases(grant.Actor.SessionID)
		ended.want("the session's end", 1)
		pass(time.Hour)
		ended.want("long after", 1)
		forgotten.want("released by the end of another", 0)
	})
}

// With the real clock and a real token, the parts above work together.
func TestALeaseEndsWithARealToken(t *testing.T) {
	t.Parallel()
	db := mustMigrate(t, mustSQLite(t, time.Now))
	f := &fixture{
		Service: mustService(t, db, func(o *Options) { o.AccessTTL = 2 * time.Second }),
		t:       t,
	}
	ann := f.register("ann")
	socket := newEnding(t)
	f.Lease(Grant{Actor: ann.Actor(), ExpiresAt: ann.Tokens.ExpiresAt}, socket.end)
	socket.wait("a token of two seconds")
	if early := ann.Tokens.ExpiresAt.Sub(db.Now()); early > 0 {
		t.Errorf("ended %v before the token's expiry", early)
	}
	f.wantUnauthenticated("the token itself", ann.Tokens.AccessToken)
	socket.want("afterwards", 1)
}
