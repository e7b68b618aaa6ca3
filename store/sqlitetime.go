package store

import (
	"database/sql/driver"
	"fmt"
	"strings"
	"time"
)

// SQLiteTime is a time as Bun stores it in SQLite, as text in UTC, for statements that are not made
// by Bun.
type SQLiteTime time.Time

const sqliteTime = "2006-01-02 15:04:05.999999-07:00"

func (t SQLiteTime) Value() (driver.Value, error) {
	return time.Time(t).UTC().Format(sqliteTime),
		nil
}

func (t *SQLiteTime) Scan(value any) error {
	text, ok := value.(string)
	if !ok {
		return fmt.Errorf("a time is stored as text, not as %T", value)
	}
	if parsed, ok := parseUTC(text); ok {
		*t = SQLiteTime(parsed)
		return nil
	}
	parsed, err := time.Parse(sqliteTime, text)
	*t = SQLiteTime(parsed.UTC())
	return err
}

// parseUTC reads what Value writes, several times as fast as time.Parse, because a page of messages
// has hundreds of times in it. ok is false for any other text.
func parseUTC(text string) (t time.Time, ok bool) {
	const date, zone, microseconds = "2006-01-02 15:04:05", "+00:00", 6
	rest, ok := strings.CutSuffix(text, zone)
	if !ok || len(rest) < len(date) || len(rest) == len(date)+1 ||
		len(rest) > len(date)+1+microseconds {
		return t, false
	}
	number := func(digits string) (n int) {
		for i := range len(digits) {
			d := digits[i] - '0'
			ok = ok && d <= 9
			n = 10*n + int(d)
		}
		return n
	}
	for i, c := range []byte(date) {
		ok = ok && (c >= '0' && c <= '9' || rest[i] == c)
	}
	nano := 0
	if fraction := rest[len(date):]; fraction != "" {
		ok = ok && fraction[0] == '.'
		nano = number(fraction[1:])
		for range 9 - len(fraction[1:]) {
			nano *= 10
		}
	}
	year, month, day := number(rest[0:4]), number(rest[5:7]), number(rest[8:10])
	hour, minute, second := number(rest[11:13]), number(rest[14:16]), number(rest[17:19])
	t = time.Date(year, time.Month(month), day, hour, minute, second, nano, time.UTC)
	// time.Date takes a day that the calendar does not have, such as April 31, for another day.
	return t, ok && t.Year() == year && t.Month() == time.Month(month) && t.Day() == day &&
		t.Hour() == hour && t.Minute() == minute && t.Second() == second
}
