package storetest

import (
	"sync"
	"time"
)

// Clock is a clock that only the test moves, for store.Options.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock in the middle of a second, so that code that wrongly truncates to
// seconds fails.
func NewClock() *Clock {
	return &Clock{now: time.Date(2026, 11, 22, 10, 15, 30, 123_456_000, time.UTC)}
}

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Forward moves the clock.
func (c *Clock) Forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
