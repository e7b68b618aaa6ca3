package live_test

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/live"
	"parley/membership"
	"parley/model"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
	"parley/store/storetest"
)

// pulledTyping takes what Typing yields one at a time. It subscribes with the first call.
type pulledTyping struct {
	t    *testing.T
	w    *fixture
	next func() (live.Typing, error, bool)
	stop func()
}

func (w *fixture) pullTyping(t *testing.T, nickname string, id model.ConversationID) *pulledTyping {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), chattest.Patience)
	t.Cleanup(cancel)
	changes, err := w.Typing(ctx, w.Actor(nickname), id)
	if err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(changes)
	t.Cleanup(stop)
	return &pulledTyping{t: t, w: w, next: next, stop: stop}
}

func (p *pulledTyping) want(nickname string, typing bool) {
	p.t.Helper()
	got, err, ok := p.next()
	if want := (live.Typing{p.w.UserID(nickname), typing}); err != nil || !ok || got != want {
		p.t.Fatalf("got %+v (%v) instead of %s (%+v)", got, err, nickname, want)
	}
}

// begin lets a user type until the stream yields it, because a test cannot see when it is
// subscribed.
func (p *pulledTyping) begin(on *fixture, nickname string, id model.ConversationID) {
	p.t.Helper()
	begun := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-begun:
				return
			default:
			}
			if err := on.SetTyping(p.t.Context(), on.Actor(nickname), id, true); err != nil {
				p.t.Error(err)
				return
			}
		}
	}()
	p.want(nickname, true)
	close(begun)
	<-done
}

func (w *fixture) types(t *testing.T, nickname string, id model.ConversationID, typing bool) {
	t.Helper()
	if err := w.SetTyping(t.Context(), w.Actor(nickname), id, typing); err != nil {
		t.Fatal(err)
	}
}

// always is a TypingEvery with which every signal is published.
const always = time.Nanosecond

func TestTyping(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := chattest.Options{
			ReconcileEvery: chattest.Never, TypingEvery: always,
			TypingTimeout: forGood,
		}
		w := mustFixtureWith(t, db, opts, "ann", "ben", "cas", "eve")
		c, other := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cas", "eve"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.pullTyping(t, "ann", c.ID)
		p.begin(w, "ben", c.ID)
		w.types(t, "ben", c.ID, true) // is known
		w.types(t, "ann", c.ID, true) // is their own
		w.types(t, "ben", other.ID, false)
		w.types(t, "ben", c.ID, false)
		p.want("ben", false)
		w.types(t, "cas", c.ID, false) // did not
		w.types(t, "ben", c.ID, true)
		p.want("ben", true)
		w.Send("ann", c.ID, "ends only ann's typing")
		w.Send("ben", c.ID, "done")
		p.want("ben", false)
		w.types(t, "ben", c.ID, true)
		p.want("ben", true)
		w.types(t, "cas", c.ID, true)
		p.want("cas", true)
		w.EndMembership("cas", c.ID)
		p.want("cas", false)
		chattest.WantCode(t, w.SetTyping(t.Context(), w.Actor("cas"), c.ID, true), errs.NotFound)
		chattest.WantCode(t, w.SetTyping(t.Context(), w.Actor("eve"), other.ID, true),
			errs.NotFound)
		_, err := w.Typing(t.Context(), w.Actor("eve"), other.ID)
		chattest.WantCode(t, err, errs.NotFound)
		w.types(t, "eve", c.ID, true)
		p.want("eve", true)
		w.EndMembership("ann", c.ID)
		_, err, _ = p.next()
		chattest.WantCode(t, err, errs.Forbidden)
		if _, _, more := p.next(); more {
			t.Error("there was more after the end")
		}
	})
}

func TestTypingEndsWithAMembershipThatEndedBeforeItBegan(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.pullTyping(t, "ben", c.ID)
		w.EndMembership("ben", c.ID)
		_, err, _ := p.next()
		chattest.WantCode(t, err, errs.Forbidden)
	})
}

// A message overtakes the signal that its author types.
func TestTypingBetweenNodes(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 2, s, chattest.Never, nil, "ann", "ben", "eve")
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben", "eve")
	p := nodes[1].pullTyping(t, "ann", c.ID)
	nodes[0].SetThrottle(live.NewTypingThrottle(always))
	p.begin(nodes[0], "ben", c.ID)
	m := nodes[0].Send("ben", c.ID, "done")
	p.want("ben", false)
	nodes[0].TypingSignals().Publish(live.TypingTopic(c.ID),
		live.TypingSignal{UserID: nodes[0].UserID("ben"), Typing: true, Seq: m.Seq - 1})
	nodes[0].types(t, "eve", c.ID, true)
	p.want("eve", true)
	nodes[0].TypingSignals().Publish(live.TypingTopic(c.ID),
		live.TypingSignal{UserID: nodes[0].UserID("ben"), Typing: true, Seq: m.Seq})
	p.want("ben", true)
}

func TestTypingIsThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conversation, user := model.NewConversationID(), model.NewUserID()
		ben := live.NewTypist(conversation, user)
		elsewhere := live.NewTypist(model.NewConversationID(), user)
		eve := live.NewTypist(conversation, model.NewUserID())
		throttle := live.NewTypingThrottle(3 * time.Second)
		for i, step := range []struct {
			after  time.Duration
			who    live.Typist
			typing bool
			want   bool
		}{
			{0, ben, true, true},
			{0, ben, true, false},
			{0, elsewhere, true, true},
			{0, eve, true, true},
			{3*time.Second - 1, ben, true, false},
			{1, ben, true, true},
			{2 * time.Second, ben, true, false},
			{time.Second, ben, true, true},
			{time.Second, eve, true, true},
			{0, ben, false, true}, // once after each "types"
			{0, ben, false, false},
			{2 * time.Second, ben, true, true},
			{0, ben, false, true},
			{0, ben, true, false},
			{0, ben, false, false},
			{500*time.Millisecond - 1, ben, false, false},
			{1, ben, false, true}, // another node may have published a "types"
			{0, ben, false, false},
			{0, elsewhere, false, true}, // of which nothing is known any more
			{0, elsewhere, false, false},
		} {
			<-time.After(step.after)
			if got := throttle.Allow(step.who, step.typing); got != step.want {
				t.Errorf("%d: %+v: %v", i, step, got)
			}
		}
		<-time.After(time.Minute)
		throttle.Allow(eve, true)
		if throttle.Len() != 1 {
			t.Errorf("%d are remembered", throttle.Len())
		}
	})
}

func TestTypingExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ann, ben, eve := model.NewUserID(), model.NewUserID(), model.NewUserID()
		w := live.NewTypingWatch(ann, 6*time.Second)
		start := time.Now()
		wantAt := func(at time.Duration, want live.Typing) {
			t.Helper()
			for {
				if got, changed := w.Next(); changed {
					if got != want || time.Since(start) != at {
						t.Errorf("got %+v after %v, want %+v after %v", got, time.Since(start),
							want, at)
					}
					return
				}
				if err := w.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.Handle(live.TypingSignal{UserID: ben, Typing: true})
		wantAt(0, live.Typing{UserID: ben, Typing: true})
		<-time.After(3 * time.Second)
		w.Handle(live.TypingSignal{UserID: eve, Typing: true})
		wantAt(3*time.Second, live.Typing{UserID: eve, Typing: true})
		<-time.After(2 * time.Second)
		w.Handle(live.TypingSignal{UserID: ben, Typing: true}) // goes on
		wantAt(9*time.Second, live.Typing{UserID: eve, Typing: false})
		wantAt(11*time.Second, live.Typing{UserID: ben, Typing: false})

		// A consumer that took nothing meanwhile gets nothing about typing that is over.
		w.Handle(live.TypingSignal{UserID: ben, Typing: true})
		w.Handle(live.TypingSignal{UserID: ben})
		w.Handle(live.TypingSignal{UserID: eve, Typing: true})
		<-time.After(6 * time.Second)
		if got, changed := w.Next(); changed {
			t.Errorf("got %+v", got)
		}
		for range 2 * membership.Max { // more than there can be members
			w.Handle(live.TypingSignal{UserID: model.NewUserID(), Typing: true})
		}
		if w.Len() != membership.Max {
			t.Errorf("%d type", w.Len())
		}
	})
}

// The consumer takes nothing while there are more events than a follower queues.
func TestASlowConsumerOfTyping(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{
			ReconcileEvery: chattest.Never,
			TypingEvery:    always, TypingTimeout: forGood,
		}, "ann", "ben", "eve")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "eve")
		p := w.pullTyping(t, "ann", c.ID)
		p.begin(w, "ben", c.ID)
		for range 100 {
			w.types(t, "ben", c.ID, false)
			w.types(t, "ben", c.ID, true)
		}
		w.SendMany("eve", c.ID, feed.FollowQueue+6)
		w.Eventually(func() bool { return w.Stats().Behind > 0 })
		w.types(t, "ben", c.ID, false)
		p.want("ben", false)
		w.types(t, "ben", c.ID, true)
		p.want("ben", true)
		w.EndMembership("ann", c.ID)
		_, err, _ := p.next()
		chattest.WantCode(t, err, errs.Forbidden)
	})
}

func TestTypingLeavesNothingBehind(t *testing.T) {
	db := storetest.MustSQLite(t)
	w := &fixture{chattest.NewIdle(t, db, chattest.Options{TypingEvery: always}, nil)}
	w.Invite("ann", "ben")
	c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
	ignore := goleak.IgnoreCurrent()
	for range 20 {
		p := w.pullTyping(t, "ann", c.ID)
		p.begin(w, "ben", c.ID)
		p.stop()
	}
	goleak.VerifyNone(t, ignore)
	topics, feeds := w.TypingSignals().Topics(), w.Stats().Feeds
	if len(topics)+feeds != 0 {
		t.Errorf("%v and %d feeds are left", topics, feeds)
	}
}
