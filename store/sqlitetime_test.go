package store_test

import (
	"testing"
	"time"

	"parley/store"
)

func TestSQLiteTime(t *testing.T) {
	t.Parallel()
	second := time.Date(2026, 11, 22, 10, 15, 30, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-22 10:15:30+00:00":        second,
		"2026-11-22 10:15:30.5+00:00":      second.Add(500 * time.Millisecond),
		"2026-11-22 10:15:30.000007+00:00": second.Add(7 * time.Microsecond),
		"2026-11-22 10:15:30.123456+00:00": second.Add(123_456 * time.Microsecond),
		// which is not written here, and read all the same
		"2026-11-22 11:15:30+01:00": second,
		"0001-01-01 00:00:00+00:00": {},
		"9999-12-31 23:59:59.999999+00:00": time.Date(9999, 12, 31, 23, 59, 59, 999_999_000,
			time.UTC),
		"2024-02-29 00:00:00+00:00": time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
	} {
		var got store.SQLiteTime
		if err := got.Scan(text); err != nil || time.Time(got) != want {
			t.Errorf("%s is read as %v (%v)", text, time.Time(got), err)
		}
		value, err := store.SQLiteTime(want).Value()
		if err != nil || value != text && text != "2026-11-22 11:15:30+01:00" {
			t.Errorf("%s is written as %s (%v)", text, value, err)
		}
	}
	for _, text := range []any{
		"", "2026-11-22", "2026-11-22 10:15:30", "2026-11-22 10:15:30.+00:00",
		"2025-02-29 10:15:30+00:00", "2026-13-01 10:15:30+00:00",
		"2026-11-22 24:00:00+00:00", "2026-11-22 10:15:60+00:00", "2026-1x-22 10:15:30+00:00",
		"2026-11-22 10:15:30.12x+00:00",
		"2026/11-22 10:15:30+00:00", "2026-11-22 10:15:30_1+00:00", 7, nil,
	} {
		var got store.SQLiteTime
		if err := got.Scan(text); err == nil {
			t.Errorf("%v is read as %v", text, time.Time(got))
		}
	}
}
