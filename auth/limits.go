package auth

import (
	"context"
	"encoding/hex"
	"net/netip"
	"time"

	"github.com/uptrace/bun"

	"parley/ratelimit"
	"parley/store"
)

// limit is a rate, and its name in the header field RateLimit; without a name it is not shown
// there. What is counted by account has none: there somebody else's attempts would show.
type limit struct {
	ratelimit.Rate
	policy string
}

// How often somebody may try. By address the rates are generous, because many people may share one.
// Signing in to an account counts one address at a time, so that a stranger elsewhere cannot keep
// anybody out. Mails to an account are counted by account alone, and beyond the limit are left out
// in silence where a stranger can ask for them.
//
//nolint:gochecknoglobals // a constant table
var (
	registerByAddress = limit{ratelimit.Rate{Burst: 300, Every: 12 * time.Second}, "register"}
	loginByAddress    = limit{ratelimit.Rate{Burst: 100, Every: time.Second}, "login"}
	loginByAccount    = limit{ratelimit.Rate{Burst: 20, Every: 10 * time.Second}, ""}
	refreshByAddress  = limit{ratelimit.Rate{Burst: 300, Every: 500 * time.Millisecond}, "refresh"}
	refreshBySession  = limit{ratelimit.Rate{Burst: 20, Every: 3 * time.Second}, "refresh-session"}
	mailByAddress     = limit{ratelimit.Rate{Burst: 20, Every: time.Minute}, "mail"}
	mailByAccount     = limit{ratelimit.Rate{Burst: 5, Every: 10 * time.Minute}, ""}
	// redeeming one-time tokens
	tokenByAddress    = limit{ratelimit.Rate{Burst: 30, Every: 5 * time.Second}, "token"}
	passwordBySession = limit{ratelimit.Rate{Burst: 10, Every: 30 * time.Second}, "password"}
	// By session: a thief who has one must not use up what the owner needs to end it.
	revokeBySession = limit{ratelimit.Rate{Burst: 100, Every: 3 * time.Second}, "sessions"}
)

// attempts is what is remembered under a key.
type attempts struct {
	// rates: when the bucket is full again; failures: until when the next try has to wait
	At    time.Time
	Count int // failures in a row
}

// limitStore keeps attempts. update changes one entry at a time, or the zero value if there is
// none. No other caller sees it half changed.
type limitStore interface {
	update(ctx context.Context, key string, change func(*attempts)) error
}

// allow takes one attempt out of the key's bucket, or is RATE_LIMITED.
func (s *Service) allow(ctx context.Context, key string, l limit) error {
	if s.limits == nil {
		return nil
	}
	var wait time.Duration
	var full time.Time
	now := s.db.Now()
	err := s.limits.update(ctx, hashed(key), func(a *attempts) {
		wait = l.Take(&a.At, now, 1)
		full = a.At
	})
	if err != nil {
		return err
	}
	if l.policy != "" {
		ratelimit.Report(ctx, l.policy, l.Rate, full, now, wait)
	}
	return tooFast(wait)
}

func tooFast(wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	return ratelimit.TooFast(wait, "Too many attempts. Try again later.")
}

const (
	freeFailures    = 3
	longestBackoff  = 15 * time.Minute
	failuresForgive = time.Hour // after the lockout; then counting begins again
)

// checkLockout is RATE_LIMITED while the lockout after failures under the key lasts.
func (s *Service) checkLockout(ctx context.Context, key string) error {
	if s.limits == nil {
		return nil
	}
	var wait time.Duration
	now := s.db.Now()
	err := s.limits.update(ctx, hashed(key), func(a *attempts) { wait = a.At.Sub(now) })
	if err != nil {
		return err
	}
	return tooFast(wait)
}

// failed counts a failure. After the first few, each doubles the lockout (exponential backoff).
func (s *Service) failed(ctx context.Context, key string) error {
	if s.limits == nil {
		return nil
	}
	now := s.db.Now()
	return s.limits.update(ctx, hashed(key), func(a *attempts) {
		if now.Sub(a.At) > failuresForgive {
			a.Count = 0
		}
		a.Count++
		a.At = now
		if extra := a.Count - freeFailures; extra > 0 {
			a.At = now.Add(min(longestBackoff, time.Second<<min(extra, 20)))
		}
	})
}

func (s *Service) succeeded(ctx context.Context, key string) error {
	if s.limits == nil {
		return nil
	}
	return s.limits.update(ctx, hashed(key), func(a *attempts) { *a = attempts{} })
}

// hashed keeps addresses out of the table.
func hashed(key string) string { return hex.EncodeToString(hashOf([]byte(key))) }

// Network is what counts as the client's address: itself or, of IPv6, the network that one customer
// commonly gets.
func (c Client) Network() string {
	addr, err := netip.ParseAddr(c.IP)
	if err != nil {
		return "unknown"
	}
	if addr = addr.Unmap(); addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}

// inMemory is the limitStore of a node that is alone.
type inMemory struct {
	*ratelimit.Memory[string, attempts]
}

func (m inMemory) update(_ context.Context, key string, change func(*attempts)) error {
	m.Update(key, change)
	return nil
}

// inDatabase is the limitStore that several nodes share.
type inDatabase struct{ db *store.DB }

type rateLimitRow struct {
	bun.BaseModel `bun:"table:rate_limits"`

	Key   string `bun:",pk"`
	At    time.Time
	Count int
}

type limitKey string

func (d inDatabase) update(ctx context.Context, key string, change func(*attempts)) error {
	return d.db.InQueuedTx(ctx, limitKey(key), func(ctx context.Context, tx *store.Tx) error {
		row := &rateLimitRow{Key: key, At: time.Unix(0, 0).UTC()}
		// Writing the key over itself locks the row, whether it was there or not.
		if _, err := tx.NewInsert().Model(row).On("CONFLICT (key) DO UPDATE").Set("key = EXCLUDED.key").
			Returning("*").Exec(ctx); err != nil {
			return err
		}
		a := attempts{At: row.At, Count: row.Count}
		change(&a)
		if a.At.IsZero() { // which PostgreSQL could keep, but nobody could read
			a.At = time.Unix(0, 0).UTC()
		}
		row.At, row.Count = a.At, a.Count
		_, err := tx.NewUpdate().Model(row).WherePK().Exec(ctx)
		return err
	})
}
