package e2e

import (
	"testing"
	"time"
)

// eventually calls isTrue until it returns true. It is for conditions that nothing reports.
func eventually(t *testing.T, what string, isTrue func() bool) {
	t.Helper()
	for begin := time.Now(); !isTrue(); {
		if time.Since(begin) > patience {
			t.Fatalf("it did not become true that %s", what)
		}
	}
}
