package auth

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"parley/errs"
	"parley/mail"
	"parley/model"
	"parley/ratelimit"
)

// limited returns a node with rate limits.
func (f *fixture) limited(change ...func(*Options)) *fixture {
	f.t.Helper()
	return f.node(f.clock, append([]func(*Options){func(o *Options) { o.RateLimits = true }},
		change...)...)
}

// waiting returns the time after which a refused client may retry; 0 if err is not RATE_LIMITED.
func waiting(err error) time.Duration {
	if e, ok := errors.AsType[*errs.Error](err); ok && e.Code == errs.RateLimited {
		return e.RetryAfter
	}
	return 0
}

// wantWait checks that an attempt is refused, and for how long.
func (f *fixture) wantWait(name string, err error, want time.Duration) {
	f.t.Helper()
	if got := waiting(err); got != want {
		f.t.Errorf("%s: has to wait %v (%v), want %v", name, got, err, want)
	}
}

// limitTest is one line of the table in docs/security.md.
type limitTest struct {
	burst int
	every time.Duration
	// try makes one attempt. Only whether it is rate-limited matters.
	try func(f *fixture, n int) error
	// apart makes an attempt that is counted under another key.
	apart func(f *fixture) error
}

// here is the client of most attempts.
func here() Client { return Client{IP: "192.0.2.1"} }

func elsewhere() Client { return Client{IP: "192.0.2.2"} }

func limitTests() map[string]limitTest {
	register := func(f *fixture, from Client) error {
		// refused as incomplete, before a password is hashed
		_, err := f.Register(f.t.Context(), Register{}, from)
		return err
	}
	refresh := func(f *fixture, token string, from Client) error {
		_, err := f.Refresh(f.t.Context(), token, nil, from)
		return err
	}
	login := func(f *fixture, nickname string, from Client) error {
		_, err := f.Login(f.t.Context(),
			Login{Email: nickname + "@example.org", Password: password}, from)
		return err
	}
	session, other := model.NewSessionID(), model.NewSessionID()
	return map[string]limitTest{
		"register": {
			300, 12 * time.Second,
			func(f *fixture, _ int) error { return register(f, here()) },
			func(f *fixture) error { return register(f, elsewhere()) },
		},
		"login by address": {
			100, time.Second,
			func(f *fixture, n int) error { return login(f, fmt.Sprint("unknown", n), here()) },
			func(f *fixture) error { return login(f, "ann", elsewhere()) },
		},
		"login by account and address": {
			20, 10 * time.Second,
			func(f *fixture, _ int) error { return login(f, "ann", here()) },
			func(f *fixture) error { return login(f, "bob", here()) },
		},
		"login by account and address, from elsewhere": {
			20, 10 * time.Second,
			func(f *fixture, _ int) error { return login(f, "ann", here()) },
			func(f *fixture) error { return login(f, "ann", elsewhere()) },
		},
		"refresh by address": {
			300, 500 * time.Millisecond,
			func(f *fixture, _ int) error { return refresh(f, "x", here()) },
			func(f *fixture) error { return refresh(f, "x", elsewhere()) },
		},
		"refresh by session": {
			20, 3 * time.Second,
			func(f *fixture, n int) error {
				return refresh(f, f.tokens.firstRefresh(session).String(),
					Client{IP: fmt.Sprint("192.0.2.", n%200)})
			},
			func(f *fixture) error {
				return refresh(f, f.tokens.firstRefresh(other).String(), here())
			},
		},
		"requestPasswordReset": {
			20, time.Minute,
			func(f *fixture, n int) error {
				return f.RequestPasswordReset(f.t.Context(), fmt.Sprint("unknown", n), here())
			},
			func(f *fixture) error {
				return f.RequestPasswordReset(f.t.Context(), "unknown", elsewhere())
			},
		},
		"resetPassword and verifyEmail": {
			30, 5 * time.Second,
			func(f *fixture, n int) error {
				if n%2 == 0 {
					return f.VerifyEmail(f.t.Context(), "x", here())
				}
				return f.ResetPassword(f.t.Context(), "x", newPassword, here())
			},
			func(f *fixture) error { return f.VerifyEmail(f.t.Context(), "x", elsewhere()) },
		},
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		base.register("bob")
		for name, test := range limitTests() {
			t.Run(name, func(t *testing.T) {
				// All counts have expired by then.
				base.clock.Forward(24 * time.Hour)
				f := base.limited()
				f.t = t
				n := 0
				try := func() error {
					n++
					return test.try(f, n)
				}
				for range test.burst {
					if err := try(); waiting(err) != 0 {
						t.Fatalf("attempt %d of %d: %v", n, test.burst, err)
					}
				}
				f.wantWait("after the burst", try(), test.every)
				f.wantWait("a refusal is not counted", try(), test.every)
				if err := test.apart(f); waiting(err) != 0 {
					t.Errorf("counted under another key: %v", err)
				}
				f.clock.Forward(test.every - time.Millisecond)
				f.wantWait("a little early", try(), time.Millisecond)
				f.clock.Forward(time.Millisecond)
				f.wantWait("one interval later", try(), 0)
				f.wantWait("which lets one through", try(), test.every)
				f.clock.Forward(3 * test.every)
				for range 3 {
					f.wantWait("three intervals later", try(), 0)
				}
				f.wantWait("and no more", try(), test.every)
				f.clock.Forward(time.Duration(test.burst) * test.every)
				for range test.burst {
					f.wantWait("when all is full again", try(), 0)
				}
				f.wantWait("and no more than full", try(), test.every)
			})
		}
	})
}

// Without limits no client has to wait, as in all the other tests.
func TestLimitsMayBeOff(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		for range 40 {
			_, err := f.Login(t.Context(),
				Login{Email: "ann@example.org", Password: "wrong password"}, here())
			f.wantProblem("wrong", err, "INVALID_CREDENTIALS password")
		}
		f.login("ann")
	})
}

func TestAPasswordAskedForAgainIsLimitedBySession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		f := base.limited(func(o *Options) { o.OnDelete = nothingElse })
		ann, laptop := f.login("ann"), f.login("ann")
		for i := range 10 {
			var err error
			switch i % 3 {
			case 0:
				err = f.DeleteAccount(t.Context(), ann.Actor(), "wrong password", here())
			case 1:
				err = f.ChangePassword(t.Context(), ann.Actor(),
					ChangePassword{"wrong password", newPassword}, here())
			case 2:
				err = f.ChangeEmail(t.Context(), ann.Actor(),
					ChangeEmail{"a@example.com", "wrong password"}, here())
			}
			if len(errs.Correctable(err)) != 1 {
				t.Fatalf("attempt %d: %v", i, err)
			}
		}
		f.wantWait("the right one", f.DeleteAccount(t.Context(), ann.Actor(), password, here()),
			30*time.Second)
		f.clock.Forward(30 * time.Second)
		f.do("another session", f.ChangePassword(t.Context(), laptop.Actor(),
			ChangePassword{password, newPassword}, here()))
	})
}

func TestMailsToOneAccountAreLimited(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		ann := base.register("ann")
		base.register("bob")
		f := base.limited()
		for name, try := range map[string]func(i int) error{
			"verification": func(int) error {
				return f.RequestEmailVerification(t.Context(), ann.Actor())
			},
			"change": func(i int) error {
				return f.askForAddress(f.login("ann"), fmt.Sprintf("ann%d@example.com", i))
			},
		} {
			f.takeMails()
			sent := map[string]int{}
			for i := range 6 {
				if i < 5 {
					f.do(name, try(i))
				} else {
					f.wantWait(name, try(i), 10*time.Minute)
				}
				for _, m := range f.takeMails() { // before the next request deletes it
					sent[string(m.Kind)]++
				}
			}
			for kind, n := range sent {
				if n != 5 {
					t.Errorf("%s: %d mails of kind %s, want 5", name, n, kind)
				}
			}
		}
	})
}

// Otherwise a client that knows an address could cause any number of mails to it.
func TestNoticesOfConcealedRegistrationsAreLimited(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		base.takeMails()
		f := base.limited(func(o *Options) { o.ConcealEmails = true })
		for i := range 10 {
			in := Register{
				Email: "ann@example.org", Nickname: fmt.Sprint("other", i),
				Password: password,
			}
			if signedIn, err := f.Register(t.Context(), in,
				Client{IP: fmt.Sprint("192.0.2.", i)}); signedIn != nil || err != nil {
				t.Fatalf("got %v (%v), which reveals the account", signedIn, err)
			}
		}
		n := 0
		for _, m := range f.takeMails() {
			if m.Kind == mail.RegistrationAttempt {
				n++
			}
		}
		if n < 1 || n > 5 {
			t.Errorf("%d mails to one account, want at most 5", n)
		}
	})
}

func TestFailuresLockOut(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		base.register("bob")
		f := base.limited()
		login := func(nickname, with string, from Client) error {
			_, err := f.Login(t.Context(), Login{Email: nickname + "@example.org", Password: with},
				from)
			return err
		}
		fail := func(name string) {
			t.Helper()
			f.wantProblem(name, login("ann", "wrong password", here()),
				"INVALID_CREDENTIALS password")
		}
		const cap = 15 * time.Minute
		for range 3 {
			fail("for free")
		}
		for n, wait := 4, 2*time.Second; n < 16; n, wait = n+1, min(2*wait, cap) {
			fail(fmt.Sprintf("failure %d", n))
			f.wantWait("the wrong one", login("ann", "wrong password", here()), wait)
			f.wantWait("the right one", login("ann", password, here()), wait)
			f.wantWait("the address, written otherwise", login(" ANN", password, here()), wait)
			f.do("another address", login("ann", password, elsewhere()))
			f.do("another account", login("bob", password, here()))
			f.clock.Forward(wait - time.Millisecond)
			f.wantWait("a little early", login("ann", password, here()), time.Millisecond)
			f.clock.Forward(time.Millisecond)
			if wait < 16*time.Second {
				// so that the limit of attempts does not apply
				f.clock.Forward(time.Minute)
			}
		}
		// Failures expire an hour after the end of the lockout, and not a microsecond earlier.
		f.clock.Forward(time.Hour)
		fail("within the hour")
		f.wantWait("within the hour", login("ann", password, here()), cap)
		f.clock.Forward(cap + time.Hour + time.Microsecond)
		for range 3 {
			fail("for free again")
		}
		fail("the fourth")
		f.wantWait("the fourth", login("ann", password, here()), 2*time.Second)
		f.clock.Forward(2 * time.Second)
		f.do("success", login("ann", password, here()))
		for range 3 {
			fail("after a success")
		}
		f.do("after a success, and three failures", login("ann", password, here()))
	})
}

// Otherwise a lockout would reveal which addresses have accounts.
func TestFailuresForUnknownAddressesLockOutToo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.limited()
		for range 4 {
			_, err := f.Login(t.Context(), Login{Email: "unknown@example.org", Password: password},
				here())
			f.wantProblem("wrong", err, "INVALID_CREDENTIALS password")
		}
		_, err := f.Login(t.Context(), Login{Email: "unknown@example.org", Password: password},
			here())
		f.wantWait("the fifth", err, 2*time.Second)
	})
}

// A client that waits for exactly RetryAfter is let through.
func TestRetryAfterIsLongEnough(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.limited()
		r := limit{Rate: ratelimit.Rate{Burst: 1, Every: 10 * time.Second}}
		for i, late := range []time.Duration{
			0, 400 * time.Microsecond, 600 * time.Microsecond,
			999 * time.Microsecond, 10*time.Second - 400*time.Microsecond,
		} {
			key := fmt.Sprint("key", i)
			f.do("first", f.allow(t.Context(), key, r))
			f.clock.Forward(late)
			err := f.allow(t.Context(), key, r)
			if !errs.Is(err, errs.RateLimited) {
				t.Fatalf("got %v, want RATE_LIMITED", err)
			}
			wait := waiting(err)
			if wait <= 0 || wait%time.Millisecond != 0 {
				t.Errorf("%v late: has to wait %v", late, wait)
			}
			f.clock.Forward(wait)
			if err := f.allow(t.Context(), key, r); err != nil {
				t.Errorf("%v late: refused after waiting %v: %v", late, wait, err)
			}
		}
	})
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for ip, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:0:1::1":                  "2001:db8:0:1::/64",
		"2001:db8:0:1:ffff:ffff:ffff:ffff": "2001:db8:0:1::/64",
		"2001:db8:0:2::1":                  "2001:db8:0:2::/64", "::1": "::/64",
		"fe80::1%eth0": "fe80::/64", "fe80::1%eth1": "fe80::/64",
		"": "unknown", "no address": "unknown", "192.0.2.1:80": "unknown", "192.0.2": "unknown",
	} {
		if got := (Client{IP: ip}).Network(); got != want {
			t.Errorf("%q counts as %s, want %s", ip, got, want)
		}
	}
}

// One customer has 2^64 addresses of IPv6, which count as one.
func TestANetworkOfIPv6IsOneAddress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		f := base.limited()
		login := func(with, ip string) error {
			_, err := f.Login(t.Context(), Login{Email: "ann@example.org", Password: with},
				Client{IP: ip})
			return err
		}
		for i := range 4 {
			f.wantProblem("wrong", login("wrong password", fmt.Sprintf("2001:db8:0:1::%d", i)),
				"INVALID_CREDENTIALS password")
		}
		f.wantWait("a neighbour", login(password, "2001:db8:0:1:abcd::9"), 2*time.Second)
		f.do("another network", login(password, "2001:db8:0:2::1"))
	})
}

// On PostgreSQL the nodes share their counts; SQLite has one node.
func TestNodesShareLimits(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		nodes := []*fixture{base.limited(), base.limited()}
		shared := base.db.Postgres()
		r := limit{Rate: ratelimit.Rate{Burst: 4, Every: time.Hour}}
		passed := 0
		for i := range 8 {
			if nodes[i%2].allow(t.Context(), "key", r) == nil {
				passed++
			}
		}
		want := 8
		if shared {
			want = 4
		}
		if passed != want {
			t.Errorf("%d attempts were let through, want %d", passed, want)
		}
		for i := range 4 {
			_, err := nodes[i%2].Login(t.Context(),
				Login{Email: "ann@example.org", Password: "wrong password"}, here())
			base.wantProblem("wrong", err, "INVALID_CREDENTIALS password")
		}
		_, err := nodes[0].Login(t.Context(), Login{Email: "ann@example.org", Password: password},
			here())
		if slowed := waiting(err) == 2*time.Second; slowed != shared {
			t.Errorf("failures on both nodes: %v", err)
		}
	})
}

func TestManyAtOnceGetNoMoreThanTheBurst(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		nodes := []*fixture{base.limited()}
		if base.db.Postgres() {
			nodes = append(nodes, base.limited())
		}
		var passed, refused atomic.Int64
		concurrently(50, func(i int) {
			switch err := nodes[i%len(nodes)].allow(t.Context(), "key",
				limit{Rate: ratelimit.Rate{Burst: 7, Every: time.Hour}}); {
			case err == nil:
				passed.Add(1)
			case waiting(err) == time.Hour:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
		if passed.Load() != 7 || refused.Load() != 43 {
			t.Errorf("%d were let through and %d refused, want 7 and 43", passed.Load(),
				refused.Load())
		}
	})
}

// The counts outlive accounts, and must not contain their addresses.
func TestLimitsAreCountedUnderHashes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.limited()
		in := Register{Email: "ann@example.org", Nickname: "ann", Password: password}
		ann, err := f.Register(t.Context(), in, here())
		f.do("register", err)
		_, _ = f.Login(t.Context(), Login{Email: in.Email, Password: "wrong password"}, here())
		f.do("reset", f.RequestPasswordReset(t.Context(), in.Email, here()))
		f.do("verify", f.RequestEmailVerification(t.Context(), ann.Actor()))
		f.refresh(ann.Tokens.RefreshToken)
		var keys []string
		if memory, ok := f.limits.(memoryLimits); ok {
			keys = memory.Keys()
		} else if err := f.db.NewSelect().Table("rate_limits").Column("key").Scan(t.Context(),
			&keys); err != nil {
			t.Fatal(err)
		}
		if len(keys) < 8 {
			t.Errorf("only %d counts: %v", len(keys), keys)
		}
		for _, key := range keys {
			if len(key) != 64 || strings.Trim(key, "0123456789abcdef") != "" {
				t.Errorf("%q is not a hash", key)
			}
		}
	})
}
