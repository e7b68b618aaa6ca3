package pubsub_test

import (
	"sync"
	"testing"

	"go.uber.org/goleak"

	"parley/pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEverySubscriptionOfTheTopicGetsEveryMessageInOrder(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	subs := []*pubsub.Subscription[int]{bus.Subscribe("a", 10), bus.Subscribe("a", 10)}
	other := bus.Subscribe("b", 10)
	for i := range 10 {
		bus.Publish("a", i)
	}
	for _, s := range subs {
		s.Close()
		want := 0
		for got := range s.C {
			if got != want {
				t.Errorf("got %d, want %d", got, want)
			}
			want++
		}
		if want != 10 || s.Overflowed() {
			t.Errorf("%d messages, overflowed: %v", want, s.Overflowed())
		}
	}
	other.Close()
	if message, ok := <-other.C; ok {
		t.Errorf("another topic got %d", message)
	}
	if topics := bus.Topics(); len(topics) != 0 {
		t.Errorf("%v are left", topics)
	}
}

func TestAFullQueueEndsItsSubscriptionAndNoOther(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	slow, quick := bus.Subscribe("a", 2), bus.Subscribe("a", 5)
	for i := range 5 {
		bus.Publish("a", i)
	}
	got := 0
	for range slow.C {
		got++
	}
	if got != 2 || !slow.Overflowed() {
		t.Errorf("the slow one got %d, overflowed: %v", got, slow.Overflowed())
	}
	slow.Close()
	if !slow.Overflowed() {
		t.Error("closing it made it forget")
	}
	quick.Close()
	quick.Close()
	got = 0
	for range quick.C {
		got++
	}
	if got != 5 || quick.Overflowed() {
		t.Errorf("the quick one got %d, overflowed: %v", got, quick.Overflowed())
	}
}

func TestPublishingSubscribingAndClosingMayRace(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				bus.Publish("a", i)
			}
		})
		wg.Go(func() {
			for range 200 {
				s := bus.Subscribe("a", 1)
				<-s.C
				wg.Go(s.Close)
				for range s.C {
				}
			}
		})
	}
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	feeding.Go(func() { // so that no subscriber waits for a message that never comes
		for {
			select {
			case <-stop:
				return
			default:
				bus.Publish("a", 0)
			}
		}
	})
	wg.Wait()
	close(stop)
	feeding.Wait()
	if topics := bus.Topics(); len(topics) != 0 {
		t.Errorf("%v are left", topics)
	}
}
