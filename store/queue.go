package store

import (
	"context"
	"sync"
)

// InQueuedTx is InTx for a transaction that begins with locking a row: those of this node that name
// the same one take turns in the order in which they came, before they have a connection. Otherwise
// everybody who changes one conversation would wait for its lock with a connection in hand, and
// leave too few for the rest. row is any value that names it, of a type of its own.
func (db *DB) InQueuedTx(ctx context.Context, row any, fn func(ctx context.Context, tx *Tx) error) error {
	leave, err := db.turns.take(ctx, row)
	if err != nil {
		return err
	}
	defer leave()
	return db.InTx(ctx, fn)
}

// queues are the queues in front of rows.
type queues struct {
	mu    sync.Mutex // guards what follows
	byRow map[any]*queue
}

type queue struct {
	// has one while somebody has the turn; who waits to put it there is served in order
	taken chan struct{}
	users int // who have it, or wait for it
}

// take waits for a turn. Whoever has had it calls leave.
func (t *queues) take(ctx context.Context, row any) (leave func(), err error) {
	q := t.join(row)
	select {
	case q.taken <- struct{}{}:
		return func() {
			<-q.taken
			t.part(row, q)
		}, nil
	case <-ctx.Done():
		t.part(row, q)
		return nil, ctx.Err()
	}
}

func (t *queues) join(row any) *queue {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.byRow[row]
	if q == nil {
		q = &queue{taken: make(chan struct{}, 1)}
		t.byRow[row] = q
	}
	q.users++
	return q
}

func (t *queues) part(row any, q *queue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.users--; q.users == 0 {
		delete(t.byRow, row)
	}
}

// takeSlot waits until one more transaction may have a connection.
func (db *DB) takeSlot(ctx context.Context) (leave func(), err error) {
	if db.places == nil {
		return func() {}, nil
	}
	select {
	case db.places <- struct{}{}:
		return func() { <-db.places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
