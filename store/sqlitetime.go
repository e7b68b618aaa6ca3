package store

import (
	"database/sql/driver"
	"fmt"
	"time"
)

// SQLiteTime is a time as SQLite has it, text in UTC, for statements that are not Bun's, which writes the same.
type SQLiteTime time.Time

const sqliteTime = "2006-01-02 15:04:05.999999-07:00"

func (t SQLiteTime) Value() (driver.Value, error) { return time.Time(t).UTC().Format(sqliteTime), nil }

func (t *SQLiteTime) Scan(value any) error {
	text, ok := value.(string)
	if !ok {
		return fmt.Errorf("a time is stored as text, not as %T", value)
	}
	parsed, err := time.Parse(sqliteTime, text)
	*t = SQLiteTime(parsed.UTC())
	return err
}
