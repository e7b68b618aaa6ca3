// Package ratelimit has token buckets, their state in memory, and the header fields that report
// them to clients. auth limits anonymous clients and sessions with it, and auth and chat limit
// accounts.
//
// # Concurrency
//
// All of it may be used by any number of goroutines, and it starts none. A lock is held for one
// change in memory.
package ratelimit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"parley/errs"
)

// Rate is how fast tokens may be taken out of a bucket: Burst at once, and one more in each
// interval of the length Every. The zero Rate limits nothing.
//
// The state of a bucket is one time, when the bucket is full again. This is the generic cell rate
// algorithm (GCRA, ITU-T I.371) in its form of a virtual schedule.
type Rate struct {
	Burst int           // tokens in a full bucket
	Every time.Duration // the time in which one token is refilled
}

// maxWindow is the longest time in which a bucket fills. The state is in memory, so a longer one
// would end with the process.
const maxWindow = 24 * time.Hour

var errForm = errors.New(
	`a rate is written as 600/1m (600 at once, refilled evenly over a minute), or "off"`)

// UnmarshalText reads a rate: TOKENS/TIME, or "off". TIME is at most 24 hours.
func (r *Rate) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*r = Rate{}
		return nil
	}
	tokens, window, ok := strings.Cut(string(text), "/")
	burst, errBurst := strconv.Atoi(tokens)
	over, errOver := time.ParseDuration(window)
	if !ok || errBurst != nil || errOver != nil {
		return fmt.Errorf("%q: %w", text, errForm)
	}
	if burst < 1 || over <= 0 || over > maxWindow || int64(over) < int64(burst) {
		return fmt.Errorf(
			"%q: a rate has 1 token or more, in up to %v, and no more than one in a nanosecond",
			text, maxWindow)
	}
	*r = Rate{Burst: burst, Every: over / time.Duration(burst)}
	return nil
}

// window is the time in which an empty bucket fills.
func (r Rate) window() time.Duration { return time.Duration(r.Burst) * r.Every }

// Take takes tokens out of the bucket that is full again at *full, and returns 0. If there are too
// few, it takes none, and returns how long to wait.
//
// A caller that wants more tokens than the bucket holds waits until it is full, and then leaves a
// debt. So waiting for the returned time is always enough, and one large operation costs as much as
// many small ones.
func (r Rate) Take(full *time.Time, now time.Time, tokens int) (wait time.Duration) {
	if wait = r.wait(*full, now, tokens); wait <= 0 {
		*full = r.after(*full, now, tokens)
		return 0
	}
	return wait
}

func (r Rate) wait(full, now time.Time, tokens int) time.Duration {
	if r == (Rate{}) {
		return 0
	}
	return r.after(full, now, min(tokens, r.Burst)).Sub(now) - r.window()
}

// after is when the bucket is full again, after tokens were taken.
func (r Rate) after(full, now time.Time, tokens int) time.Time {
	if full.Before(now) {
		full = now
	}
	return full.Add(time.Duration(tokens) * r.Every)
}

// left is how many tokens are in the bucket.
func (r Rate) left(full, now time.Time) int {
	missing := (max(0, full.Sub(now)) + r.Every - 1) / r.Every
	return max(0, r.Burst-int(missing))
}

// TooFast returns an error RATE_LIMITED. The wait is rounded up to a millisecond, the unit of the
// API, so that a client that waits as long is let through.
func TooFast(wait time.Duration, format string, args ...any) *errs.Error {
	err := errs.New(errs.RateLimited, format, args...)
	err.RetryAfter = (wait + time.Millisecond - 1).Truncate(time.Millisecond)
	return err
}
