package verify

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A rate-limited request was not executed. It is sent again to the same node, after the time that
// the node demands, and does not count as repeated.
func TestRetryWaitsForRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type attempt struct {
			node int
			at   time.Duration
		}
		answers := []error{
			&refusal{code: "RATE_LIMITED", retryAfter: 10 * time.Second},
			&refusal{code: "RATE_LIMITED", retryAfter: 3 * time.Second},
			unknown("no answer"),
			nil,
		}
		var tried []attempt
		var retried []error
		start := time.Now()
		err := new(client).retry(t.Context(), 1, func(node int) error {
			tried = append(tried, attempt{node, time.Since(start)})
			return answers[len(tried)-1]
		}, func(why error) { retried = append(retried, why) })
		if err != nil || len(retried) != 1 || !errors.Is(retried[0], errUnknown) {
			t.Errorf("got %v, after %v", err, retried)
		}
		// Before the last attempt verify itself decides how long to wait.
		want := []attempt{
			{1, 0},
			{1, 10 * time.Second},
			{1, 13 * time.Second},
			{2, 14 * time.Second},
		}
		if diff := cmp.Diff(want, tried, cmp.AllowUnexported(attempt{})); diff != "" {
			t.Error(diff)
		}
	})
}
