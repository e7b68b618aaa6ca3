package store

import (
	"context"
	"database/sql/driver"

	"github.com/jackc/pgx/v5"
)

// PgxTx is a transaction on PostgreSQL that sends several statements at a time. They are prepared
// once on each connection. It is for the transactions whose cost counts.
type PgxTx struct {
	conn     *pgx.Conn
	prepared []string // the texts of its statements so far
}

// InPgxTx is InTx for a PgxTx. fn ends with Commit; if it does not, the transaction is rolled back.
// After an error nothing is stored, except that an error that wraps ErrUnknown leaves it open.
func (db *DB) InPgxTx(ctx context.Context, fn func(ctx context.Context, tx *PgxTx) error) error {
	return withRetries(func() error {
		return db.onPgx(ctx, func(conn *pgx.Conn) error {
			tx := &PgxTx{conn: conn}
			err := fn(ctx, tx)
			if conn.PgConn().TxStatus() != 'I' && !conn.IsClosed() {
				// if this fails, onPgx closes the connection, which ends the transaction too
				_, _ = conn.Exec(ctx, "ROLLBACK")
			}
			if isStalePlan(err) { // withRetries tries again
				_ = deallocate(ctx, conn, tx.prepared...)
			}
			return err
		})
	})
}

// Begin sends the transaction's first statements.
func (tx *PgxTx) Begin(ctx context.Context, b *pgx.Batch) error {
	first := &pgx.Batch{}
	first.Queue("BEGIN")
	first.Queue(KeptPlans)
	first.QueuedQueries = append(first.QueuedQueries, b.QueuedQueries...)
	if err := tx.prepare(ctx, first); err != nil {
		return err
	}
	return tx.conn.SendBatch(ctx, first).Close()
}

// Commit sends the last statements, and the commit with them. If a statement fails, nothing is
// committed.
func (tx *PgxTx) Commit(ctx context.Context, b *pgx.Batch) error {
	b.Queue("COMMIT")
	if err := tx.prepare(ctx, b); err != nil {
		return err
	}
	err := tx.conn.SendBatch(ctx, b).Close()
	if err != nil && tx.conn.IsClosed() { // on an open connection, the server reported the failure
		return unknown(err)
	}
	return err
}

func (tx *PgxTx) prepare(ctx context.Context, b *pgx.Batch) error {
	var texts []string
	for _, q := range b.QueuedQueries {
		texts = append(texts, q.SQL)
	}
	tx.prepared = append(tx.prepared, texts...)
	return prepare(ctx, tx.conn, texts...)
}

// onPgx runs fn with the pgx connection below one of the pool's. If fn leaves a transaction open,
// the connection is closed, and the database rolls back.
func (db *DB) onPgx(ctx context.Context, fn func(*pgx.Conn) error) error {
	conn, err := db.DB.DB.Conn(ctx)
	if err != nil {
		return Error(err)
	}
	var failed error
	_ = conn.Raw(func(raw any) error {
		c := raw.(*pgxConn).Conn.Conn() //nolint:forcetypeassert // openPostgres makes no others
		failed = fn(c)
		if c.IsClosed() || c.PgConn().TxStatus() != 'I' {
			return driver.ErrBadConn // makes the pool close it
		}
		return nil
	})
	_ = conn.Close() // returns it to the pool
	return Error(failed)
}
