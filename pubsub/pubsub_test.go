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
	var got [3][]int
	for i, topic := range []string{"a", "a", "b"} {
		defer bus.Handle(topic, func(message int) { got[i] = append(got[i], message) }).Close()
	}
	want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, i := range want {
		bus.Publish("a", i)
	}
	bus.Publish("no subscription", 10)
	if !slices.Equal(got[0], want) || !slices.Equal(got[1], want) {
		t.Errorf("got %v", got[:2])
	}
	if got[2] != nil {
		t.Errorf("another topic got %v", got[2])
	}
}

func TestAHandlerIsNotCalledBeforeHandleNorAfterClose(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	bus.Publish("a", 1)
	var got []int
	one, other := bus.Handle("a", func(message int) { got = append(got, message) }),
		bus.Handle("a", ignore)
	bus.Publish("a", 2)
	one.Close()
	bus.Publish("a", 3)
	one.Close()
	if !slices.Equal(got, []int{2}) {
		t.Errorf("got %v", got)
	}
	if topics := bus.Topics(); !slices.Equal(topics, []string{"a"}) {
		t.Errorf("topics: %v", topics)
	}
	other.Close()
	if topics := bus.Topics(); len(topics) != 0 {
		t.Errorf("%v are left", topics)
	}
}

func TestAHandlerIsNotCalledAfterCloseWhilePublishersRace(t *testing.T) {
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
						t.Error("a message came after Close")
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
