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

// Bounds of the requests that wait for a turn: each of them is in memory.
const (
	maxWaiting          = 400
	maxWaitingPerClient = 100
	turnRetryAfter      = time.Second // what a refused client is asked to wait
)

// executionTurns limit how much is executed and parsed at the same time. Clients take turns: each
// semaphore is fair between them (see package fair). Light operations need no turn.
type executionTurns struct {
	maxAnswer int                        // bytes of an answer
	middle    *fair.Semaphore[clientKey] // weighted by memory, of middleMemory bytes
	heavy     *fair.Semaphore[clientKey] // one at a time
	// events is for subscriptions with expensive selections. One event is executed at a time, so
	// that the other processors are free for everything else.
	events *fair.Semaphore[clientKey]
	// parsing is for documents that are not in the cache, one for each processor.
	parsing *fair.Semaphore[clientKey]
}

func newExecutionTurns(maxAnswer int) *executionTurns {
	return &executionTurns{
		maxAnswer: maxAnswer,
		middle:    newSemaphore(middleMemory),
		heavy:     newSemaphore(1),
		parsing:   newSemaphore(int64(runtime.GOMAXPROCS(0))),
		// Any number of events may wait: to refuse one would end its stream. The limits of
		// operations and connections bound them.
		events: fair.NewSemaphore[clientKey](1, math.MaxInt, math.MaxInt),
	}
}

func newSemaphore(capacity int64) *fair.Semaphore[clientKey] {
	return fair.NewSemaphore[clientKey](capacity, maxWaiting, maxWaitingPerClient)
}

// stage is a turn that an execution needs from a number of fields on, list items included.
type stage struct {
	from    int64
	acquire func(context.Context) (release func(), err error)
}

// stagesOf returns the turns that the execution of ctx may need, in the order of their stages.
//
// Its class (see cost.go) decides which of them it needs before it starts. A light or middle
// execution may grow beyond its estimate, because a list without pages counts as one item. Then it
// waits for the turn of the next class on its way, and keeps those that it has. An execution that
// has a turn waits only for turns of heavier classes, so there is no deadlock.
func (t *executionTurns) stagesOf(ctx context.Context) []stage {
	oc := graphql.GetOperationContext(ctx)
	if oc.Operation != nil && oc.Operation.Operation == ast.Subscription && !fitsFeed(oc) {
		return []stage{newStage(0, t.events, 1)}
	}
	const middleFrom, heavyFrom = lightMemory / fieldMemory, heavyMemory / fieldMemory
	switch memory := memoryOf(oc, t.maxAnswer); {
	case memory > heavyMemory:
		return []stage{newStage(0, t.heavy, 1)}
	case memory > lightMemory:
		return []stage{newStage(0, t.middle, int64(memory)), newStage(heavyFrom, t.heavy, 1)}
	}
	return []stage{newStage(middleFrom, t.middle, heavyMemory), newStage(heavyFrom, t.heavy, 1)}
}

func newStage(from int64, in *fair.Semaphore[clientKey], weight int64) stage {
	return stage{from, func(ctx context.Context) (func(), error) {
		return acquireTurn(ctx, in, weight)
	}}
}

// acquireParsing waits for the turn to parse a document.
func (t *executionTurns) acquireParsing(ctx context.Context) (release func(), err error) {
	return acquireTurn(ctx, t.parsing, 1)
}

// acquireTurn waits for a turn of the client of ctx. It returns RATE_LIMITED if too many requests
// wait, of this client or in all.
func acquireTurn(
	ctx context.Context, in *fair.Semaphore[clientKey], weight int64,
) (release func(), err error) {
	release, err = in.Acquire(ctx, clientKeyOf(ctx), weight)
	if errors.Is(err, fair.ErrKeyFull) || errors.Is(err, fair.ErrFull) {
		e := errs.New(errs.RateLimited,
			"The server is busy with other large requests. "+
				"Try again later, or ask for less at once.")
		e.RetryAfter = turnRetryAfter
		return nil, e
	}
	return release, err
}
