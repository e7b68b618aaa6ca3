package wire

import (
	"errors"
	"testing"
)

// TestNothingBeginsOnceLeaving asks for an operation at each moment of a leave, and above all while the end is on its way and has
// not come: what begins there would run, and its answer be thrown away.
func TestNothingBeginsOnceLeaving(t *testing.T) {
	t.Parallel()
	for name, answering := range map[string]bool{"idle": false, "after what is being answered": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &outbox{bounds: &bounds{items: 10, bytes: 1 << 20}}
			begin := func(when, id string, want error) {
				t.Helper()
				o, err := b.begin(id, func() {}, 3)
				if !errors.Is(err, want) || (o == nil) != (err != nil) {
					t.Errorf("%s: %v, %v, want %v", when, o, err, want)
				}
			}
			begin("before", "live", nil)
			b.executed()
			begin("before, with its id", "live", errInUse)
			if answering {
				begin("before", "answered", nil)
			}
			ends := 0
			b.leave(func() {
				ends++
				begin("on the way", "late", errEnded)
				begin("on the way, with an id in use", "live", errEnded)
				b.endAnswered(nil)
			})
			if answering {
				if ends != 0 {
					t.Error("what is being answered is cut off")
				}
				begin("while something is answered", "late", errEnded)
				begin("while something is answered, with an id in use", "live", errEnded)
				b.executed()
			}
			if ends != 1 {
				t.Errorf("it was ended %d times", ends)
			}
			begin("afterwards", "late", errEnded)
		})
	}
}
