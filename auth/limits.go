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

// limit is a rate, and its name in the header field RateLimit. A limit without a name is not shown
// there: those by account have none, because they would reveal other clients' attempts.
type limit struct {
	ratelimit.Rate
	policy string
}

// The rates of attempts. Those by address are generous, because many people may share one. Attempts
// to sign in to an account are counted for each address, so that no client can lock out the owner
// from elsewhere. Mails to an account are counted by account alone. If an anonymous client can
// request them, those beyond the limit are omitted without an error.
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

// attempts is the entry of a key: a bucket, or failures.
type attempts struct {
	At    time.Time // when the bucket is full again; when the lockout ends
	Count int       // failures in a row; 0 for a bucket
}

// limitStore stores attempts by key. update passes the entry of a key to change, or the zero value
// if there is none, and stores the result. It is atomic.
type limitStore interface {
	update(ctx context.Context, key string, change func(*attempts)) error
}

// allow takes one attempt out of the key's bucket. The error is RATE_LIMITED if the bucket is
// empty.
func (s *Service) allow(ctx context.Context, key string, l limit) error {
	if s.limits == nil {
		return nil
	}
	var wait time.Duration
	var full time.Time
	now := s.db.Now()
	err := s.limits.update(ctx, hashedKey(key), func(a *attempts) {
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
	freeFailures        = 3
	longestBackoff      = 15 * time.Minute
	failuresExpireAfter = time.Hour // counted from the end of the lockout
)

// checkLockout returns RATE_LIMITED during the lockout after failures under the key.
func (s *Service) checkLockout(ctx context.Context, key string) error {
	if s.limits == nil {
		return nil
	}
	var wait time.Duration
	now := s.db.Now()
	err := s.limits.update(ctx, hashedKey(key), func(a *attempts) { wait = a.At.Sub(now) })
	if err != nil {
		return err
	}
	return tooFast(wait)
}

// countFailure counts a failure. After the first few, each one doubles the lockout (exponential
// backoff).
func (s *Service) countFailure(ctx context.Context, key string) error {
	if s.limits == nil {
		return nil
	}
	now := s.db.Now()
	return s.limits.update(ctx, hashedKey(key), func(a *attempts) {
		if now.Sub(a.At) > failuresExpireAfter {
			a.Count = 0
		}
		a.Count++
		a.At = now
		if extra := a.Count - freeFailures; extra > 0 {
			a.At = now.Add(min(longestBackoff, time.Second<<min(extra, 20)))
		}
	})
}

func (s *Service) clearFailures(ctx context.Context, key string) error {
	if s.limits == nil {
		return nil
	}
	return s.limits.update(ctx, hashedKey(key), func(a *attempts) { *a = attempts{} })
}

// hashedKey returns the key as it is stored: hashed, because it contains addresses.
func hashedKey(key string) string { return hex.EncodeToString(hashOf([]byte(key))) }

// Network returns the address under which the client is counted: its own or, for IPv6, the /64
// network, because one customer commonly gets a whole one.
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

// memoryLimits is the limitStore of a single node.
type memoryLimits struct {
	*ratelimit.Memory[string, attempts]
}

func (m memoryLimits) update(_ context.Context, key string, change func(*attempts)) error {
	m.Update(key, change)
	return nil
}

// databaseLimits is the limitStore that several nodes share.
type databaseLimits struct{ db *store.DB }

type rateLimitRow struct {
	bun.BaseModel `bun:"table:rate_limits"`

	Key   string `bun:",pk"`
	At    time.Time
	Count int
}

// limitKey is the key of a queue of updates.
type limitKey string

func (d databaseLimits) update(ctx context.Context, key string, change func(*attempts)) error {
	return d.db.InQueuedTx(ctx, limitKey(key), func(ctx context.Context, tx *store.Tx) error {
		row := &rateLimitRow{Key: key, At: noTime()}
		// Setting the key to itself locks the row, whether it existed or not.
		if _, err := tx.NewInsert().Model(row).On("CONFLICT (key) DO UPDATE").
			Set("key = EXCLUDED.key").
			Returning("?Columns").Exec(ctx); err != nil {
			return err
		}
		a := attempts{At: row.At, Count: row.Count}
		change(&a)
		if a.At.IsZero() {
			a.At = noTime()
		}
		row.At, row.Count = a.At, a.Count
		_, err := tx.NewUpdate().Model(row).WherePK().Exec(ctx)
		return err
	})
}

// noTime stands for the zero Time in the table. Both are long past, and only that counts.
func noTime() time.Time { return time.Unix(0, 0).UTC() }
