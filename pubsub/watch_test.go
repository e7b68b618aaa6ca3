package pubsub_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/pubsub"
)

// watched writes down what a watcher hears. The bus calls it with its lock held, which is what
// guards it here as well.
type watched struct{ heard []string }

func (w *watched) hear(topic string, here bool) {
	w.heard = append(w.heard, fmt.Sprintf("%s %v", topic, here))
}

func TestAWatcherHearsOfFirstAndLast(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	early := bus.Handle("early", ignore)
	var w watched
	bus.Watch(w.hear)
	first, second := bus.Handle("a", ignore), bus.Handle("a", ignore)
	first.Close()
	first.Close()
	third := bus.Handle("a", ignore)
	second.Close()
	third.Close()
	bus.Publish("nobody", 1)
	bus.Handle("a", ignore).Close()
	early.Close()
	bus.Watch(nil)
	bus.Handle("late", ignore).Close()
	want := []string{"early true", "a true", "a false", "a true", "a false", "early false"}
	if diff := cmp.Diff(want, w.heard); diff != "" {
		t.Errorf("it heard (-want +got):\n%s", diff)
	}
}

// TestAWatcherHearsInOrder has the last leave while the first comes, again and again, on two
// topics. What the watcher hears of a topic has to alternate, and to end as the bus does: a watcher
// who heard "gone" last, of a topic that is there, would cut its followers off for good.
func TestAWatcherHearsInOrder(t *testing.T) {
	t.Parallel()
	bus := pubsub.New[int]()
	here := map[string]bool{}
	var wrong []string
	bus.Watch(func(topic string, is bool) {
		if here[topic] == is {
			wrong = append(wrong, fmt.Sprintf("%s is %v twice", topic, is))
		}
		here[topic] = is
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
		if len(wrong) > 0 || here["a"] != want || here["b"] != want {
			t.Errorf("it thinks that %v, and heard %v", here, wrong)
		}
	}
	check(true)
	bus.Watch(func(topic string, is bool) { here[topic] = is })
	for _, s := range stay {
		s.Close()
	}
	check(false)
}
