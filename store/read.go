package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// Read runs a SELECT outside of transactions, and returns its rows: for the few whose cost counts.
// Bun writes arguments into the statement, so each one is parsed and planned anew, which costs more
// than running it; Read has it prepared, once for each connection, and fills the structs itself.
//
// The text is SQL with ?1, ?2 and so on for arguments. A list of ids is IN (?2...), and its
// argument made by IDs, so that its length is not part of the text. ?TableColumns are the columns
// of T; in any other case each column is called as one of T is. Texts must be few, because each is
// kept prepared: what varies is an argument. A limit is LIMIT ?3 + 0: for each value of an argument
// that stands there alone, SQLite would plan anew.
func Read[T any](ctx context.Context, db *DB, text string, args ...any) (found []*T, err error) {
	st := db.statement(reflect.TypeFor[T](), text)
	ctx, done := db.watched(ctx, st.text, args)
	take := func(r rows, columns []string) error {
		found = nil
		row := new(T)
		to, err := db.destinations(st.table, reflect.ValueOf(row).Elem(), columns)
		if err != nil {
			return err
		}
		for r.Next() {
			if err := r.Scan(to...); err != nil {
				return err
			}
			one := *row // whatever it points to is made anew for each row
			found = append(found, &one)
		}
		return r.Err()
	}
	if db.postgres {
		err = db.readPostgres(ctx, st.text, args, take)
	} else {
		err = db.readSQLite(ctx, st, args, take)
	}
	done(err)
	if err != nil {
		return nil, Error(err)
	}
	return found, nil
}

// IDs is the argument for a list of ids.
func IDs[T ~[16]byte](ids []T) any {
	list := make([][16]byte, len(ids))
	for i, id := range ids {
		list[i] = id
	}
	return list
}

// Watch has a hook see every statement from now on, also those of Read, which are not Bun's. Nobody
// may use the DB meanwhile.
func (db *DB) Watch(hook bun.QueryHook) {
	db.DB = db.WithQueryHook(hook)
	db.hooks = append(db.hooks, hook)
}

func (db *DB) watched(ctx context.Context, text string, args []any) (context.Context, func(error)) {
	if len(db.hooks) == 0 {
		return ctx, func(error) {}
	}
	event := &bun.QueryEvent{DB: db.DB, Query: text, QueryTemplate: text, QueryArgs: args, StartTime: db.now()}
	for _, hook := range db.hooks {
		ctx = hook.BeforeQuery(ctx, event)
	}
	return ctx, func(err error) {
		event.Err = err
		for _, hook := range db.hooks {
			hook.AfterQuery(ctx, event)
		}
	}
}

// rows are those of either driver.
type rows interface {
	Next() bool
	Scan(to ...any) error
	Err() error
}

// statement is a text as its database has it.
type statement struct {
	text  string
	table *schema.Table

	mu       sync.Mutex // guards what follows
	prepared *sql.Stmt  // on the connections that read of SQLite; nil until it is needed first
}

type statementKey struct {
	row  reflect.Type
	text string
}

var listOfIDs = regexp.MustCompile(`IN \((\?\d+)\.\.\.\)`)

func (db *DB) statement(row reflect.Type, text string) *statement {
	key := statementKey{row, text}
	if st, ok := db.statements.Load(key); ok {
		return st.(*statement) //nolint:forcetypeassert // there are no others
	}
	table := db.Table(row)
	columns := make([]string, len(table.Fields))
	for i, f := range table.Fields {
		columns[i] = table.Alias + "." + f.Name
	}
	text = strings.ReplaceAll(strings.TrimSpace(text), "?TableColumns", strings.Join(columns, ", "))
	if db.postgres {
		text = strings.ReplaceAll(listOfIDs.ReplaceAllString(text, "= ANY($1)"), "?", "$")
	} else {
		text = listOfIDs.ReplaceAllString(text, "IN (SELECT value FROM json_each($1))")
	}
	st, _ := db.statements.LoadOrStore(key, &statement{text: text, table: table})
	return st.(*statement) //nolint:forcetypeassert // there are no others
}

// KeptPlans are the settings under which what is prepared on PostgreSQL is planned, and end with
// the transaction that begins with them. One plan is made of a statement, for whatever arguments,
// and kept. Made while a table is small, or before anybody has counted it, it must not read all of
// it; each of these statements has an index for what it looks for.
const KeptPlans = `SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true)`

// maxReads bounds how often a read is tried that meets connections that have ended.
const maxReads = 3

func (db *DB) readPostgres(ctx context.Context, text string, args []any, take func(rows, []string) error) error {
	for n := 1; ; n++ {
		ended := false
		err := db.onPgx(ctx, func(conn *pgx.Conn) error {
			err := readOn(ctx, conn, text, args, take)
			if outdated(err) {
				if err := forget(ctx, conn, KeptPlans, text); err != nil {
					return err
				}
				err = readOn(ctx, conn, text, args, take)
			}
			ended = conn.IsClosed()
			return err
		})
		// A read changes nothing, so it may be sent again where its connection turned out to have
		// ended, as those do that were idle while the database was restarted.
		if err == nil || !ended || n == maxReads || ctx.Err() != nil {
			return err
		}
	}
}

func readOn(ctx context.Context, conn *pgx.Conn, text string, args []any, take func(rows, []string) error) (err error) {
	if err := prepare(ctx, conn, KeptPlans, text); err != nil {
		return err
	}
	b := &pgx.Batch{}
	// Up to the Sync at its end, a batch is one transaction. So the settings are for this read
	// alone, in the same round trip, and not for what Bun asks next on the connection, nor for
	// whoever gets it from a pooler. They cost a few microseconds each time, and count only when
	// the database plans anew, of which it tells nobody.
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
	return take(r, columns)
}

// outdated reports that a prepared statement is no more what the client takes it for: its columns
// have another type since a migration, or it is gone from the server. Prepared anew, it will do.
func outdated(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	// cached plan must not change result type
	return ok && (pgErr.Code == "0A000" && pgErr.Routine == "RevalidateCachedQuery" ||
		pgErr.Code == "26000") // invalid_sql_statement_name
}

// prepare does nothing about what is prepared already, which goes by its text.
func prepare(ctx context.Context, conn *pgx.Conn, texts ...string) error {
	for _, text := range texts {
		if _, err := conn.Prepare(ctx, text, text); err != nil {
			return err
		}
	}
	return nil
}

// forget has statements prepared anew. One by one: DEALLOCATE ALL would pass by a pooler that
// prepares for many.
func forget(ctx context.Context, conn *pgx.Conn, texts ...string) error {
	for _, text := range texts {
		if err := conn.Deallocate(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// readSQLite needs no care for migrations: SQLite itself prepares anew what is outdated.
func (db *DB) readSQLite(ctx context.Context, st *statement, args []any, take func(rows, []string) error) (err error) {
	prepared, err := st.on(ctx, db.readers) //nolint:sqlclosecheck // with the database
	if err != nil {
		return err
	}
	values := make([]any, len(args))
	for i, arg := range args {
		if values[i], err = sqliteArgument(arg); err != nil {
			return err
		}
	}
	r, err := prepared.QueryContext(ctx, values...) //nolint:rowserrcheck // take looks
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, r.Close()) }()
	columns, err := r.Columns()
	if err != nil {
		return err
	}
	return take(r, columns)
}

func (st *statement) on(ctx context.Context, pool *sql.DB) (*sql.Stmt, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.prepared == nil {
		prepared, err := pool.PrepareContext(ctx, st.text)
		if err != nil {
			return nil, err
		}
		st.prepared = prepared
	}
	return st.prepared, nil
}

func sqliteArgument(arg any) (any, error) {
	switch arg := arg.(type) {
	case [][16]byte:
		list := make([]string, len(arg))
		for i, id := range arg {
			list[i] = uuid.UUID(id).String()
		}
		text, err := json.Marshal(list)
		return string(text), err
	case time.Time:
		return SQLiteTime(arg), nil
	}
	return arg, nil
}

// destinations are where the columns of a row go.
func (db *DB) destinations(table *schema.Table, row reflect.Value, columns []string) ([]any, error) {
	to := make([]any, len(columns))
	for i, name := range columns {
		f := table.FieldMap[name]
		if f == nil {
			return nil, fmt.Errorf("the read has a column %s, and %s has none of that name", name, table.Type)
		}
		to[i] = destination(f.Value(row).Addr(), db.postgres)
	}
	return to, nil
}
