package storetest

import (
	"sync"
	"time"
)

// Clock is a time that only the test moves, for store.Options.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock starts inside a second: a rule that cuts to seconds somewhere shows only there.
func NewClock() *Clock {
	return &Clock{now: time.Date(2026, 11, 22, 10, 15, 30, 123_456_000, time.UTC)}
}

// Now is the time that the clock shows.
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
