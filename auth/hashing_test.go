package auth

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"

	"parley/errs"
	"parley/fair"
)

// takeSlots keeps passwords from being hashed until release is called.
func (f *fixture) takeSlots() (release func()) {
	f.t.Helper()
	release, err := f.hashing.Acquire(f.t.Context(), "the test", math.MaxInt64)
	f.do("take all slots", err)
	return release
}

// refuseHashing makes every operation that hashes a password UNAVAILABLE until allow is called.
func (f *fixture) refuseHashing() (allow func()) {
	f.t.Helper()
	before := f.hashing
	f.hashing = fair.NewSemaphore[string](1, 0, 1)
	release := f.takeSlots()
	return func() {
		release()
		f.hashing = before
	}
}

// waitForSlot waits for a slot as a client, until stop is called.
func (f *fixture) waitForSlot(from Client) (stop func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan error, 1)
	before := f.hashing.Waiting()
	go func() { ended <- f.withSlot(ctx, from, func() error { return nil }) }()
	f.waitForWaiters(before + 1)
	return func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			f.t.Errorf("waiting for a slot ended with %v", err)
		}
	}
}

// waitForWaiters returns once n callers wait for a slot.
func (f *fixture) waitForWaiters(n int) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); f.hashing.Waiting() < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d callers wait for a slot, want %d", f.hashing.Waiting(), n)
		}
	}
}

// Every operation that hashes a password waits in the queue of its client's address.
func TestPasswordsWaitByAddress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		reset := f.askForReset("ann@example.org")
		f.hashing = fair.NewSemaphore[string](1, 10, 1)
		defer f.takeSlots()()
		stop := f.waitForSlot(here())
		defer stop()
		for name, try := range map[string]func(ctx context.Context, from Client) error{
			"register": func(ctx context.Context, from Client) error {
				_, err := f.Register(ctx, Register{
					Email: "bob@example.org", Nickname: "bob",
					Password: password,
				}, from)
				return err
			},
			"login": func(ctx context.Context, from Client) error {
				_, err := f.Login(ctx, Login{Email: "ann@example.org", Password: password}, from)
				return err
			},
			"login to no account": func(ctx context.Context, from Client) error {
				_, err := f.Login(ctx, Login{Email: "unknown@example.org", Password: password},
					from)
				return err
			},
			"changePassword": func(ctx context.Context, from Client) error {
				return f.ChangePassword(ctx, ann.Actor(), ChangePassword{password, newPassword},
					from)
			},
			"changeEmail": func(ctx context.Context, from Client) error {
				return f.ChangeEmail(ctx, ann.Actor(), ChangeEmail{"ann@example.com", password},
					from)
			},
			"resetPassword": func(ctx context.Context, from Client) error {
				return f.ResetPassword(ctx, reset, newPassword, from)
			},
			"deleteAccount": func(ctx context.Context, from Client) error {
				return f.DeleteAccount(ctx, ann.Actor(), password, from)
			},
		} {
			if got := waiting(try(t.Context(), here())); got != hashRetryAfter {
				t.Errorf("%s: has to wait %v, want %v", name, got, hashRetryAfter)
			}
			ctx, cancel := context.WithCancel(t.Context())
			answer := make(chan error, 1)
			go func() { answer <- try(ctx, elsewhere()) }()
			f.waitForWaiters(2)
			cancel()
			if err := <-answer; !errors.Is(err, context.Canceled) {
				t.Errorf("%s, from elsewhere: %v", name, err)
			}
		}
	})
}

func TestAFloodOfLoginsLeavesOtherAddressesAvailable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		release := f.takeSlots()
		answers := make(chan error, maxHashWaitersPerAddress)
		for i := range maxHashWaitersPerAddress {
			go func() {
				_, err := f.Login(t.Context(),
					Login{Email: fmt.Sprint("unknown", i), Password: password}, here())
				answers <- err
			}()
		}
		f.waitForWaiters(maxHashWaitersPerAddress)
		_, err := f.Login(t.Context(), Login{Email: "ann@example.org", Password: password}, here())
		f.wantWait("the flood's own address", err, hashRetryAfter)
		signedIn := make(chan error, 1)
		go func() {
			_, err := f.Login(t.Context(), Login{Email: "ann@example.org", Password: password},
				elsewhere())
			signedIn <- err
		}()
		f.waitForWaiters(maxHashWaitersPerAddress + 1)
		release()
		f.do("another address", <-signedIn)
		for range maxHashWaitersPerAddress {
			f.wantProblem("the flood", <-answers, "INVALID_CREDENTIALS password")
		}
	})
}

// If many addresses wait, the error is not RATE_LIMITED.
func TestAFullServerIsUnavailable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		defer f.refuseHashing()()
		_, err := f.Login(t.Context(), Login{Email: "ann@example.org", Password: password}, here())
		if e, ok := errors.AsType[*errs.Error](err); !ok || e.Code != errs.Unavailable ||
			e.RetryAfter != hashRetryAfter {
			t.Errorf("got %v", err)
		}
	})
}
