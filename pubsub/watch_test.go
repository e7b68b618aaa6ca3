package pubsub_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/pubsub"
)

// recorder records the calls of a watcher. The bus's lock guards it.
type recorder struct{ calls []string }

func (r *recorder) watch(topic string, subscribed bool) {
	r.calls = append(r.calls, fmt.Sprintf("%s %v", topic, subscribed))
}

func TestAWatcherIsCalledForFirstAndLastSubscriptions(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	early := bus.Handle("early", ignore)
	var r recorder
	bus.Watch(r.watch)
	first, second := bus.Handle("a", ignore), bus.Handle("a", ignore)
	first.Close()
	first.Close()
	third := bus.Handle("a", ignore)
	second.Close()
	third.Close()
	bus.Publish("no subscription", 1)
	bus.Handle("a", ignore).Close()
	early.Close()
	bus.Watch(nil)
	bus.Handle("late", ignore).Close()
	want := []string{"early true", "a true", "a false", "a true", "a false", "early false"}
	if diff := cmp.Diff(want, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// Topics get their first subscription and lose their last one at the same time. The watcher's calls
// for a topic must alternate, and the last one must be true of the bus. If it said "not subscribed"
// of a topic that is subscribed to, other nodes' messages would never arrive there.
func TestAWatcherIsCalledInOrder(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	subscribed := map[string]bool{}
	var wrong []string
	bus.Watch(func(topic string, is bool) {
		if subscribed[topic] == is {
			wrong = append(wrong, fmt.Sprintf("%s is %v twice", topic, is))
		}
		subscribed[topic] = is
	})
	var wg sync.WaitGroup
	stay := make([]*pubsub.Subscription[int], 4)
	for i := range stay {
		topic := []string{"a", "b"}[i%2]
		wg.Go(func() {
			for range 500 {
				s := bus.Handle(topic, ignore)
				bus.Publish(topic, i)
				s.Close()
			}
			stay[i] = bus.Handle(topic, ignore)
		})
	}
	wg.Wait()
	check := func(want bool) {
		bus.Watch(nil)
		if len(wrong) > 0 || subscribed["a"] != want || subscribed["b"] != want {
			t.Errorf("the watcher has %v, and was called wrongly: %v", subscribed, wrong)
		}
	}
	check(true)
	bus.Watch(func(topic string, is bool) { subscribed[topic] = is })
	for _, s := range stay {
		s.Close()
	}
	check(false)
}
