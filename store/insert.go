package store

import (
	"context"
	"reflect"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// InsertWhen inserts a row if stored is true. If not, it runs the same statement, which inserts
// nothing. It is for operations that must not reveal which of two cases they met, not even by the
// statements that they run.
//
// row points to a model. All of its columns are written, without the table's defaults. onConflict
// ends the statement, as in "ON CONFLICT (key) DO NOTHING", and may be empty.
func (tx *Tx) InsertWhen(ctx context.Context, stored bool, row any, onConflict string) error {
	table := tx.Dialect().Tables().Get(reflect.TypeOf(row))
	_, err := tx.NewRaw("INSERT INTO ? (?) SELECT ? WHERE ? ?",
		table.SQLName, insertColumns(table.Fields),
		insertValues{table.Fields, reflect.ValueOf(row).Elem()}, stored,
		bun.Safe(onConflict)).Exec(ctx)
	return err
}

type insertColumns []*schema.Field

func (c insertColumns) AppendQuery(_ schema.QueryGen, b []byte) ([]byte, error) {
	for i, f := range c {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, f.SQLName...)
	}
	return b, nil
}

type insertValues struct {
	fields []*schema.Field
	row    reflect.Value
}

func (v insertValues) AppendQuery(gen schema.QueryGen, b []byte) ([]byte, error) {
	for i, f := range v.fields {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = f.AppendValue(gen, b, v.row)
	}
	return b, nil
}
