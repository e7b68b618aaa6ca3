package graph

import (
	"context"
	"errors"
	"math"
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
	// of subscriptions with dear selections, one at a time: the other processors are for all others
	events  *fair.Semaphore[holder]
	reading *fair.Semaphore[holder] // of documents that are not known
}

func newExecutionTurns(maxAnswer int) *executionTurns {
	return &executionTurns{
		maxAnswer: maxAnswer, middle: newTurns(middleMemory), heavy: newTurns(1),
		// An event is not refused: its stream would end. What waits is bounded by operations and
		// connections.
		events:  fair.NewSemaphore[holder](1, math.MaxInt, math.MaxInt),
		reading: newTurns(int64(runtime.GOMAXPROCS(0))),
	}
}

func newTurns(capacity int64) *fair.Semaphore[holder] {
	return fair.NewSemaphore[holder](capacity, maxWaiting, maxWaitingPerHolder)
}

// stage is a turn that an execution needs once its answer has some number of fields, list items
// included.
type stage struct {
	from    int64
	acquire func(context.Context) (release func(), err error)
}

// stagesOf are the turns of the execution that ctx belongs to. What is reckoned as light or
// middling may turn out to be more, because lists without pages count as one item: then it waits
// for another turn on its way. Whoever holds a turn waits for dearer ones only, so there is no
// circle.
func (t *executionTurns) stagesOf(ctx context.Context) []stage {
	oc := graphql.GetOperationContext(ctx)
	if oc.Operation != nil && oc.Operation.Operation == ast.Subscription && !fitsFeed(oc) {
		return []stage{t.stage(0, t.events, 1)}
	}
	heavy := t.stage(heavyMemory/fieldMemory, t.heavy, 1)
	switch memory := memoryOf(oc, t.maxAnswer); {
	case memory > heavyMemory:
		heavy.from = 0
		return []stage{heavy}
	case memory > lightMemory:
		return []stage{t.stage(0, t.middle, int64(memory)), heavy}
	}
	return []stage{t.stage(lightMemory/fieldMemory, t.middle, heavyMemory), heavy}
}

func (*executionTurns) stage(from int64, in *fair.Semaphore[holder], weight int64) stage {
	return stage{from, func(ctx context.Context) (func(), error) { return acquireTurn(ctx, in, weight) }}
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
