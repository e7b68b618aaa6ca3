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

// usage is what one HTTP request took out of buckets.
type usage struct {
	mu      sync.Mutex // guards what follows, because the fields of a query run at the same time
	nearest quota      // the one of the reported ones that is nearest to its end
	retry   time.Duration
}

// quota is the state of a bucket.
type quota struct {
	policy string
	rate   Rate
	left   int
	wait   time.Duration // after a refusal: until the request would be let through
	next   time.Duration // until the next token is there or, if some are left, until all are
}

// nearer reports whether q is nearer to its end than other: a refused request first, then the
// bucket of which a smaller part is left.
func (q quota) nearer(other quota) bool {
	return cmp.Or(cmp.Compare(other.wait, q.wait), cmp.Compare(q.part(), other.part()),
		cmp.Compare(other.next, q.next)) < 0
}

func (q quota) part() float64 { return float64(q.left) / float64(q.rate.Burst) }

type usageKey struct{}

// WithUsage returns a context that collects reports, for a request whose answer gets the header
// fields of WriteHeader.
func WithUsage(ctx context.Context) context.Context {
	return context.WithValue(ctx, usageKey{}, new(usage))
}

// Report records the state of a bucket for the header fields of the answer. The bucket is full
// again at full; wait is 0 if the request was let through. The client sees the state, so the bucket
// must be the client's own. A Rate that limits nothing is not recorded.
func Report(
	ctx context.Context, policy string, rate Rate, full, now time.Time, wait time.Duration,
) {
	u, ok := ctx.Value(usageKey{}).(*usage)
	if !ok || rate == (Rate{}) {
		return
	}
	q := quota{
		policy: policy, rate: rate, left: rate.left(full, now), wait: max(0, wait),
		next: full.Sub(now),
	}
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

// ReportRefusal records that the request was refused, and for how long.
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
// the bucket that is nearest to its end, of those that were reported, and Retry-After (RFC 9110,
// section 10.2.3) if the request was refused. Times are whole seconds, rounded up. q is the burst,
// w the time in which an empty bucket fills, and r the number of tokens that are left. t is the
// time until the request would be let through if it was refused, until the next token if none is
// left, and until the bucket is full otherwise.
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
		h.Set(HeaderPolicy, fmt.Sprintf("%q;q=%d;w=%d", q.policy, q.rate.Burst,
			seconds(q.rate.window())))
		h.Set(HeaderLimit, fmt.Sprintf("%q;r=%d;t=%d", q.policy, q.left, seconds(q.next)))
	}
}

// seconds rounds up.
func seconds(d time.Duration) int { return int((max(0, d) + time.Second - 1) / time.Second) }
