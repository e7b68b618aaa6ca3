package wire

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// stalled is the transport of a client that reads nothing.
type stalled struct{ overflows int }

func (*stalled) wakeWriter()  {}
func (*stalled) writeOrWake() {}
func (s *stalled) overflow()  { s.overflows++ }

// mustRegister registers operations of a client that reads nothing.
func mustRegister(t *testing.T, ids ...string) (all []*Operation, client *stalled) {
	t.Helper()
	client = new(stalled)
	b := &outbox{bounds: &bounds{items: 100, bytes: 1000}, transport: client}
	for _, id := range ids {
		o, err := b.register(id, func() {}, 10)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	return all, client
}

// The results that wait for room are bounded too. Otherwise those of many operations would wait in
// memory for a client that reads nothing.
func TestResultsThatWaitForRoomAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, client := mustRegister(t, "queued", "waits", "waits too", "too much")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i, size := range []int{900, 1500, 1500, 1} {
			if client.overflows != 0 {
				t.Errorf("ended before result %d", i)
			}
			go func() { _ = all[i].Put(ctx, make([]byte, size)) }()
			synctest.Wait()
		}
		if client.overflows != 1 {
			t.Errorf("ended %d times", client.overflows)
		}
		cancel()
		synctest.Wait()
		if waiting := all[0].box.blocked; waiting != 0 {
			t.Errorf("%d bytes are still counted", waiting)
		}
	})
}

// A connection runs one large operation at a time. The others wait for it, or are cancelled.
func TestOneLargeOperationAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, _ := mustRegister(t, "large")
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
			t.Error("two run at once")
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

// The documents that the subscriptions of a connection keep in memory are bounded.
func TestRetainedDocumentsAreBounded(t *testing.T) {
	t.Parallel()
	all, _ := mustRegister(t, "a", "b", "c")
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
		t.Error("an operation that is over still counts")
	}
}

// No operation starts once a connection ends gracefully, at any moment until its end. An operation
// that started would run, and its answer would be discarded.
func TestNoOperationStartsDuringAGracefulEnd(t *testing.T) {
	t.Parallel()
	for name, answering := range map[string]bool{
		"idle":                           false,
		"while an operation is executed": true,
	} {
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
				begin("during the end", "late", errEnded)
				begin("during the end, with an id in use", "live", errEnded)
				b.end(ending{discard: openOperationItems})
			})
			if answering {
				if ends != 0 {
					t.Error("the operation is cut off")
				}
				begin("while an operation is executed", "late", errEnded)
				begin("while an operation is executed, with an id in use", "live", errEnded)
				b.markExecuted()
			}
			if ends != 1 {
				t.Errorf("it was ended %d times", ends)
			}
			begin("afterwards", "late", errEnded)
		})
	}
}
