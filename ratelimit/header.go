package ratelimit

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// usage is what one request over HTTP has taken out of buckets.
type usage struct {
	mu      sync.Mutex // guards what follows; the fields of a query run at the same time
	nearest quota      // to its end, of those that were reported
	retry   time.Duration
}

// quota is what is left in a bucket.
type quota struct {
	policy string
	rate   Rate
	left   int
	wait   time.Duration // after a refusal, until the request would be let through
	next   time.Duration // until one more token is there or, if some are left, until all are
}

// nearer reports whether q is nearer to its end than other: refused, or by the part that is left.
func (q quota) nearer(other quota) bool {
	return cmp.Or(cmp.Compare(other.wait, q.wait), cmp.Compare(q.part(), other.part()), cmp.Compare(other.next, q.next)) < 0
}

func (q quota) part() float64 { return float64(q.left) / float64(q.rate.Burst) }

type usageKey struct{}

// WithUsage is a context for a request whose answer is to have the header fields of WriteHeader.
func WithUsage(ctx context.Context) context.Context {
	return context.WithValue(ctx, usageKey{}, new(usage))
}

// Report notes what is left in a bucket, which is full again at full, for the answer's header
// fields; wait is 0 if it has let the request through. Whoever reports a bucket shows it to the
// client: it has to be the client's own. Rates that limit nothing are not noted.
func Report(ctx context.Context, policy string, rate Rate, full, now time.Time, wait time.Duration) {
	u, ok := ctx.Value(usageKey{}).(*usage)
	if !ok || rate == (Rate{}) {
		return
	}
	q := quota{policy: policy, rate: rate, left: rate.left(full, now), wait: max(0, wait), next: full.Sub(now)}
	switch {
	case wait > 0:
		q.next = wait
	case q.left == 0:
		q.next = rate.wait(full, now, 1)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.nearest.policy == "" || q.nearer(u.nearest) {
		u.nearest = q
	}
}

// ReportRefusal notes that the answer is a refusal, and for how long.
func ReportRefusal(ctx context.Context, wait time.Duration) {
	if u, ok := ctx.Value(usageKey{}).(*usage); ok {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.retry = max(u.retry, wait)
	}
}

// Header fields of answers.
const (
	HeaderLimit      = "RateLimit"
	HeaderPolicy     = "RateLimit-Policy"
	HeaderRetryAfter = "Retry-After"
)

// WriteHeader writes RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10) for
// the bucket that is nearest to its end among those that the request has taken from, and
// Retry-After (RFC 9110, section 10.2.3) if it was refused. Their times are whole seconds, rounded
// up. q is the burst, w the time in which an empty bucket fills, r the tokens that are left, and t
// the time until there are more: until one is back if none is left, until the request would be let
// through if it was refused, and else until the bucket is full.
func WriteHeader(ctx context.Context, h http.Header) {
	u, ok := ctx.Value(usageKey{}).(*usage)
	if !ok {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.retry > 0 {
		h.Set(HeaderRetryAfter, strconv.Itoa(seconds(u.retry)))
	}
	if q := u.nearest; q.policy != "" {
		h.Set(HeaderPolicy, fmt.Sprintf("%q;q=%d;w=%d", q.policy, q.rate.Burst, seconds(q.rate.window())))
		h.Set(HeaderLimit, fmt.Sprintf("%q;r=%d;t=%d", q.policy, q.left, seconds(q.next)))
	}
}

// seconds rounds up.
func seconds(d time.Duration) int { return int((max(0, d) + time.Second - 1) / time.Second) }
