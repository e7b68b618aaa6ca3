package graph

import (
	"github.com/99designs/gqlgen/graphql"

	"parley/document"
)

// The memory that an operation may need is estimated before it runs, from the answer that it has if
// all its pages are full. Both figures are measured (bench abuse).
const (
	// fieldMemory is what a field needs until the answer is written: its context, its closures, its
	// value in the answer.
	fieldMemory = 1 << 10
	// textCopies is how many copies of a text are in memory: as it was read, in the buffer that
	// grows, and in what is sent.
	textCopies = 4
)

// The classes of operations by the memory that they may need:
//
//   - light, up to lightMemory: runs at once.
//   - middle, up to heavyMemory: all of them together have middleMemory.
//   - heavy: one at a time. Only other heavy ones wait for it.
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

// costExtension is the extension of an operation's statistics that has its cost.
const costExtension = "parley.cost"

func setCost(oc *graphql.OperationContext, cost document.Cost) {
	oc.Stats.SetExtension(costExtension, cost)
}

// memoryOf estimates the bytes that the execution of an operation needs, if its answer has at most
// limit bytes.
func memoryOf(oc *graphql.OperationContext, limit int) int {
	cost, _ := oc.Stats.GetExtension(costExtension).(document.Cost)
	return cost.Fields*fieldMemory + textCopies*min(cost.Bytes, limit)
}

// fitsFeed reports whether an operation is cheap enough to be executed while the feed of a
// conversation, and so its other followers, wait.
func fitsFeed(oc *graphql.OperationContext) bool {
	const fields, bytes = 300, 512 << 10
	cost, _ := oc.Stats.GetExtension(costExtension).(document.Cost)
	return cost.Fields <= fields && cost.Bytes <= bytes
}
