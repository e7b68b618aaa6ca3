package graph

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/99designs/gqlgen/graphql"
	gqlgen "github.com/99designs/gqlgen/graphql/executor"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/document"
	"parley/feed"
	"parley/model"
)

// mustBroadcast returns a subscription that does not follow yet. It fails the test if it presents
// an error.
func mustBroadcast(t *testing.T, query string) *broadcastSubscription {
	t.Helper()
	r := &Resolver{}
	exec := gqlgen.New(NewExecutableSchema(Config{Resolvers: r}))
	oc, refused := exec.CreateOperationContext(graphql.StartOperationTrace(t.Context()),
		&graphql.RawParams{Query: query})
	if refused != nil {
		t.Fatal(refused)
	}
	return &broadcastSubscription{
		oc: oc, selects: anyEvent,
		broadcaster: newBroadcaster(r, exec, func(_ context.Context, err error) *gqlerror.Error {
			t.Errorf("presented: %v", err)
			return gqlerror.Wrap(err)
		}),
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	const in = `(conversationId: "conv")`
	for _, c := range []struct {
		field string
		cost  document.Cost
		want  mode
	}{
		{"messageAdded" + in + " { seq }", document.Cost{}, broadcastMode},
		{"conversationEvents" + in + " { __typename }", document.Cost{}, broadcastMode},
		{"messageAdded" + in + " { seq }", document.Cost{Fields: 301}, individualMode},
		{"messageAdded" + in + " { conversation { draft } }", document.Cost{}, executedMode},
		{"typing" + in + " { typing }", document.Cost{}, executedMode},
		{"events { cursor }", document.Cost{}, executedMode},
	} {
		oc := mustBroadcast(t, "subscription { "+c.field+" }").oc
		setCost(oc, c.cost)
		if got, _, _ := modeOf(oc); got != c.want {
			t.Errorf("%s of %+v: mode %d, want %d", c.field, c.cost, got, c.want)
		}
	}
}

// TestAnswersToAnEventAreBounded: a conversation waits while they are made, and all conversations
// share the memory for them.
func TestAnswersToAnEventAreBounded(t *testing.T) {
	t.Parallel()
	key := func(n int) (key broadcastKey) {
		key[0] = byte(n)
		return key
	}
	making := func(size int, takes time.Duration) func(time.Duration) []byte {
		return func(timeout time.Duration) []byte {
			<-time.After(min(takes, timeout))
			return make([]byte, size)
		}
	}
	for name, test := range map[string]struct {
		make   func(time.Duration) []byte
		forAll int
		took   time.Duration
	}{
		"as many as there are":       {making(10, 0), maxAnswers, 0},
		"no longer than that":        {making(10, maxAnswersTime/4), 4, maxAnswersTime},
		"no longer, all of them":     {making(10, maxAnswersTime/4*3), 2, maxAnswersTime},
		"no more than there is room": {making(maxAnswersBytes/4, 0), 4, 0},
		"none that is too large":     {making(maxAnswersBytes+1, 0), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := newEventAnswers()
				start, forAll := time.Now(), 0
				for range 2 { // the second round makes none
					forAll = 0
					for n := range 2 * maxAnswers {
						if a.getOrMake(key(n), test.make) != nil {
							forAll++
						}
					}
				}
				if took := time.Since(start); forAll != test.forAll || took != test.took {
					t.Errorf("%d answers for all in %v", forAll, took)
				}
			})
		})
	}
}

// TestClosingWaitsForAnswers: they need the database, which is closed next.
func TestClosingWaitsForAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBroadcaster(&Resolver{}, nil, nil)
		if !b.register() {
			t.Fatal("no answer could begin")
		}
		closed := false
		go func() {
			b.close()
			closed = true
		}()
		synctest.Wait()
		if closed {
			t.Error("closed while an answer is being made")
		}
		if b.register() {
			t.Error("an answer began after closing had")
		}
		b.making.Done()
		synctest.Wait()
		if !closed {
			t.Error("not closed")
		}
	})
}

// TestAClientThatLeavesIsNotAnError: its answer is not made, and no internal error is presented.
func TestAClientThatLeavesIsNotAnError(t *testing.T) {
	t.Parallel()
	sub := mustBroadcast(t, `subscription { messageAdded(conversationId: "conv") { seq } }`)
	item := &streamItem{Followed: feed.Followed{Event: &model.Event{
		Kind:    model.MessageAdded,
		Message: &model.Message{Seq: 2},
	}}}
	if payload, ok := sub.execute(t.Context(), item); !ok ||
		string(payload) != `{"data":{"messageAdded":{"seq":2}}}` {
		t.Errorf("got %s", payload)
	}
	left, cancel := context.WithCancel(t.Context())
	cancel()
	none := 0
	for range 100 { // select chooses between the item and the end of the context at random
		if payload, _ := sub.execute(left, item); payload == nil {
			none++
		}
	}
	if none == 0 {
		t.Error("there was an answer each time")
	}
}
