package store

import (
	"cmp"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// KeptPlans sets how PostgreSQL plans prepared statements, until the end of the transaction. It
// makes one plan for all values of the arguments and keeps it. The plan may be made while a table
// is still small or has no statistics, so it must not be a sequential scan: each prepared statement
// has an index for what it looks for.
const KeptPlans = `SELECT set_config('plan_cache_mode', 'force_generic_plan', true),
	set_config('enable_seqscan', 'off', true)`

// maxReads is how many connections a read tries, if it meets some that have ended.
const maxReads = 3

func (db *DB) readPostgres(
	ctx context.Context, text string, args []any, scan func(rows, []string) error,
) error {
	for n := 1; ; n++ {
		ended := false
		err := db.onPgx(ctx, func(conn *pgx.Conn) error {
			err := readOn(ctx, conn, text, args, scan)
			if isStalePlan(err) {
				if err := deallocate(ctx, conn, KeptPlans, text); err != nil {
					return err
				}
				err = readOn(ctx, conn, text, args, scan)
			}
			ended = conn.IsClosed()
			return err
		})
		// After a restart of the database, the idle connections of the pool have ended. A read
		// changes nothing, so it is sent again on another connection.
		if err == nil || !ended || n == maxReads || ctx.Err() != nil {
			return err
		}
	}
}

func readOn(
	ctx context.Context, conn *pgx.Conn, text string, args []any, scan func(rows, []string) error,
) (err error) {
	if err := prepare(ctx, conn, KeptPlans, text); err != nil {
		return err
	}
	b := &pgx.Batch{}
	// A batch is one transaction, up to the Sync message at its end. So the settings need no round
	// trip of their own, and end with this read: neither Bun's next statement on the connection nor
	// the next user of a pooler's connection gets them. They cost a few microseconds each time, and
	// matter only when PostgreSQL plans again, which a client cannot know.
	b.Queue(KeptPlans)
	b.Queue(text, args...)
	results := conn.SendBatch(ctx, b)
	defer func() { err = cmp.Or(err, results.Close()) }()
	if _, err := results.Exec(); err != nil {
		return err
	}
	r, err := results.Query()
	if err != nil {
		return err
	}
	defer r.Close()
	fields := r.FieldDescriptions()
	columns := make([]string, len(fields))
	for i, f := range fields {
		columns[i] = f.Name
	}
	return scan(r, columns)
}

// prepare prepares statements under their own texts as names. Those that the connection has already
// cost nothing.
func prepare(ctx context.Context, conn *pgx.Conn, texts ...string) error {
	for _, text := range texts {
		if _, err := conn.Prepare(ctx, text, text); err != nil {
			return err
		}
	}
	return nil
}

// isStalePlan reports whether a prepared statement failed because a migration changed the types of
// its columns, or because the server no longer has it. Prepared again, it works.
func isStalePlan(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	const featureNotSupported, invalidStatementName = "0A000", "26000"
	// "cached plan must not change result type" has no code of its own
	return pgErr.Code == featureNotSupported && pgErr.Routine == "RevalidateCachedQuery" ||
		pgErr.Code == invalidStatementName
}

// deallocate makes prepare prepare the statements again. It deallocates them one by one, because
// DEALLOCATE ALL would bypass a pooler that keeps the prepared statements of many clients.
func deallocate(ctx context.Context, conn *pgx.Conn, texts ...string) error {
	for _, text := range texts {
		if err := conn.Deallocate(ctx, text); err != nil {
			return err
		}
	}
	return nil
}
