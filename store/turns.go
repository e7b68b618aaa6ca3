package store

import (
	"context"
	"sync"
)

// InTurn is InTx for a transaction that begins with locking a row: those of this node that name the same one take turns in the
// order in which they came, before they have a connection. Otherwise everybody who changes one conversation would wait for its
// lock with a connection in hand, and leave too few for the rest. row is any value that names it, of a type of its own.
func (db *DB) InTurn(ctx context.Context, row any, fn func(ctx context.Context, tx *Tx) error) error {
	leave, err := db.turns.take(ctx, row)
	if err != nil {
		return err
	}
	defer leave()
	return db.InTx(ctx, fn)
}

// turns are the queues in front of rows.
type turns struct {
	mu    sync.Mutex // guards what follows
	byRow map[any]*turn
}

type turn struct {
	taken chan struct{} // has one while somebody has the turn; who waits to put it there is served in order
	users int           // who have it, or wait for it
}

// take waits for a turn. Whoever has had it calls leave.
func (t *turns) take(ctx context.Context, row any) (leave func(), err error) {
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

func (t *turns) join(row any) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.byRow[row]
	if q == nil {
		q = &turn{taken: make(chan struct{}, 1)}
		t.byRow[row] = q
	}
	q.users++
	return q
}

func (t *turns) part(row any, q *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.users--; q.users == 0 {
		delete(t.byRow, row)
	}
}

// takePlace waits until one more transaction may have a connection.
func (db *DB) takePlace(ctx context.Context) (leave func(), err error) {
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
