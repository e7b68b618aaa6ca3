package pubsub_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"parley/pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ignore(int) {}

func TestEverySubscriptionOfTheTopicGetsEveryMessageInOrder(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	var heard [3][]int
	for i, topic := range []string{"a", "a", "b"} {
		defer bus.Handle(topic, func(message int) { heard[i] = append(heard[i], message) }).Close()
	}
	want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, i := range want {
		bus.Publish("a", i)
	}
	bus.Publish("nobody", 10)
	if !slices.Equal(heard[0], want) || !slices.Equal(heard[1], want) {
		t.Errorf("got %v", heard[:2])
	}
	if heard[2] != nil {
		t.Errorf("another topic got %v", heard[2])
	}
}

func TestNothingIsHeardBeforeHandleAndAfterClose(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	bus.Publish("a", 1)
	var heard []int
	one, other := bus.Handle("a", func(message int) { heard = append(heard, message) }), bus.Handle("a", ignore)
	bus.Publish("a", 2)
	one.Close()
	bus.Publish("a", 3)
	one.Close()
	if !slices.Equal(heard, []int{2}) {
		t.Errorf("got %v", heard)
	}
	if topics := bus.Topics(); !slices.Equal(topics, []string{"a"}) {
		t.Errorf("topics: %v", topics)
	}
	other.Close()
	if topics := bus.Topics(); len(topics) != 0 {
		t.Errorf("%v are left", topics)
	}
}

// TestPublishingSubscribingAndClosingMayRace makes sure that there are no calls any more once Close
// has returned.
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
				var closed atomic.Bool
				s := bus.Handle("a", func(int) {
					if closed.Load() {
						t.Error("a message came after the end")
					}
				})
				bus.Publish("a", 0)
				wg.Go(s.Close)
				s.Close()
				closed.Store(true)
			}
		})
	}
	wg.Wait()
	if topics := bus.Topics(); len(topics) != 0 {
		t.Errorf("%v are left", topics)
	}
}
