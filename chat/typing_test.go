package chat

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"parley/errs"
	"parley/model"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
	"parley/store/storetest"
)

// pulledTyping takes what Typing yields one at a time. From the first call on it listens.
type pulledTyping struct {
	t    *testing.T
	w    *world
	next func() (Typing, error, bool)
	stop func()
}

func (w *world) pullTyping(t *testing.T, nickname string, id model.ConversationID) *pulledTyping {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	changes, err := w.Typing(ctx, w.actor(nickname), id)
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
	if want := (Typing{p.w.id(nickname), typing}); err != nil || !ok || got != want {
		p.t.Fatalf("got %+v (%v) instead of %s (%+v)", got, err, nickname, want)
	}
}

// begin has somebody type until the stream says so: nothing tells when it listens.
func (p *pulledTyping) begin(on *world, nickname string, id model.ConversationID) {
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
			if err := on.SetTyping(p.t.Context(), on.actor(nickname), id, true); err != nil {
				p.t.Error(err)
				return
			}
		}
	}()
	p.want(nickname, true)
	close(begun)
	<-done
}

func (w *world) types(t *testing.T, nickname string, id model.ConversationID, typing bool) {
	t.Helper()
	if err := w.SetTyping(t.Context(), w.actor(nickname), id, typing); err != nil {
		t.Fatal(err)
	}
}

// always is how often it is told that somebody types in tests that are not about that: every time.
const always = time.Nanosecond

func TestTyping(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := Options{CompareEvery: never, TypingEvery: always, TypingTimeout: forGood}
		w := MustWorldWith(t, db, opts, "ann", "ben", "cas", "eve")
		c, other := MustConversation(t, w, "ann", "ben", "cas", "eve"), MustConversation(t, w, "ann", "ben")
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
		w.send("ann", c.ID, "ends nobody's typing but mine")
		w.send("ben", c.ID, "done")
		p.want("ben", false)
		w.types(t, "ben", c.ID, true)
		p.want("ben", true)
		w.types(t, "cas", c.ID, true)
		p.want("cas", true)
		w.remove("cas", c.ID)
		p.want("cas", false)
		wantCode(t, w.SetTyping(t.Context(), w.actor("cas"), c.ID, true), errs.NotFound)
		wantCode(t, w.SetTyping(t.Context(), w.actor("eve"), other.ID, true), errs.NotFound)
		_, err := w.Typing(t.Context(), w.actor("eve"), other.ID)
		wantCode(t, err, errs.NotFound)
		w.types(t, "eve", c.ID, true)
		p.want("eve", true)
		w.remove("ann", c.ID)
		_, err, _ = p.next()
		wantCode(t, err, errs.Forbidden)
		if _, _, more := p.next(); more {
			t.Error("there was more after the end")
		}
	})
}

func TestTypingEndsWithAMembershipThatEndedBeforeItBegan(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		p := w.pullTyping(t, "ben", c.ID)
		w.remove("ben", c.ID)
		_, err, _ := p.next()
		wantCode(t, err, errs.Forbidden)
	})
}

// TestTypingBetweenNodes has a message overtake the sign that its author types, which goes another
// way.
func TestTypingBetweenNodes(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 2, s, never, nil, "ann", "ben", "eve")
	c := MustConversation(t, nodes[0], "ann", "ben", "eve")
	p := nodes[1].pullTyping(t, "ann", c.ID)
	nodes[0].typists = newTypists(always)
	p.begin(nodes[0], "ben", c.ID)
	m := nodes[0].send("ben", c.ID, "done")
	p.want("ben", false)
	nodes[0].publishTyping(typingTopic(c.ID), typingSign{UserID: nodes[0].id("ben"), Typing: true, Seq: m.Seq - 1})
	nodes[0].types(t, "eve", c.ID, true)
	p.want("eve", true)
	nodes[0].publishTyping(typingTopic(c.ID), typingSign{UserID: nodes[0].id("ben"), Typing: true, Seq: m.Seq})
	p.want("ben", true)
}

func TestItIsToldNowAndThenThatSomebodyTypes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ben := typist{model.NewConversationID(), model.NewUserID()}
		elsewhere, eve := typist{model.NewConversationID(), ben.user}, typist{ben.conversation, model.NewUserID()}
		told := newTypists(3 * time.Second)
		for i, step := range []struct {
			after  time.Duration
			who    typist
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
			{0, ben, false, true}, // for each time that it was told that they type
			{0, ben, false, false},
			{2 * time.Second, ben, true, true},
			{0, ben, false, true},
			{0, ben, true, false},
			{0, ben, false, false},
			{500*time.Millisecond - 1, ben, false, false},
			{1, ben, false, true}, // another node may have told of more
			{0, ben, false, false},
			{0, elsewhere, false, true}, // of which nothing is known any more
			{0, elsewhere, false, false},
		} {
			<-time.After(step.after)
			if got := told.mayTell(step.who, step.typing); got != step.want {
				t.Errorf("%d: %+v: %v", i, step, got)
			}
		}
		<-time.After(time.Minute)
		told.mayTell(eve, true)
		if len(told.told) != 1 {
			t.Errorf("%d are remembered", len(told.told))
		}
	})
}

func TestTypingExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ann, ben, eve := model.NewUserID(), model.NewUserID(), model.NewUserID()
		bell := make(chan struct{}, 1)
		w := newTypingWatch(ann, 6*time.Second, func() {
			select {
			case bell <- struct{}{}:
			default:
			}
		})
		start := time.Now()
		wantAt := func(at time.Duration, want Typing) {
			t.Helper()
			for {
				if got, changed := w.next(); changed {
					if got != want || time.Since(start) != at {
						t.Errorf("got %+v after %v, want %+v after %v", got, time.Since(start), want, at)
					}
					return
				}
				if err := w.wait(t.Context(), bell); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.hear(typingSign{UserID: ben, Typing: true})
		wantAt(0, Typing{ben, true})
		<-time.After(3 * time.Second)
		w.hear(typingSign{UserID: eve, Typing: true})
		wantAt(3*time.Second, Typing{eve, true})
		<-time.After(2 * time.Second)
		w.hear(typingSign{UserID: ben, Typing: true}) // goes on
		wantAt(9*time.Second, Typing{eve, false})
		wantAt(11*time.Second, Typing{ben, false})

		// A consumer that was away all the time hears nothing of what is over.
		w.hear(typingSign{UserID: ben, Typing: true})
		w.hear(typingSign{UserID: ben})
		w.hear(typingSign{UserID: eve, Typing: true})
		<-time.After(6 * time.Second)
		if got, changed := w.next(); changed {
			t.Errorf("got %+v", got)
		}
		for range 2 * MaxMembers { // which only a stranger could make up
			w.hear(typingSign{UserID: model.NewUserID(), Typing: true})
		}
		if len(w.until) != MaxMembers {
			t.Errorf("%d type", len(w.until))
		}
	})
}

// TestASlowConsumerOfTyping takes nothing while more happens than a follower's queue holds.
func TestASlowConsumerOfTyping(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: never, TypingEvery: always, TypingTimeout: forGood}, "ann", "ben", "eve")
		c := MustConversation(t, w, "ann", "ben", "eve")
		p := w.pullTyping(t, "ann", c.ID)
		p.begin(w, "ben", c.ID)
		for range 100 {
			w.types(t, "ben", c.ID, false)
			w.types(t, "ben", c.ID, true)
		}
		w.sendMany("eve", c.ID, followQueue+6)
		w.eventually(func() bool { return w.behind(c.ID) })
		w.types(t, "ben", c.ID, false)
		p.want("ben", false)
		w.types(t, "ben", c.ID, true)
		p.want("ben", true)
		w.remove("ann", c.ID)
		_, err, _ := p.next()
		wantCode(t, err, errs.Forbidden)
	})
}

func TestTypingLeavesNothingBehind(t *testing.T) {
	db := storetest.MustSQLite(t)
	w := &world{Service: New(db, Options{TypingEvery: always}), t: t, actors: map[string]model.Actor{}}
	w.invite("ann", "ben")
	c := MustConversation(t, w, "ann", "ben")
	ignore := goleak.IgnoreCurrent()
	for range 20 {
		p := w.pullTyping(t, "ann", c.ID)
		p.begin(w, "ben", c.ID)
		p.stop()
	}
	goleak.VerifyNone(t, ignore)
	if topics := w.typing.Topics(); len(topics)+len(w.feeds) != 0 {
		t.Errorf("%v and %d feeds are left", topics, len(w.feeds))
	}
}
