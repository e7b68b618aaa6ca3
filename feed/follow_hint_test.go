package feed_test

import (
	"slices"
	"sync/atomic"
	"testing"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestHintsMayComeInAnyWay(t *testing.T) {
	t.Parallel()
	const last = 6 // messages have seq 2 to 6
	whole := func(seqs ...int64) []hintPlan { return plan(true, seqs...) }
	bare := func(seqs ...int64) []hintPlan { return plan(false, seqs...) }
	tests := map[string][]hintPlan{
		"in order":                         whole(2, 3, 4, 5, 6),
		"reversed":                         whole(6, 5, 4, 3, 2),
		"shuffled":                         whole(4, 2, 6, 3, 5),
		"doubled":                          whole(2, 2, 3, 3, 4, 4, 5, 5, 6, 6),
		"all of it twice":                  whole(2, 3, 4, 5, 6, 2, 3, 4, 5, 6),
		"a gap that closes, then another":  whole(3, 2, 6),
		"old ones between":                 whole(1, 2, 1, 3, 2, 4, 1, 5, 6, 3),
		"only the last":                    whole(6),
		"the first missing":                whole(3, 4, 5, 6),
		"one missing":                      whole(2, 3, 5, 6),
		"every second missing":             whole(2, 4, 6),
		"without events":                   bare(2, 3, 4, 5, 6),
		"without events, reversed":         bare(6, 5, 4, 3, 2),
		"only the last, without event":     bare(6),
		"old without event, then the last": append(bare(1, 1), whole(6)...),
		"mixed": slices.Concat(whole(3), bare(5), whole(2), bare(6),
			whole(4)),
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		w.LoseHints()
		for name, plan := range tests {
			t.Run(name, func(t *testing.T) {
				c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
				p := w.Pull(t, "ben", c.ID, new(int64(0)))
				p.Event(1) // it listens from here on, and has read what there was
				w.SendMany("ann", c.ID, last-1)
				stored := w.Stored(c.ID)
				for _, h := range plan {
					w.Hints().PublishLocal(feed.Topic(c.ID), h.of(stored))
				}
				chattest.WantEqual(t, "events", stored[1:], p.Events(2, last), sameData())
			})
		}
	})
}

// hintPlan is a hint of an event that is not stored yet.
type hintPlan struct {
	seq   int64
	whole bool // with the event
}

func plan(whole bool, seqs ...int64) (plan []hintPlan) {
	for _, seq := range seqs {
		plan = append(plan, hintPlan{seq, whole})
	}
	return plan
}

func (p hintPlan) of(stored []*model.Event) feed.Hint {
	if !p.whole {
		return feed.Hint{Seq: p.seq}
	}
	return feed.Hint{Seq: p.seq, Events: stored[p.seq-1 : p.seq]}
}

func TestAGapTooWideToWaitFor(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		w.fill("ann", c, 3*feed.FollowQueue)
		stored := w.Stored(c.ID)
		done := make(chan struct{})
		go func() { // concurrently: the follower may see the gap, or its queue may overflow
			defer close(done)
			for _, e := range stored[2:] {
				w.Hints().PublishLocal(feed.Topic(c.ID),
					feed.Hint{Seq: e.Seq, Events: []*model.Event{e}})
			}
		}()
		chattest.WantEqual(t, "events", stored[1:], p.Events(2, c.LastSeq), sameData())
		<-done
	})
}

func TestASlowConsumerMissesNoEventAndDelaysNoSender(t *testing.T) {
	t.Parallel()
	const overflows, burst = 3, feed.FollowQueue + 6
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		got := p.Events(1, 1)
		for range overflows {
			// The consumer takes nothing: a sender that waited for it would wait for ever.
			w.SendMany("ann", c.ID, burst)
			w.Eventually(func() bool { return w.Stats().Behind > 0 }) // the queue has overflowed
			for w.Stats().Behind > 0 {
				got = append(got, p.Event(int64(len(got))+1))
			}
		}
		got = append(got, p.Events(int64(len(got))+1, 1+overflows*burst)...)
		chattest.WantEqual(t, "events", w.Stored(c.ID), got, sameData())
	})
}

func TestRunReconcilesLostHints(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{ReconcileEvery: chattest.ReconcileSoon}, "ann",
			"ben")
		w.LoseHints()
		a, b := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		ofA, ofB := w.Pull(t, "ben", a.ID, nil), w.Pull(t, "ann", b.ID, new(int64(0)))
		ofB.Event(1)
		for seq := int64(2); seq <= 6; seq++ { // each lost hint needs a round of its own
			w.Send("ann", a.ID, "to a")
			ofA.Event(seq)
		}
		w.SendMany("ben", b.ID, 5)
		ofB.Events(2, 6)
	})
}

func TestRunReconcilesLostHintsOfOtherNodes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		here := mustFixtureWith(t, db, chattest.Options{ReconcileEvery: chattest.ReconcileSoon},
			"ann", "ben")
		// a node whose hints are lost
		there := chattest.NewServices(db, chattest.Options{})
		c := chattest.MustConversation(t, here.Fixture, "ann", "ben")
		p := here.Pull(t, "ben", c.ID, nil)
		for seq := int64(2); seq <= 9; seq++ {
			from := []chattest.Services{here.Services, there}[seq%2]
			if _, err := from.SendMessage(t.Context(), here.Actor("ann"),
				chat.SendMessage{ConversationID: c.ID, Content: "x"}); err != nil {
				t.Fatal(err)
			}
			switch seq % 3 {
			case 0:
				p.Events(seq-1, seq)
			case 1:
				p.Event(seq)
			}
		}
	})
}

func TestReconcilingFindsNewEvents(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		w.LoseHints()
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		// More than one statement has, of conversations that do not exist.
		for range feed.ReconcileBatch {
			defer w.AcquireFeed(model.NewConversationID()).Release()
		}
		for seq := int64(2); seq <= 6; seq += 2 {
			w.SendMany("ann", c.ID, 2)
			if err := w.ReconcileAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.Events(seq, seq+1)
		}
	})
}

func TestReconcilingFindsADeletedConversation(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ann", c.ID, new(int64(0)))
		p.Event(1)
		w.LoseHints()
		w.EndMembership("ben", c.ID)
		if err := w.Leave(t.Context(), w.Actor("ann"), c.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.ReconcileAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		chattest.WantCode(t, p.End(), errs.Forbidden)
	})
}

func TestOneGapAfterAnother(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		var lose atomic.Bool
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			if !lose.Load() {
				w.Hints().PublishLocal(topic, h)
			}
		})
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1)
		// One gap after another: gapWait has to start again each time.
		for seq := int64(2); seq <= 10; seq += 2 {
			lose.Store(true)
			w.Send("ann", c.ID, "lost")
			lose.Store(false)
			w.Send("ann", c.ID, "hinted")
			p.Events(seq, seq+1)
		}
	})
}
