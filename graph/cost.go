package graph

import (
	"github.com/99designs/gqlgen/graphql"

	"parley/document"
)

// What an operation may hold in memory while it is executed is reckoned before it runs, from what
// its answer may have if all its pages are full. Both figures are measured (bench abuse).
const (
	// fieldMemory is what a field takes until the answer is written: its context, its closures, its
	// place in the answer.
	fieldMemory = 1 << 10
	// textCopies is how often a text is in memory: as it was read, in the buffer that grows, and in
	// what is sent.
	textCopies = 4
)

// Classes of operations by what they may hold. Light ones run at once. Middling ones share
// middleMemory, and of the heavy ones one runs at a time, so that nobody has to wait for those but
// others like them.
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

// memoryOf is how many bytes the execution of an operation may hold, with an answer of at most
// limit bytes.
func memoryOf(oc *graphql.OperationContext, limit int) int {
	cost, _ := oc.Stats.GetExtension(costExtension).(document.Cost)
	return cost.Fields*fieldMemory + textCopies*min(cost.Bytes, limit)
}

// fitsFeed reports whether an event may be answered while the other followers of its conversation
// wait for that.
func fitsFeed(oc *graphql.OperationContext) bool {
	const fields, bytes = 300, 512 << 10
	cost, _ := oc.Stats.GetExtension(costExtension).(document.Cost)
	return cost.Fields <= fields && cost.Bytes <= bytes
}
