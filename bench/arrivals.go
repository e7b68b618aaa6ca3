package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// arrivals lets one goroutine wait for the deliveries of many followers. A nil one expects nothing.
type arrivals struct {
	missing atomic.Int64
	all     chan struct{} // holds one value after the last expected delivery
}

func newArrivals() *arrivals { return &arrivals{all: make(chan struct{}, 1)} }

func (a *arrivals) expect(n int) {
	if a == nil {
		return
	}
	select {
	case <-a.all:
	default:
	}
	a.missing.Store(int64(n))
}

func (a *arrivals) arrived() {
	if a.missing.Add(-1) == 0 {
		select {
		case a.all <- struct{}{}:
		default:
		}
	}
}

// timeout is how long a delivery may take before it counts as lost. It measures nothing.
const timeout = 30 * time.Second

func (a *arrivals) wait(ctx context.Context) error {
	if a == nil {
		return nil
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case <-a.all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-late.C:
		return fmt.Errorf("%w: %d deliveries were not made in %v", errPromise, a.missing.Load(),
			timeout)
	}
}
