package chat

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// compareSoon has Run look for lost hints often enough to wait for it.
const compareSoon = 20 * time.Millisecond

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
		"mixed":                            slices.Concat(whole(3), bare(5), whole(2), bare(6), whole(4)),
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		w.publish = func(string, hint) {}
		for name, plan := range tests {
			t.Run(name, func(t *testing.T) {
				c := MustConversation(t, w, "ann", "ben")
				p := w.pull(t, "ben", c.ID, new(int64(0)))
				p.event(1) // it listens from here on, and has read what there was
				w.sendMany("ann", c.ID, last-1)
				stored := w.stored(c.ID)
				for _, h := range plan {
					w.hints.Publish(topicOf(c.ID), h.of(stored))
				}
				wantEqual(t, "events", stored[1:], p.events(2, last), sameData())
			})
		}
	})
}

// hintPlan is a hint about an event that is not there yet.
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

func (p hintPlan) of(stored []*model.Event) hint {
	if !p.whole {
		return hint{seq: p.seq}
	}
	return hint{seq: p.seq, events: stored[p.seq-1 : p.seq]}
}

func TestAGapTooWideToWaitFor(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1)
		w.fill("ann", c, 3*followQueue)
		stored := w.stored(c.ID)
		done := make(chan struct{})
		go func() { // beside the follower, who may be quick enough to see the gap, or overflow
			defer close(done)
			for _, e := range stored[2:] {
				w.hints.Publish(topicOf(c.ID), hint{seq: e.Seq, events: []*model.Event{e}})
			}
		}()
		wantEqual(t, "events", stored[1:], p.events(2, c.LastSeq), sameData())
		<-done
	})
}

func TestASlowConsumerMissesNothingAndHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	const overflows, burst = 3, followQueue + 6
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		got := p.events(1, 1)
		for range overflows {
			// The consumer is not there to take anything: a sender who waited for it would wait for
			// good.
			w.sendMany("ann", c.ID, burst)
			w.eventually(func() bool { return w.behind(c.ID) }) // the queue has overflowed
			for w.behind(c.ID) {
				got = append(got, p.event(int64(len(got))+1))
			}
		}
		got = append(got, p.events(int64(len(got))+1, 1+overflows*burst)...)
		wantEqual(t, "events", w.stored(c.ID), got, sameData())
	})
}

func TestRunRepairsWhatHintsHaveLost(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: compareSoon}, "ann", "ben")
		w.publish = func(string, hint) {}
		a, b := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
		ofA, ofB := w.pull(t, "ben", a.ID, nil), w.pull(t, "ann", b.ID, new(int64(0)))
		ofB.event(1)
		for seq := int64(2); seq <= 6; seq++ { // one repair after another: each has to be a new one
			w.send("ann", a.ID, "to a")
			ofA.event(seq)
		}
		w.sendMany("ben", b.ID, 5)
		ofB.events(2, 6)
	})
}

func TestRunRepairsTheOtherNodesHints(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		here := MustWorldWith(t, db, Options{CompareEvery: compareSoon}, "ann", "ben")
		there := New(db, Options{}) // a node whose hints do not arrive here
		c := MustConversation(t, here, "ann", "ben")
		p := here.pull(t, "ben", c.ID, nil)
		for seq := int64(2); seq <= 9; seq++ {
			from := []*Service{here.Service, there}[seq%2]
			if _, err := from.SendMessage(t.Context(), here.actor("ann"), SendMessage{ConversationID: c.ID, Content: "x"}); err != nil {
				t.Fatal(err)
			}
			switch seq % 3 {
			case 0:
				p.events(seq-1, seq)
			case 1:
				p.event(seq)
			}
		}
	})
}

func TestCompareFindsWhatMoved(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		w.publish = func(string, hint) {}
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1)
		// More than one statement asks for, of conversations that are not there.
		for range compareAtOnce {
			defer w.feedOf(model.NewConversationID()).release()
		}
		for seq := int64(2); seq <= 6; seq += 2 {
			w.sendMany("ann", c.ID, 2)
			if err := w.compareAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.events(seq, seq+1)
		}
	})
}

func TestCompareFindsWhatIsGone(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ann", c.ID, new(int64(0)))
		p.event(1)
		w.publish = func(string, hint) {}
		w.remove("ben", c.ID)
		if err := w.Leave(t.Context(), w.actor("ann"), c.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.compareAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantCode(t, p.end(), errs.Forbidden)
	})
}

func TestOneGapAfterAnother(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		var lose atomic.Bool
		w.publish = func(topic string, h hint) {
			if !lose.Load() {
				w.hints.Publish(topic, h)
			}
		}
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1)
		// one gap after another: the patience has to begin anew each time
		for seq := int64(2); seq <= 10; seq += 2 {
			lose.Store(true)
			w.send("ann", c.ID, "lost")
			lose.Store(false)
			w.send("ann", c.ID, "told")
			p.events(seq, seq+1)
		}
	})
}
