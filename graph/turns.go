package graph

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/errs"
	"parley/fair"
)

// Bounds of what waits for its turn: each waiter keeps its request in memory.
const (
	maxWaiting          = 400
	maxWaitingPerHolder = 100
	turnRetryAfter      = time.Second // after which a refused client may try again
)

// executionTurns bounds what is executed and read at the same time. Holders take turns.
type executionTurns struct {
	maxAnswer int
	middle    *fair.Semaphore[holder] // of middleMemory bytes
	heavy     *fair.Semaphore[holder]
	events    *fair.Semaphore[holder] // of subscriptions with dear selections, one at a time: the other processors are for all others
	reading   *fair.Semaphore[holder] // of documents that are not known
}

func newExecutionTurns(maxAnswer int) *executionTurns {
	return &executionTurns{
		maxAnswer: maxAnswer, middle: newTurns(middleMemory), heavy: newTurns(1), events: newTurns(1),
		reading: newTurns(int64(runtime.GOMAXPROCS(0))),
	}
}

func newTurns(capacity int64) *fair.Semaphore[holder] {
	return fair.NewSemaphore[holder](capacity, maxWaiting, maxWaitingPerHolder)
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
	return func(ctx context.Context) (func(), error) { return acquireTurn(ctx, in, weight) }
}

// toRead waits for the turn to read a document that is not known.
func (t *executionTurns) toRead(ctx context.Context) (release func(), err error) {
	return acquireTurn(ctx, t.reading, 1)
}

// acquireTurn waits for the turn of the holder that ctx belongs to. It is RATE_LIMITED if too many
// wait: less at once would not have waited.
func acquireTurn(ctx context.Context, in *fair.Semaphore[holder], weight int64) (release func(), err error) {
	release, err = in.Acquire(ctx, holderOf(ctx), weight)
	if errors.Is(err, fair.ErrKeyFull) || errors.Is(err, fair.ErrFull) {
		e := errs.New(errs.RateLimited, "The server is busy with other large requests. Try again later, or ask for less at once.")
		e.RetryAfter = turnRetryAfter
		return nil, e
	}
	return release, err
}
