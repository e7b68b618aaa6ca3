package auth

import (
	"context"
	"errors"
	"runtime"
	"time"

	"parley/errs"
	"parley/fair"
)

// How many callers may wait for a slot to hash a password in. maxHashWaiters is about a second's
// work of two cores: beyond it, a client is asked to try again instead of waiting longer. One
// address has half of the places at most: many people may share it, and others still find places
// without dropping anyone.
const (
	maxHashWaiters           = 100
	maxHashWaitersPerAddress = 50
)

// hashRetryAfter is when a refused caller should try again: about the time in which a full queue is
// served.
const hashRetryAfter = 2 * time.Second

// newHashing returns the semaphore that limits how many passwords are hashed at once, to one for
// each core. Addresses take turns, so one that sends many requests waits behind itself.
func newHashing() *fair.Semaphore[string] {
	return fair.NewSemaphore[string](int64(runtime.GOMAXPROCS(0)), maxHashWaiters,
		maxHashWaitersPerAddress)
}

// withSlot runs fn, which hashes a password, while it has a slot of the semaphore. The error is
// RATE_LIMITED if too many requests from the client's address wait, and UNAVAILABLE if too many
// wait from many addresses.
func (s *Service) withSlot(ctx context.Context, from Client, fn func() error) error {
	release, err := s.hashing.Acquire(ctx, from.Network(), 1)
	switch {
	case errors.Is(err, fair.ErrKeyFull):
		return hashingRefused(errs.RateLimited,
			"Too many sign-ins from your network at once. Try again.")
	case errors.Is(err, fair.ErrFull):
		return hashingRefused(errs.Unavailable,
			"Too many people are signing in just now. Try again.")
	case err != nil:
		return err
	}
	defer release()
	return fn()
}

func hashingRefused(code errs.Code, message string) error {
	err := errs.New(code, "%s", message)
	err.RetryAfter = hashRetryAfter
	return err
}
