package graph

import (
	"context"
	"crypto/sha256"
	"testing"
	"testing/synctest"
	"time"

	"github.com/99designs/gqlgen/graphql"
	gqlgen "github.com/99designs/gqlgen/graphql/executor"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/feed"
	"parley/model"
)

// mustShare is a subscription that nobody follows yet, and that fails the test where an error would
// be shown.
func mustShare(t *testing.T, query string) *sharing {
	t.Helper()
	r := &Resolver{}
	exec := gqlgen.New(NewExecutableSchema(Config{Resolvers: r}))
	oc, refused := exec.CreateOperationContext(graphql.StartOperationTrace(t.Context()), &graphql.RawParams{Query: query})
	if refused != nil {
		t.Fatal(refused)
	}
	return &sharing{oc: oc, shared: newShared(r, exec, func(_ context.Context, err error) *gqlerror.Error {
		t.Errorf("presented: %v", err)
		return gqlerror.Wrap(err)
	})}
}

// TestAnswersToAnEventHaveAnEnd: a conversation waits while they are made, and they are kept in
// everybody's memory.
func TestAnswersToAnEventHaveAnEnd(t *testing.T) {
	t.Parallel()
	asked := func(n int) (key [sha256.Size]byte) {
		key[0] = byte(n)
		return key
	}
	making := func(size int, takes time.Duration) func(time.Duration) []byte {
		return func(patience time.Duration) []byte {
			<-time.After(min(takes, patience))
			return make([]byte, size)
		}
	}
	for name, test := range map[string]struct {
		make   func(time.Duration) []byte
		shared int
		within time.Duration
	}{
		"as many as there are":       {making(10, 0), maxAnswers, 0},
		"no longer than that":        {making(10, answersTake/4), 4, answersTake},
		"no longer, all of them":     {making(10, answersTake/4*3), 2, answersTake},
		"no more than there is room": {making(answerBytes/4, 0), 4, 0},
		"none that is too large":     {making(answerBytes+1, 0), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := &answers{payloads: map[[sha256.Size]byte][]byte{}}
				start, shared := time.Now(), 0
				for range 2 { // what was made once is not made again
					shared = 0
					for n := range 2 * maxAnswers {
						if a.makeOnce(asked(n), test.make) != nil {
							shared++
						}
					}
				}
				if took := time.Since(start); shared != test.shared || took != test.within {
					t.Errorf("%d shared answers in %v", shared, took)
				}
			})
		})
	}
}

// TestClosingWaitsForAnswers because they need the database, which is closed after it.
func TestClosingWaitsForAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShared(&Resolver{}, nil, nil)
		if !s.begin() {
			t.Fatal("no answer could begin")
		}
		closed := false
		go func() {
			s.close()
			closed = true
		}()
		synctest.Wait()
		if closed {
			t.Error("closed while an answer is being made")
		}
		if s.begin() {
			t.Error("an answer began after closing had")
		}
		s.answering.Done()
		synctest.Wait()
		if !closed {
			t.Error("not closed")
		}
	})
}

// TestAnAnswerThatNobodyWaitsFor is none, and no internal error: whoever asked has gone meanwhile.
func TestAnAnswerThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	sh := mustShare(t, `subscription { messageAdded(conversationId: "conv") { seq } }`)
	item := &given{Followed: feed.Followed{Event: &model.Event{Kind: model.MessageAdded, Message: &model.Message{Seq: 2}}}}
	if payload, ok := sh.tryExecute(t.Context(), item); !ok || string(payload) != `{"data":{"messageAdded":{"seq":2}}}` {
		t.Errorf("got %s", payload)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	none := 0
	for range 100 { // the item is there too, and which of the two is noticed is chance
		if payload, _ := sh.tryExecute(gone, item); payload == nil {
			none++
		}
	}
	if none == 0 {
		t.Error("there was an answer each time")
	}
}
