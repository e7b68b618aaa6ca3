package feed_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"parley/chat"
	"parley/chat/chattest"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// The invariant of Follow: whatever happens to hints, and whenever and wherever a follower begins,
// it gets exactly the stored events after its start, each once, in order of seq.
func TestFollowersReceiveWhatIsStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{ReconcileEvery: chattest.ReconcileSoon}, "ann",
			"ben", "cleo")
		var buses sync.Map // by topic
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			if c, ok := buses.Load(topic); ok {
				c.(*faultyBus).publish(h)
			}
		})
		rapid.Check(t, func(rt *rapid.T) {
			plan := drawFollowPlan(rt)
			c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cleo")
			topic := feed.Topic(c.ID)
			bus := &faultyBus{
				deliveries: plan.deliveries,
				deliver:    func(h feed.Hint) { w.Hints().PublishLocal(topic, h) },
			}
			buses.Store(topic, bus)
			plan.check(t, rt, w, c.ID, bus)
		})
	})
}

// followPlan is drawn before anything starts, because rapid serves one goroutine.
type followPlan struct {
	senders, each int
	deliveries    []chattest.Delivery
	flush         bool // delayed hints arrive at the end
	followers     []followerPlan
}

type followerPlan struct {
	startAt int // how many messages have been sent before it begins
	from    int // how far into what is stored then, in percent; 101 means from now on
	// behind is how many more messages have to be sent before it takes the next event.
	behind int
}

func drawFollowPlan(rt *rapid.T) followPlan {
	plan := followPlan{
		senders:    rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(rt, "senders"),
		each:       rapid.SampledFrom([]int{1, 5, 15}).Draw(rt, "messages each"),
		deliveries: chattest.DrawDeliveries(rt, 40),
		flush:      rapid.Bool().Draw(rt, "flush"),
	}
	plan.followers = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) followerPlan {
		return followerPlan{
			startAt: rapid.IntRange(0, plan.total()).Draw(rt, "start at"),
			from:    rapid.IntRange(0, 101).Draw(rt, "from percent"),
			behind:  rapid.SampledFrom([]int{0, 0, 1, 10, 1000}).Draw(rt, "behind"),
		}
	}), 1, 6).Draw(rt, "followers")
	return plan
}

func (plan followPlan) total() int { return plan.senders * plan.each }

// faultyBus loses, doubles, delays and reorders hints.
type faultyBus struct {
	deliveries []chattest.Delivery
	deliver    func(feed.Hint)

	mu   sync.Mutex
	held []heldHint
}

type heldHint struct {
	feed.Hint
	left int // hints that go first
}

func (c *faultyBus) publish(h feed.Hint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.deliveries[int(h.Seq)%len(c.deliveries)]
	switch f.Kind {
	case "lost":
		return
	case "doubled":
		c.held = append(c.held, heldHint{h, f.Delay * 2})
	case "bare":
		h.Events = nil
	}
	c.held = append(c.held, heldHint{h, f.Delay})
	c.release(func(h heldHint) bool { return h.left <= 0 })
	for i := range c.held {
		c.held[i].left--
	}
}

// release delivers the due hints, the newest first.
func (c *faultyBus) release(due func(heldHint) bool) {
	for _, h := range slices.Backward(c.held) {
		if due(h) {
			c.deliver(h.Hint)
		}
	}
	c.held = slices.DeleteFunc(c.held, due)
}

func (c *faultyBus) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release(func(heldHint) bool { return true })
}

func (plan followPlan) check(
	t *testing.T, rt *rapid.T, w *fixture, id model.ConversationID, bus *faultyBus,
) {
	ctx, cancel := context.WithTimeout(t.Context(), chattest.Patience)
	defer cancel()
	sent := chattest.NewProgress(plan.total())
	var senders, starting, following sync.WaitGroup
	failed := make([]error, plan.senders)
	runs := make([]followerRun, len(plan.followers))
	for i, p := range plan.followers {
		starting.Add(1)
		following.Go(func() {
			runs[i] = p.run(ctx, w, id, sent, int64(plan.total())+2,
				starting.Done)
		})
	}
	for i := range plan.senders {
		author := w.Actor([]string{"ann", "ben", "cleo"}[i%3])
		senders.Go(func() {
			for n := range plan.each {
				_, err := w.SendMessage(ctx, author,
					chat.SendMessage{ConversationID: id, Content: fmt.Sprint(i, n)})
				failed[i] = errors.Join(failed[i], err)
				sent.Step()
			}
		})
	}
	senders.Wait()
	starting.Wait()
	if plan.flush {
		bus.flush()
	}
	// The last message shows that no other event comes between the others and it.
	_, err := w.SendMessage(ctx, w.Actor("ann"),
		chat.SendMessage{ConversationID: id, Content: "the last"})
	following.Wait()
	if err := errors.Join(append(failed, err)...); err != nil {
		rt.Fatal(err)
	}
	stored := w.Stored(id)
	for i, run := range runs {
		if err := run.check(stored); err != nil {
			rt.Errorf("follower %d, %+v: %v", i, plan.followers[i], err)
		}
	}
}

// followerRun is the result of one follower.
type followerRun struct {
	earliest, latest int64 // bounds of the seq after which it started
	got              []*model.Event
	err              error
}

func (p followerPlan) run(
	ctx context.Context, w *fixture, id model.ConversationID, sent *chattest.Progress, last int64,
	started func(),
) (run followerRun) {
	sent.Wait(p.startAt)
	actor := w.Actors["cleo"]
	run.earliest, _, run.err = w.Bounds(ctx, actor, id)
	var after *int64
	if p.from <= 100 {
		after = new(run.earliest * int64(p.from) / 100)
	}
	events, err := w.Follow(ctx, actor, id, feed.AfterSeq(after))
	run.err = errors.Join(run.err, err)
	run.latest, _, err = w.Bounds(ctx, actor, id)
	run.err = errors.Join(run.err, err)
	started()
	if after != nil {
		run.earliest, run.latest = *after, *after
	}
	if run.err != nil {
		return run
	}
	for e, err := range events {
		if err != nil {
			run.err = err
			return run
		}
		run.got = append(run.got, e)
		if e.Seq >= last {
			return run
		}
		if p.behind > 0 {
			sent.Wait(int(e.Seq) + p.behind)
		}
	}
	return run
}

func (r followerRun) check(stored []*model.Event) error {
	var got []int64
	for _, e := range r.got {
		got = append(got, e.Seq)
	}
	if r.err != nil {
		return fmt.Errorf("got seqs %d after %d to %d, and then: %w", got, r.earliest, r.latest,
			r.err)
	}
	start := got[0] - 1
	if start < r.earliest || start > r.latest {
		return fmt.Errorf("began after %d, not after %d to %d", start, r.earliest, r.latest)
	}
	if diff := cmp.Diff(stored[start:], r.got, sameData(), chattest.AsStored); diff != "" {
		return fmt.Errorf("got seqs %d after %d; events (-stored +got):\n%s", got, start, diff)
	}
	return nil
}
