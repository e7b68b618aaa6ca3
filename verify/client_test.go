package verify

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What came too fast was not executed: it is made again on the same node, when the node has said,
// and counts as no repetition.
func TestInsistWaitsAsTold(t *testing.T) {
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
		var again []error
		start := time.Now()
		err := new(client).insist(t.Context(), 1, func(node int) error {
			tried = append(tried, attempt{node, time.Since(start)})
			return answers[len(tried)-1]
		}, func(why error) { again = append(again, why) })
		if err != nil || len(again) != 1 || !errors.Is(again[0], errUnknown) {
			t.Errorf("got %v, after %v", err, again)
		}
		// Between the last two it is verify that decides how long to wait.
		want := []attempt{{1, 0}, {1, 10 * time.Second}, {1, 13 * time.Second}, {2, 14 * time.Second}}
		if diff := cmp.Diff(want, tried, cmp.AllowUnexported(attempt{})); diff != "" {
			t.Error(diff)
		}
	})
}
