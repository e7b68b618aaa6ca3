package store

import (
	"cmp"
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// OnServerChange registers a function that is called when a new connection finds that another
// PostgreSQL server answers than for the connection before, or the same one with another history:
// it was restarted, promoted, or restored, or the database or its tables were made again. It may
// also be called although nothing changed that matters, and a change behind a pooler that keeps its
// connections is not seen. On SQLite it is never called.
//
// fn is called before the new connection is used. Connections that were made earlier are closed
// before their next use, but what runs on them may end after fn. Connecting waits for fn, so fn
// must not use the database nor block: it sets a flag, and wakes a goroutine.
func (db *DB) OnServerChange(fn func()) {
	if db.connector == nil {
		return
	}
	db.connector.mu.Lock()
	defer db.connector.mu.Unlock()
	db.connector.onChange = append(db.connector.onChange, fn)
}

// serverIdentity is what the server of a connection reports about itself. A part is "" if it is
// unknown.
type serverIdentity [5]string

const (
	startTime   = iota // of the server process, in seconds since 1970
	databaseOID        // which another database of the same name does not have
	eventsOID          // of the table events; unknown before the first migration
	timeline           // as in the names of WAL files; unknown on a standby
	systemID           // made by initdb, the same on a primary and its standbys
)

// identityQueries are sent together. If the server refuses one, the answers of the others count.
// The first sets the session up too, and must not be refused. Managed servers may refuse the others
// to ordinary roles.
//
//nolint:gochecknoglobals // a constant
var identityQueries = [...]string{
	`SELECT extract(epoch FROM pg_postmaster_start_time())::text,
		(SELECT oid::text FROM pg_database WHERE datname = current_database()),
		coalesce(to_regclass('events')::oid::text, ''), current_setting('transaction_read_only'),
		set_config('idle_in_transaction_session_timeout', '` +
		strconv.Itoa(int(maxIdleInTx.Milliseconds())) + `', false)`,
	`SELECT CASE WHEN pg_is_in_recovery() THEN 'standby'
		ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END`,
	`SELECT system_identifier::text FROM pg_control_system()`,
}

// identify sets up a new session, and compares its server with that of the connection before, in
// one round trip.
func (c *pgxConn) identify(ctx context.Context, conn *pgconn.PgConn) error {
	k := c.connector
	k.mu.Lock()
	refused := k.refused
	k.mu.Unlock()
	pipeline := conn.StartPipeline(ctx)
	for i, query := range identityQueries {
		if !refused[i] {
			pipeline.SendQueryParams(query, nil, nil, nil, nil)
			pipeline.SendPipelineSync() // so that an error does not cancel the next
		}
	}
	if err := pipeline.Flush(); err != nil {
		return errors.Join(err, pipeline.Close())
	}
	var now serverIdentity
	for i := range identityQueries {
		if refused[i] {
			continue
		}
		row, err := readRow(pipeline)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && i > 0 {
			refused[i] = isRefusal(pgErr.Code) // asking each time would fill the server's log
			continue
		}
		if err != nil {
			return errors.Join(err, pipeline.Close())
		}
		switch i {
		case 0:
			now[startTime], now[databaseOID], now[eventsOID] = row[0], row[1], row[2]
			c.readOnly = row[3] == "on"
		case 1:
			now[timeline] = row[0]
		case 2:
			now[systemID] = row[0]
		}
	}
	if err := pipeline.Close(); err != nil {
		return err
	}
	k.compare(c, now, refused)
	return nil
}

// readRow reads the one row of a query, and the end of its part of the pipeline, also after an
// error.
func readRow(pipeline *pgconn.Pipeline) (row []string, err error) {
	for {
		results, failed := pipeline.GetResults()
		if failed != nil {
			if _, ok := errors.AsType[*pgconn.PgError](failed); !ok || err != nil {
				return nil, failed
			}
			err = failed
			continue
		}
		switch results := results.(type) {
		case *pgconn.ResultReader:
			result := results.Read()
			err = result.Err
			for _, line := range result.Rows {
				for _, value := range line {
					row = append(row, string(value))
				}
			}
		case *pgconn.PipelineSync:
			return row, err
		default:
			return nil, errors.New("the server gave no answer to the first queries of a session")
		}
	}
}

// isRefusal reports whether a SQLSTATE means that the server will never answer a query.
func isRefusal(code string) bool {
	switch code {
	case "42501", // insufficient_privilege
		"42883", // undefined_function
		"0A000": // feature_not_supported
		return true
	}
	return false
}

// compare reports a change of the server. The connection belongs to the new generation then.
func (k *pgxConnector) compare(
	c *pgxConn, now serverIdentity, refused [len(identityQueries)]bool,
) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refused = refused
	changed := k.seen.differs(now)
	k.seen = k.seen.updated(now)
	if !changed {
		return
	}
	k.beginGeneration(k.generation.Load(),
		"another server answers, or it was restarted, promoted or restored")
	c.generation = k.generation.Load()
	for _, fn := range k.onChange {
		fn()
	}
}

// differs compares the parts that are known of both.
func (s serverIdentity) differs(now serverIdentity) bool {
	for i, part := range s {
		if part != "" && now[i] != "" && part != now[i] {
			return true
		}
	}
	return false
}

// updated returns now, with the parts of s that are unknown in now.
func (s serverIdentity) updated(now serverIdentity) serverIdentity {
	for i, part := range now {
		now[i] = cmp.Or(part, s[i])
	}
	return now
}
