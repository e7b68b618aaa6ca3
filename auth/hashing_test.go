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
func (w *world) takeSlots() (release func()) {
	w.t.Helper()
	release, err := w.hashing.Acquire(w.t.Context(), "the test", math.MaxInt64)
	w.do("take all slots", err)
	return release
}

// refuseHashing makes every operation that hashes a password UNAVAILABLE until allow is called.
func (w *world) refuseHashing() (allow func()) {
	w.t.Helper()
	before := w.hashing
	w.hashing = fair.NewSemaphore[string](1, 0, 1)
	release := w.takeSlots()
	return func() {
		release()
		w.hashing = before
	}
}

// waitForSlot waits for a slot in the name of a client, until stop is called.
func (w *world) waitForSlot(from Client) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	before := w.hashing.Waiting()
	go func() { ended <- w.withSlot(ctx, from, func() error { return nil }) }()
	w.waitForWaiters(before + 1)
	return func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			w.t.Errorf("waiting for a slot ended with %v", err)
		}
	}
}

// waitForWaiters returns once n callers wait for a slot.
func (w *world) waitForWaiters(n int) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); w.hashing.Waiting() < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d callers wait for a slot, want %d", w.hashing.Waiting(), n)
		}
	}
}

// Every operation that hashes a password waits in the name of its client's address.
func TestPasswordsWaitByAddress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		reset := w.askForReset("ann@example.org")
		w.hashing = fair.NewSemaphore[string](1, 10, 1)
		defer w.takeSlots()()
		stop := w.waitForSlot(here())
		defer stop()
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

// If many addresses wait, none is to blame.
func TestAFullServerIsUnavailable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		defer w.refuseHashing()()
		_, err := w.Login(t.Context(), Login{Email: "ann@example.org", Password: password}, here())
		if e, ok := errors.AsType[*errs.Error](err); !ok || e.Code != errs.Unavailable || e.RetryAfter != hashRetryAfter {
			t.Errorf("got %v", err)
		}
	})
}
