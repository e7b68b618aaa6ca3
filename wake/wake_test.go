package wake_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	"parley/wake"
)

func TestNotificationsBeforeTheReceiverWakesAreOne(t *testing.T) {
	t.Parallel()
	n := wake.NewNotifier()
	for range 3 {
		n.Notify()
	}
	<-n.C()
	select {
	case <-n.C():
		t.Error("there is a second notification")
	default:
	}
}

func TestWorkThatIsNotifiedOfIsNeverMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := wake.NewNotifier()
		var work, done atomic.Int64
		for range 100 {
			go func() {
				work.Add(1)
				n.Notify()
			}()
		}
		go func() {
			for done.Load() < 100 {
				<-n.C()
				done.Add(work.Swap(0))
			}
		}()
		synctest.Wait()
		if done.Load() != 100 {
			t.Errorf("%d of 100 pieces of work were done", done.Load())
		}
	})
}
