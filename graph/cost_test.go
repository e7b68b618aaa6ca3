package graph

import (
	"context"
	"testing"

	"github.com/99designs/gqlgen/graphql"

	"parley/document"
	"parley/feed"
	"parley/model"
)

// TestDearSelectionsStayOffTheFeed: the other followers of the conversation would wait for them.
func TestDearSelectionsStayOffTheFeed(t *testing.T) {
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
	sh := mustShare(t, `subscription { messageAdded(conversationId: "conv") { seq } }`)
	sh.pick, sh.dear = everyEvent, true
	if sh.live(&model.Event{Kind: model.MessageAdded, Message: &model.Message{Seq: 2}}) || sh.answers.Len() > 0 {
		t.Error("it was answered on the feed")
	}
}

// TestFeedsTakeNoTurns: what they execute is cheap, and they wait for nobody.
func TestFeedsTakeNoTurns(t *testing.T) {
	t.Parallel()
	oc := new(graphql.OperationContext)
	setCost(oc, document.Cost{Fields: 300, Bytes: 512 << 10})
	b := &answerer{limit: 2 << 20, turns: newExecutionTurns(2 << 20)}
	for onFeed, takesTurn := range map[bool]bool{true: false, false: true} {
		item := &given{Followed: feed.Followed{Event: new(model.Event)}, onFeed: onFeed}
		ctx := context.WithValue(graphql.WithOperationContext(t.Context(), oc), givenKey{}, item)
		b.around(ctx, func(ctx context.Context) *graphql.Response {
			if got := len(answerOf(ctx).stages) > 0; got != takesTurn {
				t.Errorf("on the feed %v: takes a turn %v", onFeed, got)
			}
			return nil
		})
	}
}
