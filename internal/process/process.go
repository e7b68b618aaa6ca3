// Package process starts programs for tests and measurements: servers that run until they are
// stopped, and never longer than the process that has started them. It needs Linux.
//
// # Concurrency
//
// One goroutine starts the program, stays on its thread, and waits until the program has ended.
package process

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
)

// Environment returns that of this process without the settings of Parley, which a shell may have,
// and with more: NAME=value each.
func Environment(more ...string) []string {
	var env []string
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "PARLEY_") {
			env = append(env, setting)
		}
	}
	return append(env, more...)
}

// ParleyIsUp is the message that Parley logs when it serves.
const ParleyIsUp = "parley is up"

// ParleyAPI returns the address of the API from the line (JSON) that Parley logs when it serves,
// and "" for any other line.
func ParleyAPI(line string) string {
	var entry struct{ Msg, API string }
	if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != ParleyIsUp {
		return ""
	}
	return entry.API
}

// Lines is a Writer that calls Each with each complete line, without its end. The line is only
// valid during the call.
type Lines struct {
	Each    func(line []byte)
	partial []byte
}

func (l *Lines) Write(b []byte) (int, error) {
	l.partial = append(l.partial, b...)
	rest := l.partial
	for {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			l.partial = append(l.partial[:0], rest...)
			return len(b), nil
		}
		l.Each(line)
		rest = after
	}
}
