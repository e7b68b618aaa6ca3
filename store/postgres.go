package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"parley/internal/usertimeout"
)

const (
	// maxIdleInTx is how long PostgreSQL waits for the next statement of a transaction. No
	// transaction here takes that long. Without a limit, a node that is frozen or cut off in the
	// middle of one would keep its locks until it is back.
	maxIdleInTx = 10 * time.Second
	// maxIdle is how long an unused connection stays open.
	maxIdle = 5 * time.Minute
	// connectTimeout is how long each host may take to accept a connection, unless the URL has
	// another connect_timeout. A URL with several hosts may begin with one that is gone.
	connectTimeout = 5 * time.Second
	// silence is how long the machine of the database may acknowledge nothing before a connection
	// is given up. A machine that is switched off or cut off reports no end of its connections.
	silence = 15 * time.Second
)

// openPostgres opens a pool of connections. It does not connect yet.
func openPostgres(
	databaseURL string, opts Options, log *slog.Logger,
) (*bun.DB, *pgxConnector, error) {
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		// the cause has the password in it
		return nil, nil, errors.New("the PostgreSQL URL cannot be read")
	}
	// Bun writes arguments into the statement, so a prepared one would be used only once. This mode
	// saves the round trip.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	if hosts(cfg) > 1 && !hasSessionAttrs(databaseURL) {
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, connectTimeout)
	cfg.DialFunc = dialer(cfg.ConnectTimeout)
	connector := newPgxConnector(cfg, log)
	pool := sql.OpenDB(connector)
	maxConns := cmp.Or(opts.MaxConns, DefaultMaxConns)
	pool.SetMaxOpenConns(maxConns)
	pool.SetMaxIdleConns(maxConns)
	pool.SetConnMaxIdleTime(maxIdle)
	pool.SetConnMaxLifetime(cmp.Or(opts.MaxConnLifetime, DefaultMaxConnLifetime))
	return bun.NewDB(pool, pgdialect.New()), connector, nil
}

// hosts counts the hosts of a URL. pgx lists a host twice if it tries it with and without TLS.
func hosts(cfg *pgx.ConnConfig) int {
	type host struct {
		name string
		port uint16
	}
	distinct := map[host]bool{{cfg.Host, cfg.Port}: true}
	for _, f := range cfg.Fallbacks {
		distinct[host{f.Host, f.Port}] = true
	}
	return len(distinct)
}

// hasSessionAttrs reports whether the operator chose the servers that may be used.
func hasSessionAttrs(databaseURL string) bool {
	u, err := url.Parse(databaseURL)
	return err == nil && u.Query().Has("target_session_attrs") ||
		os.Getenv("PGTARGETSESSIONATTRS") != ""
}

// dialer makes connections that end when the machine at the other side is silent: while an answer
// is awaited, by keepalive probes, and while a request is not acknowledged, by the user timeout.
func dialer(timeout time.Duration) pgconn.DialFunc {
	d := &net.Dialer{Timeout: timeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: silence / 3, Interval: silence / 3, Count: 2,
	}}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil {
			usertimeout.Set(conn, silence)
		}
		return conn, err
	}
}
