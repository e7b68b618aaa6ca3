package store

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"sync"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// Read runs a SELECT outside of transactions and returns its rows. It is for the statements whose
// cost counts. Bun writes arguments into the statement, so the database parses and plans each one
// again, which costs more than running it. Read prepares the statement once on each connection, and
// fills the structs itself.
//
// The text is SQL for both databases, with these placeholders:
//   - ?1, ?2 and so on are the arguments. A limit is LIMIT ?3 + 0: an argument that stands alone
//     there makes SQLite plan again for each new value.
//   - IN (?2...) is a list of ids of any length. Its argument is made by IDs.
//   - ?TableColumns are the columns of T. Every other column that the text selects has the name of
//     a column of T.
//
// Every text stays prepared on every connection, so there must be few: values that vary are
// arguments.
func Read[T any](ctx context.Context, db *DB, text string, args ...any) (found []*T, err error) {
	st := db.statement(reflect.TypeFor[T](), text)
	ctx, done := db.runHooks(ctx, st.text, args)
	// scan may be called more than once, because a read may be repeated.
	scan := func(r rows, columns []string) error {
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
			one := *row // a shallow copy: each Scan allocates what fields point to
			found = append(found, &one)
		}
		return r.Err()
	}
	if db.postgres {
		err = db.readPostgres(ctx, st.text, args, scan)
	} else {
		err = db.readSQLite(ctx, st, args, scan)
	}
	done(err)
	if err != nil {
		return nil, Error(err)
	}
	return found, nil
}

// IDs makes the argument for a list of ids.
func IDs[T ~[16]byte](ids []T) any {
	list := make([][16]byte, len(ids))
	for i, id := range ids {
		list[i] = id
	}
	return list
}

// Watch adds a hook that sees all statements from now on, those of Read included. It must not be
// called while the DB is used.
func (db *DB) Watch(hook bun.QueryHook) {
	db.DB = db.WithQueryHook(hook)
	db.hooks = append(db.hooks, hook)
}

// runHooks calls the hooks before a statement of Read, and returns the function that calls them
// after it.
func (db *DB) runHooks(
	ctx context.Context, text string, args []any,
) (context.Context, func(error)) {
	if len(db.hooks) == 0 {
		return ctx, func(error) {}
	}
	event := &bun.QueryEvent{
		DB: db.DB, Query: text, QueryTemplate: text, QueryArgs: args,
		StartTime: db.now(),
	}
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

// rows are what both drivers' rows have in common.
type rows interface {
	Next() bool
	Scan(to ...any) error
	Err() error
}

// statement is the text of a Read in the database's own SQL.
type statement struct {
	text  string
	table *schema.Table

	mu       sync.Mutex // guards prepared
	prepared *sql.Stmt  // SQLite only; nil until the first read
}

type statementKey struct {
	row  reflect.Type
	text string
}

var listOfIDs = regexp.MustCompile(`IN \((\?\d+)\.\.\.\)`)

// statement returns the statement of a text, which it translates the first time.
func (db *DB) statement(row reflect.Type, text string) *statement {
	key := statementKey{row, text}
	if st, ok := db.statements.Load(key); ok {
		return st.(*statement) //nolint:forcetypeassert // the map has no other values
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
	return st.(*statement) //nolint:forcetypeassert // the map has no other values
}

// destinations returns where Scan writes each column of a row: the fields of the struct.
func (db *DB) destinations(
	table *schema.Table, row reflect.Value, columns []string,
) ([]any, error) {
	to := make([]any, len(columns))
	for i, name := range columns {
		f := table.FieldMap[name]
		if f == nil {
			return nil, fmt.Errorf("the text selects a column %s, and %s has no such column", name,
				table.Type)
		}
		to[i] = destination(f.Value(row).Addr(), db.postgres)
	}
	return to, nil
}
