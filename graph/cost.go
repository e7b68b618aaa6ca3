package graph

import (
	"context"
	"runtime"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/document"
)

// What an operation may hold in memory while it is executed is reckoned before it runs, from what its answer may have if all
// its pages are full. Both figures are measured (bench abuse).
const (
	// fieldMemory is what a field takes until the answer is written: its context, its closures, its place in the answer.
	fieldMemory = 1 << 10
	// textCopies is how often a text is in memory: as it was read, in the buffer that grows, and in what is sent.
	textCopies = 4
)

// Classes of operations by what they may hold. Light ones run at once. Middling ones share middleMemory, and of the heavy ones
// one runs at a time, so that nobody has to wait for those but others like them.
const (
	lightMemory  = 1 << 20
	heavyMemory  = 16 << 20
	middleMemory = 64 << 20
)

// longTexts are the fields whose values may be long, with their longest value in bytes.
func longTexts() map[document.Place]int {
	const content = 4000 * 4 // characters of four bytes
	return map[document.Place]int{
		{Object: "Message", Field: "content"}:    content,
		{Object: "Conversation", Field: "draft"}: content,
		{Object: "User", Field: "about"}:         2000,
	}
}

// cost names the extension of an operation's statistics that has its cost.
const costExtension = "parley.cost"

func setCost(oc *graphql.OperationContext, cost document.Cost) {
	oc.Stats.SetExtension(costExtension, cost)
}

// memoryOf is how many bytes the execution of an operation may hold, with an answer of at most limit bytes.
func memoryOf(oc *graphql.OperationContext, limit int) int {
	cost, _ := oc.Stats.GetExtension(costExtension).(document.Cost)
	return cost.Fields*fieldMemory + textCopies*min(cost.Bytes, limit)
}

// fitsFeed reports whether an event may be answered while the other followers of its conversation wait for that.
func fitsFeed(oc *graphql.OperationContext) bool {
	const fields, bytes = 300, 512 << 10
	cost, _ := oc.Stats.GetExtension(costExtension).(document.Cost)
	return cost.Fields <= fields && cost.Bytes <= bytes
}

// executionTurns bounds what is executed and read at the same time.
type executionTurns struct {
	maxAnswer     int
	middle, heavy *turns
	events        *turns // of subscriptions with dear selections, one at a time: the other processors are for everybody else
	reading       *turns // of documents that are not known
}

func newExecutionTurns(maxAnswer int) *executionTurns {
	return &executionTurns{
		maxAnswer: maxAnswer, middle: newTurns(middleMemory), heavy: newTurns(1), events: newTurns(1),
		reading: newTurns(int64(runtime.GOMAXPROCS(0))),
	}
}

// of is how the execution that ctx belongs to gets its turn; nil if it needs none.
func (t *executionTurns) of(ctx context.Context) func(context.Context) (release func(), err error) {
	oc := graphql.GetOperationContext(ctx)
	memory := memoryOf(oc, t.maxAnswer)
	in, weight := t.middle, int64(memory)
	switch {
	case oc.Operation != nil && oc.Operation.Operation == ast.Subscription && !fitsFeed(oc):
		in, weight = t.events, 1
	case memory <= lightMemory:
		return nil
	case memory > heavyMemory:
		in, weight = t.heavy, 1
	}
	return func(ctx context.Context) (func(), error) { return in.acquire(ctx, holderOf(ctx), weight) }
}
