package graph

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/99designs/gqlgen/graphql"
	"github.com/google/go-cmp/cmp"
	"github.com/vektah/gqlparser/v2/ast"

	"parley/auth"
	"parley/document"
	"parley/errs"
	"parley/fair"
)

// executionOf is the context of an operation that a client at an address sent.
func executionOf(
	t *testing.T, address string, kind ast.Operation, cost document.Cost,
) context.Context {
	t.Helper()
	oc := &graphql.OperationContext{Operation: &ast.OperationDefinition{Operation: kind}}
	setCost(oc, cost)
	i := &identity{client: auth.Client{IP: address}}
	return graphql.WithOperationContext(withIdentity(t.Context(), i), oc)
}

func TestExecutionsHaveClasses(t *testing.T) {
	t.Parallel()
	turns := newExecutionTurns(16 << 20)
	for name, c := range map[string]struct {
		kind  ast.Operation
		cost  document.Cost
		waits map[string]bool // by the semaphore that is in use
	}{
		"light":  {ast.Query, document.Cost{Fields: 10}, map[string]bool{}},
		"middle": {ast.Query, document.Cost{Bytes: 1 << 20}, map[string]bool{"middle": true}},
		"heavy":  {ast.Query, document.Cost{Bytes: 8 << 20}, map[string]bool{"heavy": true}},
		"event":  {ast.Subscription, document.Cost{Fields: 301}, map[string]bool{"events": true}},
	} {
		for in, s := range map[string]*fair.Semaphore[clientKey]{
			"middle": turns.middle, "heavy": turns.heavy, "events": turns.events,
			"parsing": turns.parsing,
		} {
			synctest.Test(t, func(t *testing.T) {
				release, err := s.Acquire(t.Context(), clientKey{network: "other"}, middleMemory)
				if err != nil {
					t.Fatal(err)
				}
				ctx := executionOf(t, "192.0.2.1", c.kind, c.cost)
				ran := make(chan bool, 1)
				go func() {
					if first := turns.stagesOf(ctx)[0]; first.from == 0 {
						release, err := first.acquire(ctx)
						if err != nil {
							t.Error(err)
							return
						}
						defer release()
					}
					ran <- true
				}()
				synctest.Wait()
				if waits := len(ran) == 0; waits != c.waits[in] {
					t.Errorf("%s while %s is in use: waits %v", name, in, waits)
				}
				release()
				<-ran
			})
		}
	}
}

func TestHeavyExecutionsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newExecutionTurns(16 << 20)
		release, err := turns.heavy.Acquire(t.Context(), clientKey{network: "first"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		addresses := []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"}
		ran := make(chan string, len(addresses))
		for _, address := range addresses {
			ctx := executionOf(t, address, ast.Query, document.Cost{Bytes: 8 << 20})
			go func() {
				release, err := turns.stagesOf(ctx)[0].acquire(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				ran <- address
				release()
			}()
			synctest.Wait() // so that they queue in this order
		}
		release()
		var got []string
		for range addresses {
			got = append(got, <-ran)
		}
		if diff := cmp.Diff([]string{"192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1"},
			got); diff != "" {
			t.Error(diff)
		}
	})
}

// The code is the same if one client has too many waiting requests, or all clients have: in both
// cases it helps to ask for less at once.
func TestTurnsAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			most, mostOfOne int
			last            string
		}{
			"of one client":  {10, 1, "192.0.2.1"},
			"of all clients": {1, 10, "192.0.2.2"},
		} {
			in := fair.NewSemaphore[clientKey](1, c.most, c.mostOfOne)
			release, err := in.Acquire(t.Context(), clientKey{network: "first"}, 1)
			if err != nil {
				t.Fatal(err)
			}
			waited := make(chan error, 1)
			go func() {
				release, err := acquireTurn(executionOf(t, c.last, ast.Query, document.Cost{}), in,
					1)
				if err == nil {
					release()
				}
				waited <- err
			}()
			synctest.Wait()
			_, err = acquireTurn(executionOf(t, "192.0.2.1", ast.Query, document.Cost{}), in, 1)
			if e, ok := errors.AsType[*errs.Error](err); !ok || e.Code != errs.RateLimited ||
				e.RetryAfter != turnRetryAfter {
				t.Errorf("%s: got %v", name, err)
			}
			release()
			if err := <-waited; err != nil {
				t.Errorf("%s: the one that waited: %v", name, err)
			}
		}
	})
}

// TestExecutionsThatGrowTakeTurns: one that was estimated as light waits once it is not, and keeps
// its turns until its end.
func TestExecutionsThatGrowTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newExecutionTurns(16 << 20)
		all, err := turns.middle.Acquire(t.Context(), clientKey{network: "other"}, middleMemory)
		if err != nil {
			t.Fatal(err)
		}
		one, err := turns.heavy.Acquire(t.Context(), clientKey{network: "other"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		a := &answer{limit: 16 << 20, maxFields: 1 << 20, stop: func(error) {}}
		ctx := executionOf(t, "192.0.2.1", ast.Query, document.Cost{Fields: 10})
		a.stages = turns.stagesOf(ctx)
		a.nextStage.Store(a.stages[0].from)
		charged := make(chan error, 1)
		charge := func(items int) {
			go func() { charged <- a.charge(ctx, "mentions", make([]*struct{}, items)) }()
			synctest.Wait()
		}
		if charge(lightMemory/fieldMemory - 2); len(charged) != 1 || <-charged != nil {
			t.Fatal("it waits although it is light")
		}
		if charge(1); len(charged) != 0 {
			t.Fatal("it goes on although it is no longer light")
		}
		all()
		if synctest.Wait(); len(charged) != 1 || <-charged != nil {
			t.Fatal("it waits although there is room")
		}
		if charge(heavyMemory / fieldMemory); len(charged) != 0 {
			t.Fatal("it goes on although it is heavy")
		}
		one()
		if synctest.Wait(); len(charged) != 1 || <-charged != nil {
			t.Fatal("it waits although no heavy one runs")
		}
		if len(a.releases) != 2 || len(a.stages) != 0 {
			t.Errorf("it holds %d turns, and may need %d", len(a.releases), len(a.stages))
		}
		for _, release := range a.releases {
			release()
		}
	})
}

// TestEventsAreNotRefused: that would end their streams.
func TestEventsAreNotRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newExecutionTurns(16 << 20)
		release, err := turns.events.Acquire(t.Context(), clientKey{network: "other"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		const many = 3 * maxWaiting
		done := make(chan error, many)
		for range many {
			ctx := executionOf(t, "192.0.2.1", ast.Subscription, document.Cost{Fields: 1000})
			go func() {
				release, err := turns.stagesOf(ctx)[0].acquire(ctx)
				if err == nil {
					release()
				}
				done <- err
			}()
		}
		synctest.Wait()
		release()
		for range many {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	})
}
