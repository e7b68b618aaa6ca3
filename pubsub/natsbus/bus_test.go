package natsbus_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
)

func TestPublishReachesThisNodeAndTheOthers(t *testing.T) {
	t.Parallel()
	nodes := mustNodes(t, natstest.MustStart(t), 2)
	here, there := nodes[0].subscribe("a"), nodes[1].subscribe("a")
	nodes[0].bus.Publish("a", "to all")
	if got := len(here.C); got != 1 {
		t.Errorf("Publish returned with %d messages delivered on its own node", got)
	}
	nodes[0].bus.PublishLocal("a", "here alone")
	nodes[0].bus.PublishRemote("a", "there alone")
	nodes[1].want(there, "to all", "there alone")
	nodes[0].want(here, "to all", "here alone")
	nodes[1].bus.Publish("a", "back")
	nodes[0].want(here, "back") // and no message of its own came round
	nodes[1].want(there, "back")
	if got := nodes[0].bus.Topics(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("topics %v", got)
	}
}

func TestAnInterceptorDeliversForPublish(t *testing.T) {
	t.Parallel()
	nodes := mustNodes(t, natstest.MustStart(t), 2)
	here, there := nodes[0].subscribe("a"), nodes[1].subscribe("a")
	bus := nodes[0].bus
	bus.Intercept(func(topic, message string) {
		switch message {
		case "lose":
		case "double":
			bus.PublishLocal(topic, message)
			bus.PublishLocal(topic, message)
			bus.PublishRemote(topic, message)
		default:
			bus.PublishRemote(topic, message)
		}
	})
	for _, message := range []string{"lose", "double", "not here"} {
		bus.Publish("a", message)
	}
	nodes[1].want(there, "double", "not here")
	nodes[1].bus.PublishRemote("a", "of another node")
	nodes[0].want(here, "double", "double", "of another node")
	bus.Intercept(nil)
	bus.Publish("a", "lose")
	nodes[0].want(here, "lose")
	nodes[1].want(there, "lose")
}

func TestABusOfANodeAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := natsbus.NewBus(nil, "test", natsbus.Codec[string]{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := false
		go func() {
			bus.Run(ctx)
			ended = true
		}()
		var got []string
		sub := bus.Handle("a", func(message string) { got = append(got, message) })
		bus.Publish("a", "one")
		bus.PublishRemote("a", "nowhere")
		bus.PublishLocal("a", "two")
		if want := []string{"one", "two"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		sub.Close()
		if topics := bus.Topics(); len(topics) != 0 {
			t.Errorf("%v are left", topics)
		}
		synctest.Wait()
		if ended {
			t.Error("Run ended before its context")
		}
		cancel()
		synctest.Wait()
		if !ended {
			t.Error("Run did not end with its context")
		}
	})
}
