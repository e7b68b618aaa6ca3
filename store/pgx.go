package store

import (
	"context"
	"database/sql/driver"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// PgxTx is a transaction on PostgreSQL whose statements are prepared, once for each connection, and
// of which several are sent at a time: for the few whose cost counts.
type PgxTx struct {
	conn     *pgx.Conn
	prepared []string // what it has used
}

// InPgxTx is InTx for such statements. fn sends the last of them with Commit; where it returns
// without, what it did is rolled back. An error wraps ErrUnknown where the commit's outcome is
// unknown; by any other, nothing is stored.
func (db *DB) InPgxTx(ctx context.Context, fn func(ctx context.Context, tx *PgxTx) error) error {
	return untilSettled(func() error {
		return db.onPgx(ctx, func(conn *pgx.Conn) error {
			tx := &PgxTx{conn: conn}
			err := fn(ctx, tx)
			if conn.PgConn().TxStatus() != 'I' && !conn.IsClosed() {
				// else the connection is given up, which ends the transaction too
				_, _ = conn.Exec(ctx, "ROLLBACK")
			}
			if outdated(err) { // and is run again
				_ = forget(ctx, conn, tx.prepared...)
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

// Commit sends the last statements, and the commit with them. Where a statement fails, nothing is
// committed.
func (tx *PgxTx) Commit(ctx context.Context, b *pgx.Batch) error {
	b.Queue("COMMIT")
	if err := tx.prepare(ctx, b); err != nil {
		return err
	}
	err := tx.conn.SendBatch(ctx, b).Close()
	if err != nil && tx.conn.IsClosed() { // else the server has said that it did not
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

// onPgx runs fn with one of the pool's connections, as the driver has it. A connection on which a
// transaction is left open is closed, and the database rolls back.
func (db *DB) onPgx(ctx context.Context, fn func(*pgx.Conn) error) error {
	conn, err := db.DB.DB.Conn(ctx)
	if err != nil {
		return Error(err)
	}
	var failed error
	_ = conn.Raw(func(raw any) error {
		c := raw.(*pgxConn).Conn.Conn() //nolint:forcetypeassert // openPostgres has no other
		failed = fn(c)
		if c.IsClosed() || c.PgConn().TxStatus() != 'I' {
			return driver.ErrBadConn // which has the pool close it
		}
		return nil
	})
	_ = conn.Close() // gives it back
	return Error(failed)
}

// pgxConnector makes connections that tell the pool when they are of no use any more.
type pgxConnector struct{ driver.Connector }

func (c pgxConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &pgxConn{conn.(*stdlib.Conn)}, nil //nolint:forcetypeassert // stdlib's connector has no other
}

// pgxConn is the driver's connection. A statement that is cancelled closes it; the driver alone
// would tell only the next who is given it, and the pool gives up after three of those, as if the
// database were away.
type pgxConn struct{ *stdlib.Conn }

var _ driver.Validator = (*pgxConn)(nil)

// IsValid is what the pool asks before it takes a connection back.
func (c *pgxConn) IsValid() bool { return !c.Conn.Conn().IsClosed() }
