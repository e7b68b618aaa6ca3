package judge

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// read calls fn with each record of a file. A last line without an end is left out: the run was
// killed while it wrote the line.
func read(path string, fn func(r Record) error) (err error) {
	file, err := os.Open(path) //nolint:gosec // the file that the caller names
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewReaderSize(file, 1<<16)
	last := int64(0)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if number == 1 {
				return fmt.Errorf("%s is empty", path)
			}
			return nil
		}
		if err != nil {
			return err
		}
		var r Record
		if err = json.Unmarshal(line, &r); err == nil {
			err = check(r, number, last)
		}
		if err == nil {
			err = fn(r)
		}
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", path, number, err)
		}
		last = r.Time
	}
}

// check refuses records that are not of a history file of this form.
func check(r Record, number int, last int64) error {
	switch {
	case number == 1 && (r.Type != Run || r.Form == 0):
		return errors.New("not a history file of parley verify")
	case number == 1 && r.Form != form:
		return fmt.Errorf("a history file of form %d; this program reads form %d", r.Form, form)
	case r.Time < last:
		return errors.New("the time is before that of the line before")
	}
	switch r.Type {
	case Run, Begin, End, Told, Conversation, Subscribe, Seek, Restored:
	case Invoke, Info, OK, Fail:
		if r.Op == 0 || r.Process == "" {
			return fmt.Errorf("a record %q without op or process", r.Type)
		}
	case Deliver:
		if r.Stream == "" {
			return fmt.Errorf("a record %q without stream", r.Type)
		}
	default:
		return fmt.Errorf("%q is not a type of record", r.Type)
	}
	return nil
}
