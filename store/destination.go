package store

import (
	"reflect"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

//nolint:gochecknoglobals // constants
var (
	timeType  = reflect.TypeFor[time.Time]()
	bytesOfID = reflect.TypeFor[*[16]byte]()
	textType  = reflect.TypeFor[*string]()
)

// destination converts the pointer to a field into the one that the driver scans into, and scans
// into fastest.
func destination(field reflect.Value, postgres bool) any {
	to, t := field.Interface(), field.Type().Elem()
	optional := t.Kind() == reflect.Pointer
	switch {
	case t.Kind() == reflect.String:
		return field.Convert(textType).Interface()
	case postgres && isID(t): // pgx would scan the id's own type by way of text
		return field.Convert(bytesOfID).Interface()
	case postgres && optional && isID(t.Elem()):
		return &optionalID{field.Elem()}
	case !postgres && t == timeType:
		return (*SQLiteTime)(to.(*time.Time)) //nolint:forcetypeassert // its type was checked
	case !postgres && optional && t.Elem() == timeType:
		//nolint:forcetypeassert // its type was checked
		return &optionalSQLiteTime{to.(**time.Time)}
	}
	return to
}

func isID(t reflect.Type) bool {
	return t.Kind() == reflect.Array && t.Len() == 16 && t.Elem().Kind() == reflect.Uint8
}

// optionalID scans into a field that is a pointer to an id; NULL is nil.
type optionalID struct{ field reflect.Value }

func (o *optionalID) ScanUUID(id pgtype.UUID) error {
	if !id.Valid {
		o.field.SetZero()
		return nil
	}
	o.field.Set(reflect.New(o.field.Type().Elem()))
	to := o.field.Convert(bytesOfID).Interface().(*[16]byte) //nolint:forcetypeassert // see above
	*to = id.Bytes
	return nil
}

// optionalSQLiteTime scans into a field of the type *time.Time; NULL is nil.
type optionalSQLiteTime struct{ to **time.Time }

func (o *optionalSQLiteTime) Scan(value any) error {
	if value == nil {
		*o.to = nil
		return nil
	}
	*o.to = new(time.Time)
	return (*SQLiteTime)(*o.to).Scan(value)
}
