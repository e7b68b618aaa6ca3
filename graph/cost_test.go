package graph

import (
	"context"
	"testing"

	"github.com/99designs/gqlgen/graphql"

	"parley/document"
	"parley/feed"
	"parley/model"
)

// TestExpensiveSelectionsAreNotExecutedOnTheFeed: the other followers of the conversation would
// wait.
func TestExpensiveSelectionsAreNotExecutedOnTheFeed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cost document.Cost
		fits bool
	}{
		{document.Cost{}, true},
		{document.Cost{Fields: 150, Bytes: 200 << 10}, true},
		{document.Cost{Fields: 301}, false},
		{document.Cost{Fields: 10, Bytes: 1 << 20}, false},
	} {
		oc := new(graphql.OperationContext)
		setCost(oc, c.cost)
		if got := fitsFeed(oc); got != c.fits {
			t.Errorf("%+v: %v", c.cost, got)
		}
	}
	sub := mustBroadcast(t, `subscription { messageAdded(conversationId: "conv") { seq } }`)
	sub.mode = individualMode
	e := &model.Event{Kind: model.MessageAdded, Message: &model.Message{Seq: 2}}
	if sub.sink().Live(e) || sub.answers.Len() > 0 {
		t.Error("it was executed on the feed")
	}
}

// TestFeedsNeedNoTurns: what they execute is cheap, and they must not wait.
func TestFeedsNeedNoTurns(t *testing.T) {
	t.Parallel()
	oc := new(graphql.OperationContext)
	setCost(oc, document.Cost{Fields: 300, Bytes: 512 << 10})
	b := &answerer{limit: 2 << 20, turns: newExecutionTurns(2 << 20)}
	for onFeed, needsTurn := range map[bool]bool{true: false, false: true} {
		item := &streamItem{Followed: feed.Followed{Event: new(model.Event)}, onFeed: onFeed}
		ctx := withItem(graphql.WithOperationContext(t.Context(), oc), item)
		b.around(ctx, func(ctx context.Context) *graphql.Response {
			if got := len(answerOf(ctx).stages) > 0; got != needsTurn {
				t.Errorf("on the feed %v: needs a turn %v", onFeed, got)
			}
			return nil
		})
	}
}
