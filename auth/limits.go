package auth

import (
	"context"
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/uptrace/bun"

	"parley/errs"
	"parley/store"
)

// rate lets burst attempts through at once, and then one in each interval.
type rate struct {
	burst int
	every time.Duration
}

// How often somebody may try. By address they are generous, because many people may share one. Signing in to an account
// counts one address at a time, so that a stranger elsewhere cannot keep anybody out; mails to an account count alone, and
// beyond that are left out in silence where a stranger can ask for them.
//
//nolint:gochecknoglobals // a constant table
var (
	registerByAddress = rate{300, 12 * time.Second}
	loginByAddress    = rate{100, time.Second}
	loginByAccount    = rate{20, 10 * time.Second}
	refreshByAddress  = rate{300, 500 * time.Millisecond}
	refreshBySession  = rate{20, 3 * time.Second}
	mailByAddress     = rate{20, time.Minute}
	mailByAccount     = rate{5, 10 * time.Minute}
	tokenByAddress    = rate{30, 5 * time.Second} // redeeming one-time tokens
	passwordBySession = rate{10, 30 * time.Second}
)

// attempts is what is remembered under a key.
type attempts struct {
	At    time.Time // rates: when the bucket is full again; failures: until when the next try has to wait
	Count int       // failures in a row
}

// limitStore keeps attempts. update changes one entry at a time, or the zero value if there is none. No other caller sees it
// half changed.
type limitStore interface {
	update(ctx context.Context, key string, change func(*attempts)) error
}

// allow takes one attempt out of the key's bucket (the generic cell rate algorithm), or is RATE_LIMITED.
func (s *Service) allow(ctx context.Context, key string, r rate) error {
	if s.limits == nil {
		return nil
	}
	var wait time.Duration
	now := s.db.Now()
	err := s.limits.update(ctx, hashed(key), func(a *attempts) {
		wait = 0
		full := a.At
		if full.Before(now) {
			full = now
		}
		full = full.Add(r.every)
		if wait = full.Sub(now) - time.Duration(r.burst)*r.every; wait <= 0 {
			a.At = full
		}
	})
	if err != nil {
		return err
	}
	return tooFast(wait)
}

func tooFast(wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	err := errs.New(errs.RateLimited, "Too many attempts. Try again later.")
	err.RetryAfter = (wait + time.Millisecond - 1).Truncate(time.Millisecond) // never too short
	return err
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

// Network is what counts as the client's address: itself or, of IPv6, the network that one customer commonly gets.
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
	mu      sync.Mutex
	entries *lru.Cache[string, attempts]
}

// rememberedKeys bounds the memory; what is pushed out was not used for longest.
const rememberedKeys = 100_000

func newInMemory() (*inMemory, error) {
	entries, err := lru.New[string, attempts](rememberedKeys)
	return &inMemory{entries: entries}, err
}

func (m *inMemory) update(_ context.Context, key string, change func(*attempts)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, _ := m.entries.Get(key)
	change(&a)
	m.entries.Add(key, a)
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
	return d.db.InTurn(ctx, limitKey(key), func(ctx context.Context, tx *store.Tx) error {
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
