package live_test

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"testing"
	"time"

	"parley/chat"
	"parley/chat/chattest"
	"parley/feed"
	"parley/internal/race"
	"parley/model"
	"parley/store/storetest"
)

// taking is one stream of some kind: it takes n items, or as many as come before ctx ends.
type taking func(ctx context.Context, n int)

func takeFrom[T any](seq iter.Seq2[T, error], n int) {
	for _, err := range seq {
		if n--; n <= 0 || err != nil {
			return
		}
	}
}

// takings are streams of every kind, as ann has them.
func (w *fixture) takings(id model.ConversationID) map[string]taking {
	ann := w.Actor("ann")
	return map[string]taking{
		"Follow": func(ctx context.Context, n int) {
			if seq, err := w.Follow(ctx, ann, id, &feed.Place{}); err == nil {
				takeFrom(seq, n)
			}
		},
		"FollowInto, replayed": func(ctx context.Context, n int) {
			w.takeInto(ctx, id, new(int64(0)), n)
		},
		"FollowInto, live": func(ctx context.Context, n int) { w.takeInto(ctx, id, nil, n) },
		"ViewerEvents": func(ctx context.Context, n int) {
			if seq, err := w.ViewerEvents(ctx, ann, nil); err == nil {
				takeFrom(seq, n)
			}
		},
		"Inbox": func(ctx context.Context, n int) { takeFrom(w.Inbox(ctx, ann), n) },
		"Joined": func(ctx context.Context, n int) {
			ctx, cancel := context.WithCancel(ctx)
			go cancel() // no user comes or goes
			takeFrom(w.Joined(ctx, ann), n)
		},
		"Typing": func(ctx context.Context, n int) {
			if seq, err := w.Typing(ctx, ann, id); err == nil {
				takeFrom(seq, n)
			}
		},
		"ReadReceipts": func(ctx context.Context, _ int) {
			if seq, err := w.ReadReceipts(ctx, ann, id); err == nil {
				takeFrom(seq, 1)
			}
		},
		"PresenceChanges": func(ctx context.Context, _ int) {
			takeFrom(w.PresenceChanges(ctx, ann), 1)
		},
	}
}

// takeInto follows with a sink that is ended after n items.
func (w *fixture) takeInto(ctx context.Context, id model.ConversationID, after *int64, n int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	item := func() {
		if n--; n <= 0 {
			cancel()
		}
	}
	err := w.FollowInto(ctx, w.Actor("ann"), id, feed.AfterSeq(after), feed.Sink{
		Live:     func(*model.Event) bool { item(); return true },
		Replay:   func(context.Context, *model.Event) error { item(); return nil },
		CaughtUp: func(context.Context, feed.Place) error { return nil },
		End:      func(error) { cancel() },
	})
	if err == nil {
		<-ctx.Done()
	}
}

// Streams that start and end leave nothing behind, however they end, and whatever happens
// meanwhile: no feed, no follower, no topic, no watch, no goroutine. After all of them there is no
// more than after the first tenth. The test is not parallel, because it counts.
func TestStreamsLeaveNothingBehind(t *testing.T) { //nolint:paralleltest // see above
	w := mustFixtureWith(t, storetest.MustSQLite(t),
		chattest.Options{ReconcileEvery: 50 * time.Millisecond, TypingEvery: time.Microsecond},
		"ann", "ben")
	id := chattest.MustConversation(t, w.Fixture, "ann", "ben").ID
	chattest.MustConversation(t, w.Fixture, "ben", "ann")
	defer w.Connected(w.UserID("ben"))()
	stop := w.bustle(id)
	before := w.count()
	const each = 200 / race.Slowness
	cycle := func(n int) {
		for range n {
			for name, take := range w.takings(id) {
				for way := range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), chattest.Patience)
					switch way {
					case 0:
						cancel() // before it has begun
					case 1:
						go cancel() // at any moment
					}
					if take(ctx, 2); way == 2 && ctx.Err() != nil {
						t.Fatalf("%s: nothing has come", name)
					}
					cancel()
				}
			}
		}
	}
	cycle(each / 10)
	w.Eventually(func() bool { return w.count() == before })
	goroutinesBefore, heapBefore := runtime.NumGoroutine(), heap()
	cycle(each - each/10)
	stop()
	w.Eventually(func() bool { return w.count() == before })
	w.Eventually(func() bool { return runtime.NumGoroutine() <= goroutinesBefore })
	if grown := int64(heap()) - int64(heapBefore); grown > 512<<10+100*each {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
}

// bustle lets ben write and type until stop is called.
func (w *fixture) bustle(id model.ConversationID) (stop func()) {
	ctx, cancel := context.WithCancel(w.T.Context())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			<-tick.C
			if n%10 == 0 {
				_, _ = w.SendMessage(ctx, w.Actor("ben"),
					chat.SendMessage{ConversationID: id, Content: fmt.Sprint(n)})
			}
			_ = w.SetTyping(ctx, w.Actor("ben"), id, n%2 == 0)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.T.Cleanup(stop)
	return stop
}

// counts is what services keep for streams.
type counts struct {
	feed                                feed.Stats
	watches, readers                    int
	hints, memberships, signals, typing int // topics
}

func (w *fixture) count() counts {
	return counts{
		feed: w.Stats(), watches: w.PresenceWatches(), readers: w.WatchedReaders(),
		hints: len(w.Hints().Topics()), memberships: len(w.MembershipHints().Topics()),
		signals: len(w.Signals().Topics()), typing: len(w.TypingSignals().Topics()),
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // also what is in pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
