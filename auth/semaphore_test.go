package auth

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"parley/errs"
)

// takeSlots keeps passwords from being hashed until release is called.
func (w *world) takeSlots() (release func()) {
	w.t.Helper()
	n := runtime.GOMAXPROCS(0)
	for range n {
		w.do("take a slot", w.hashing.acquire(w.t.Context(), "the test"))
	}
	return func() {
		for range n {
			w.hashing.release()
		}
	}
}

// waitForWaiters returns once n callers wait for a slot.
func (w *world) waitForWaiters(n int) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); w.hashing.waiters() < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d callers wait for a slot, want %d", w.hashing.waiters(), n)
		}
	}
}

// answered returns a waiter's answer, if there is one.
func answered(w *waiter) (err error, ok bool) {
	select {
	case err := <-w.answer:
		return err, true
	default:
		return nil, false
	}
}

func TestAFloodDelaysAnotherAddressByOneTurn(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 2, 8} {
		f := newFairSemaphore(slots, maxHashWaiters, maxHashWaitersPerAddress)
		for range slots + maxHashWaitersPerAddress {
			f.join("flood")
		}
		if err, ok := answered(f.join("flood")); !ok || !errs.Is(err, errs.RateLimited) {
			t.Errorf("%d slots: one more of the flood: %v", slots, err)
		}
		first, second := f.join("other"), f.join("other")
		served := 0
		serve := func(w *waiter) int {
			for {
				if err, ok := answered(w); ok {
					if err != nil {
						t.Fatalf("%d slots: the other address is refused: %v", slots, err)
					}
					return served
				}
				f.release()
				served++
			}
		}
		if n := serve(first); n > slots+1 {
			t.Errorf("%d slots: served after %d hashes", slots, n)
		}
		if n := serve(second); n > slots+3 {
			t.Errorf("%d slots: the second request is served after %d hashes", slots, n)
		}
	}
}

// Several addresses that fill the queue together keep nobody out who asks for less.
func TestAFullQueueMakesRoomForWhoAsksForLess(t *testing.T) {
	t.Parallel()
	f := newFairSemaphore(1, 6, 4)
	f.join("holds the slot")
	var a, b []*waiter
	for range 4 {
		a = append(a, f.join("a"))
	}
	for range 2 {
		b = append(b, f.join("b"))
	}
	if _, ok := answered(f.join("c")); ok {
		t.Error("c is refused")
	}
	if err, ok := answered(a[3]); !ok || !errs.Is(err, errs.RateLimited) {
		t.Errorf("the newest of the most: %v", err)
	}
	if e, ok := errors.AsType[*errs.Error](mustAnswer(t, f.join("b"))); !ok || e.Code != errs.Unavailable || e.RetryAfter == 0 {
		t.Errorf("b would have as many as a: %v", e) // 3, 2 and 1: nobody has two more
	}
	if _, ok := answered(f.join("d")); ok {
		t.Error("d is refused")
	}
	for _, w := range slices.Concat(a[:2], b) {
		if err, ok := answered(w); ok {
			t.Errorf("answered: %v", err)
		}
	}
}

func mustAnswer(t *testing.T, w *waiter) error {
	t.Helper()
	err, ok := answered(w)
	if !ok {
		t.Fatal("has no answer")
	}
	return err
}

// Any sequence of callers that come, finish and give up keeps the invariants. While a caller waits that has k-1 others of its
// address before it, every other address is served at most k times.
func TestAddressesTakeTurns(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 4).Draw(t, "slots")
		f := newFairSemaphore(slots, rapid.IntRange(1, 12).Draw(t, "maxWaiting"), rapid.IntRange(1, 6).Draw(t, "maxPerAddress"))
		type caller struct {
			*waiter
			address string
			before  int            // waiters of its address that were there when it came
			served  map[string]int // meanwhile, by address
		}
		var waiting []*caller // in the order in which they came
		var holding []*caller
		// collect takes the answers that came since.
		collect := func() {
			waiting = slices.DeleteFunc(waiting, func(c *caller) bool {
				err, ok := answered(c.waiter)
				if ok && err == nil {
					holding = append(holding, c)
					for _, other := range waiting {
						if other.address != c.address && other.served != nil {
							other.served[c.address]++
							if other.served[c.address] > other.before+1 {
								t.Fatalf("%s was served %d times while %s waited behind %d", c.address, other.served[c.address], other.address, other.before)
							}
						}
					}
				} else if ok && !errs.Is(err, errs.RateLimited) {
					t.Fatalf("a waiter was refused: %v", err)
				}
				return ok
			})
		}
		count := func(address string) (n int) {
			for _, c := range waiting {
				if c.address == address {
					n++
				}
			}
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				address := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "address")
				c := &caller{f.join(address), address, count(address), map[string]int{}}
				err, ok := answered(c.waiter)
				switch {
				case !ok:
					waiting = append(waiting, c)
				case err == nil:
					holding = append(holding, c)
				case errs.Is(err, errs.RateLimited):
					if c.before < f.maxPerAddress {
						t.Fatalf("%s has %d waiters, and is limited", address, c.before)
					}
				case errs.Is(err, errs.Unavailable):
					for _, other := range waiting {
						if count(other.address) > c.before+1 {
							t.Fatalf("%s waits %d times, and %s is UNAVAILABLE", other.address, count(other.address), address)
						}
					}
				}
			},
			"release": func(t *rapid.T) {
				if len(holding) == 0 {
					t.Skip("no slot is in use")
				}
				holding = holding[1:]
				f.release()
			},
			"give up": func(t *rapid.T) {
				if len(waiting) == 0 {
					t.Skip("no caller waits")
				}
				c := rapid.SampledFrom(waiting).Draw(t, "caller")
				waiting = slices.DeleteFunc(waiting, func(other *caller) bool { return other == c })
				f.leave(c.address, c.waiter)
			},
			"give up in the moment of being served": func(t *rapid.T) {
				if len(holding) == 0 || len(waiting) == 0 {
					t.Skip("no caller waits")
				}
				next := f.queues[f.turns[0]][0]
				holding = holding[1:]
				f.release()
				i := slices.IndexFunc(waiting, func(c *caller) bool { return c.waiter == next })
				c := waiting[i]
				waiting = slices.Delete(waiting, i, i+1)
				f.leave(c.address, next)
				// It counts as served for the others, which this leaves out: their bound would be one too small.
				for _, other := range waiting {
					other.served = nil
				}
			},
			"": func(t *rapid.T) {
				collect()
				if f.free > 0 && len(waiting) > 0 || f.free+len(holding) != slots {
					t.Fatalf("%d free, %d in use of %d, %d wait", f.free, len(holding), slots, len(waiting))
				}
				if f.waiting != len(waiting) || f.waiting > f.maxWaiting || len(f.queues) != len(f.turns) {
					t.Fatalf("%d counted, %d wait, at most %d; %v, %v", f.waiting, len(waiting), f.maxWaiting, f.queues, f.turns)
				}
				for _, address := range f.turns {
					if n := len(f.queues[address]); n == 0 || n > f.maxPerAddress || n != count(address) {
						t.Fatalf("%s: %d in its queue, %d wait", address, n, count(address))
					}
				}
			},
		})
	})
}

// A request that ends while it waits leaves its place to others, and takes no slot with it.
func TestWhoGivesUpLeavesTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFairSemaphore(1, 10, 10)
		if err := f.acquire(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 3)
		for range 3 {
			go func() { ended <- f.acquire(ctx, "a") }()
		}
		served := make(chan error, 1)
		go func() { served <- f.acquire(t.Context(), "a") }()
		synctest.Wait()
		if n := f.waiters(); n != 4 {
			t.Fatalf("%d wait", n)
		}
		cancel()
		for range 3 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		if n := f.waiters(); n != 1 {
			t.Errorf("%d wait", n)
		}
		f.release()
		if err := <-served; err != nil {
			t.Error(err)
		}
		f.release()
		if err := f.acquire(ctx, "a"); !errors.Is(err, context.Canceled) || f.free != 1 {
			t.Errorf("a request that has ended: %v, %d slots free", err, f.free)
		}
	})
}

// Every operation that hashes a password waits in the name of its client's address.
func TestPasswordsWaitByAddress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		reset := w.askForReset("ann@example.org")
		w.hashing = newFairSemaphore(0, 10, 1)
		w.hashing.join(here().Network())
		for name, try := range map[string]func(ctx context.Context, from Client) error{
			"register": func(ctx context.Context, from Client) error {
				_, err := w.Register(ctx, Register{Email: "bob@example.org", Nickname: "bob", Password: password}, from)
				return err
			},
			"login": func(ctx context.Context, from Client) error {
				_, err := w.Login(ctx, Login{Email: "ann@example.org", Password: password}, from)
				return err
			},
			"login to no account": func(ctx context.Context, from Client) error {
				_, err := w.Login(ctx, Login{Email: "nobody@example.org", Password: password}, from)
				return err
			},
			"changePassword": func(ctx context.Context, from Client) error {
				return w.ChangePassword(ctx, ann.Actor(), ChangePassword{password, newPassword}, from)
			},
			"changeEmail": func(ctx context.Context, from Client) error {
				return w.ChangeEmail(ctx, ann.Actor(), ChangeEmail{"ann@example.com", password}, from)
			},
			"resetPassword": func(ctx context.Context, from Client) error {
				return w.ResetPassword(ctx, reset, newPassword, from)
			},
			"deleteAccount": func(ctx context.Context, from Client) error {
				return w.DeleteAccount(ctx, ann.Actor(), password, from)
			},
		} {
			if got := waiting(try(t.Context(), here())); got != hashRetryAfter {
				t.Errorf("%s: has to wait %v, want %v", name, got, hashRetryAfter)
			}
			ctx, cancel := context.WithCancel(t.Context())
			answer := make(chan error, 1)
			go func() { answer <- try(ctx, elsewhere()) }()
			w.waitForWaiters(2)
			cancel()
			if err := <-answer; !errors.Is(err, context.Canceled) {
				t.Errorf("%s, from elsewhere: %v", name, err)
			}
		}
	})
}

func TestAFloodOfLoginsMakesNobodyElseUnavailable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		release := w.takeSlots()
		answers := make(chan error, maxHashWaitersPerAddress)
		for i := range maxHashWaitersPerAddress {
			go func() {
				_, err := w.Login(t.Context(), Login{Email: fmt.Sprint("nobody", i), Password: password}, here())
				answers <- err
			}()
		}
		w.waitForWaiters(maxHashWaitersPerAddress)
		_, err := w.Login(t.Context(), Login{Email: "ann@example.org", Password: password}, here())
		w.wantWait("the flood's own address", err, hashRetryAfter)
		signedIn := make(chan error, 1)
		go func() {
			_, err := w.Login(t.Context(), Login{Email: "ann@example.org", Password: password}, elsewhere())
			signedIn <- err
		}()
		w.waitForWaiters(maxHashWaitersPerAddress + 1)
		release()
		w.do("another address", <-signedIn)
		for range maxHashWaitersPerAddress {
			w.wantProblem("the flood", <-answers, "INVALID_CREDENTIALS password")
		}
	})
}
