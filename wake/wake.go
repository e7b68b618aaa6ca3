// Package wake wakes a goroutine that waits for work.
//
// A Notifier remembers at most one notification. Notify never blocks, and notifications that come
// before the goroutine has woken are one: the goroutine finds out by itself what there is to do.
package wake

// Notifier wakes one goroutine at a time. It may be copied, and used by any number of goroutines.
type Notifier struct{ c chan struct{} }

// NewNotifier returns a Notifier without a notification.
func NewNotifier() Notifier { return Notifier{make(chan struct{}, 1)} }

// Notify wakes the goroutine that receives from C, or the next one that does.
func (n Notifier) Notify() {
	select {
	case n.c <- struct{}{}:
	default: // a notification waits already, and its receiver sees this work too
	}
}

// C delivers the notification. A receiver looks for work after it has received, never before.
func (n Notifier) C() <-chan struct{} { return n.c }
