package store

import (
	"context"
	"database/sql/driver"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
)

// pgxConnector makes the connections of the pool, which are of the type pgxConn. Each belongs to a
// generation. When a connection reports that its server no longer accepts writes or is going away,
// or when a new one meets another server, the next generation begins. Connections of earlier ones
// are closed before their next use, because they lead to a server that is no longer the primary.
type pgxConnector struct {
	config     *pgx.ConnConfig
	log        *slog.Logger
	generation atomic.Uint64

	mu       sync.Mutex // guards those below; functions in onChange run with it held
	seen     serverIdentity
	onChange []func()
	refused  [len(identityQueries)]bool // queries that the server refuses
}

func newPgxConnector(config *pgx.ConnConfig, log *slog.Logger) *pgxConnector {
	return &pgxConnector{config: config, log: log}
}

// Driver implements driver.Connector.
func (k *pgxConnector) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// Connect implements driver.Connector.
func (k *pgxConnector) Connect(ctx context.Context) (driver.Conn, error) {
	c := &pgxConn{connector: k, generation: k.generation.Load()}
	config := *k.config
	config.OnPgError, config.OnNotice = c.onPgError, c.onNotice
	conn, err := stdlib.GetConnector(config, stdlib.OptionAfterConnect(c.setUp)).Connect(ctx)
	if err != nil {
		return nil, err
	}
	c.Conn = conn.(*stdlib.Conn) //nolint:forcetypeassert // stdlib's connector makes no others
	c.established = true
	return c, nil
}

// beginGeneration ends the generation of a connection. It does nothing if that has ended.
func (k *pgxConnector) beginGeneration(after uint64, reason string) {
	if k.generation.CompareAndSwap(after, after+1) {
		k.log.Warn("connecting to the database again", "reason", reason)
	}
}

// pgxConn is the driver's connection, which reports to the pool when it must not be used again.
//
// One reason is that it has ended: pgx closes a connection when a statement on it is cancelled.
// Otherwise the pool would keep it, and the next caller would get an error; after three such errors
// in a row database/sql gives up, as if the database were down. The other reason is that it leads
// to a server that is no longer the primary.
type pgxConn struct {
	*stdlib.Conn
	connector   *pgxConnector
	generation  uint64
	established bool        // false while it is being made
	readOnly    bool        // the server was read-only from the start
	leaving     atomic.Bool // its server has reported that it cannot be used for writes
}

var (
	_ driver.Validator       = (*pgxConn)(nil)
	_ driver.SessionResetter = (*pgxConn)(nil)
)

// IsValid is called by the pool before it takes a connection back.
func (c *pgxConn) IsValid() bool { return c.isCurrent() && !c.Conn.Conn().IsClosed() }

// ResetSession is called by the pool before it uses a connection again.
func (c *pgxConn) ResetSession(ctx context.Context) error {
	if !c.isCurrent() {
		return driver.ErrBadConn
	}
	return c.Conn.ResetSession(ctx)
}

func (c *pgxConn) isCurrent() bool {
	return !c.leaving.Load() && c.generation == c.connector.generation.Load()
}

// setUp prepares a new connection for its use: its settings, and which server it leads to.
func (c *pgxConn) setUp(ctx context.Context, conn *pgx.Conn) error {
	conn.TypeMap().RegisterType(&pgtype.Type{
		Name: "timestamptz", OID: pgtype.TimestamptzOID,
		Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
	})
	return c.identify(ctx, conn.PgConn())
}

// onPgError is called with each error of the server. It reports whether the connection stays open.
func (c *pgxConn) onPgError(conn *pgconn.PgConn, err *pgconn.PgError) bool {
	c.observe(err.Code, err.Message)
	return c.connector.config.OnPgError(conn, err)
}

// onNotice is called with each warning of the server. One that crashes or is shut down at once
// sends a warning, and no error, before it closes its connections.
func (c *pgxConn) onNotice(_ *pgconn.PgConn, notice *pgconn.Notice) {
	c.observe(notice.Code, notice.Message)
}

func (c *pgxConn) observe(code, message string) {
	// An error while connecting concerns only one of the hosts: pgx tries the next.
	if !c.established || !isLeaving(code) {
		return
	}
	c.leaving.Store(true)
	// If the server was read-only from the start, it is no news, and the other connections are no
	// better or worse for reads.
	if code != readOnlySQLTransaction || !c.readOnly {
		c.connector.beginGeneration(c.generation, message)
	}
}

// isLeaving reports whether a SQLSTATE means that the server no longer accepts writes or is going
// away, so that the other connections to it are of no use either.
func isLeaving(code string) bool {
	switch code {
	case readOnlySQLTransaction,
		"57P01", // admin_shutdown, also of one session by pg_terminate_backend
		"57P02", // crash_shutdown
		"57P03", // cannot_connect_now
		"57P04": // database_dropped
		return true
	}
	return false
}
