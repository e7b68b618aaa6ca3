package wire

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// stalled is a connection whose client takes nothing.
type stalled struct{ overflows int }

func (*stalled) wakeWriter()  {}
func (*stalled) writeOrWake() {}
func (s *stalled) overflow()  { s.overflows++ }

// mustBegin begins operations on a connection whose client takes nothing.
func mustBegin(t *testing.T, ids ...string) (all []*Operation, below *stalled) {
	t.Helper()
	below = new(stalled)
	b := &outbox{bounds: &bounds{items: 100, bytes: 1000}, transport: below}
	for _, id := range ids {
		o, err := b.register(id, func() {}, 10)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	return all, below
}

// TestWhatWaitsForRoomIsBounded: results of many operations would otherwise wait in memory for a
// client that takes nothing.
func TestWhatWaitsForRoomIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, below := mustBegin(t, "queued", "waits", "waits too", "too much")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i, size := range []int{900, 1500, 1500, 1} {
			if below.overflows != 0 {
				t.Errorf("ended before result %d", i)
			}
			go func() { _ = all[i].Put(ctx, make([]byte, size)) }()
			synctest.Wait()
		}
		if below.overflows != 1 {
			t.Errorf("ended %d times", below.overflows)
		}
		cancel()
		synctest.Wait()
		if waiting := all[0].box.blocked; waiting != 0 {
			t.Errorf("%d bytes are counted on", waiting)
		}
	})
}

// TestOneLargeOperationAtATime runs on a connection; others wait, as long as somebody waits for
// them.
func TestOneLargeOperationAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, _ := mustBegin(t, "large")
		b := all[0].box
		end, err := b.acquireLarge(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := make(chan error, 1)
		go func() {
			end, err := b.acquireLarge(t.Context())
			began <- err
			if err == nil {
				end()
			}
		}()
		synctest.Wait()
		if len(began) > 0 {
			t.Error("two at once")
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.acquireLarge(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		end()
		if err := <-began; err != nil {
			t.Error(err)
		}
	})
}

// TestWhatSubscriptionsRetainIsBounded: each keeps its document as long as it lives.
func TestWhatSubscriptionsRetainIsBounded(t *testing.T) {
	t.Parallel()
	all, _ := mustBegin(t, "a", "b", "c")
	for i, step := range []struct {
		bytes int
		want  bool
	}{{maxRetained - 10, true}, {11, false}, {10, true}} {
		if got := all[i].retain(step.bytes); got != step.want {
			t.Errorf("%d: %v", i, got)
		}
	}
	all[0].Complete()
	if !all[1].retain(maxRetained - 10) {
		t.Error("what is over counts on")
	}
}

// TestNothingBeginsOnceLeaving asks for an operation at each moment of a leave, and above all while
// the end is on its way and has not come: what begins there would run, and its answer be thrown
// away.
func TestNothingBeginsOnceLeaving(t *testing.T) {
	t.Parallel()
	for name, answering := range map[string]bool{"idle": false, "after what is being answered": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &outbox{bounds: &bounds{items: 10, bytes: 1 << 20}}
			begin := func(when, id string, want error) {
				t.Helper()
				o, err := b.register(id, func() {}, 3)
				if !errors.Is(err, want) || (o == nil) != (err != nil) {
					t.Errorf("%s: %v, %v, want %v", when, o, err, want)
				}
			}
			begin("before", "live", nil)
			b.markExecuted()
			begin("before, with its id", "live", errInUse)
			if answering {
				begin("before", "answered", nil)
			}
			ends := 0
			b.whenIdle(func() {
				ends++
				begin("on the way", "late", errEnded)
				begin("on the way, with an id in use", "live", errEnded)
				b.end(ending{discard: openOperationItems})
			})
			if answering {
				if ends != 0 {
					t.Error("what is being answered is cut off")
				}
				begin("while something is answered", "late", errEnded)
				begin("while something is answered, with an id in use", "live", errEnded)
				b.markExecuted()
			}
			if ends != 1 {
				t.Errorf("it was ended %d times", ends)
			}
			begin("afterwards", "late", errEnded)
		})
	}
}
