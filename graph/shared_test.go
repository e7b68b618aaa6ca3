package graph

import (
	"context"
	"testing"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/executor"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/chat"
	"parley/model"
)

// TestAnAnswerThatNobodyWaitsFor is none, and no internal error: whoever asked has gone meanwhile.
func TestAnAnswerThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	r := &Resolver{}
	exec := executor.New(NewExecutableSchema(Config{Resolvers: r}))
	oc, refused := exec.CreateOperationContext(graphql.StartOperationTrace(t.Context()), &graphql.RawParams{
		Query: `subscription { messageAdded(conversationId: "conv") { seq } }`,
	})
	if refused != nil {
		t.Fatal(refused)
	}
	sh := &sharing{oc: oc, shared: newShared(r, exec, func(_ context.Context, err error) *gqlerror.Error {
		t.Errorf("presented: %v", err)
		return gqlerror.Wrap(err)
	})}
	item := chat.Followed{Event: &model.Event{Kind: model.MessageAdded, Message: &model.Message{Seq: 2}}}
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
