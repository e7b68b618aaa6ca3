package store

import (
	"context"

	"parley/refmap"
)

// InQueuedTx is InTx for a transaction that first locks a row. The transactions of this node that
// lock the same row run one after the other, in the order in which they came, and wait for each
// other without a connection. If they waited in the database instead, the writers of one busy
// conversation could hold every connection.
//
// row is any comparable value that identifies the row, of a type that nothing else uses.
func (db *DB) InQueuedTx(
	ctx context.Context, row any, fn func(ctx context.Context, tx *Tx) error,
) error {
	leave, err := db.queues.enter(ctx, row)
	if err != nil {
		return err
	}
	defer leave()
	return db.InTx(ctx, fn)
}

// queues has a queue for each row that a transaction uses or waits for. The zero value is ready.
type queues struct{ byRow refmap.Map[any, queue] }

// queue holds one value while a transaction uses the row. Goroutines that wait to send theirs are
// served in order.
type queue chan struct{}

// enter waits until the row is free. The caller calls leave when it is done.
func (qs *queues) enter(ctx context.Context, row any) (leave func(), err error) {
	q := qs.byRow.Acquire(row, func() queue { return make(queue, 1) })
	select {
	case q <- struct{}{}:
		return func() {
			<-q
			qs.byRow.Release(row, nil)
		}, nil
	case <-ctx.Done():
		qs.byRow.Release(row, nil)
		return nil, ctx.Err()
	}
}

// takeSlot waits until fewer than the maximum of transactions are open.
func (db *DB) takeSlot(ctx context.Context) (release func(), err error) {
	if db.slots == nil {
		return func() {}, nil
	}
	select {
	case db.slots <- struct{}{}:
		return func() { <-db.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
