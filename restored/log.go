package restored

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// line is one line of a node's structured log.
type line struct {
	at      time.Time
	message string
	values  map[string]string // texts only
}

// maxLine is the length of a line in bytes beyond which reading fails. Parley's lines are shorter.
const maxLine = 1 << 20

// readLog calls each for every line that package log/slog has written, in either of its formats. It
// skips other lines, and what journald or Docker put before a line.
func readLog(r io.Reader, each func(line)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if l, ok := readLine(lines.Text()); ok {
			each(l)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	return nil
}

func readLine(text string) (l line, ok bool) {
	if start := strings.Index(text, `{"time":`); start >= 0 {
		return readJSON(text[start:])
	}
	if start := strings.Index(text, "time="); start >= 0 {
		return readText(text[start:])
	}
	return line{}, false
}

// readJSON reads a line of slog.JSONHandler.
func readJSON(text string) (l line, ok bool) {
	values := map[string]any{}
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		return line{}, false
	}
	texts := map[string]string{}
	for key, value := range values {
		if s, isText := value.(string); isText {
			texts[key] = s
		}
	}
	return lineOf(texts)
}

// readText reads a line of slog.TextHandler: pairs of key=value, quoted as Go quotes strings if
// necessary.
func readText(text string) (l line, ok bool) {
	values := map[string]string{}
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimLeft(text, " ") {
		var key, value string
		if key, text, ok = cutToken(text, "="); !ok || !strings.HasPrefix(text, "=") {
			return line{}, false
		}
		if value, text, ok = cutToken(text[1:], " "); !ok {
			return line{}, false
		}
		if _, known := values[key]; !known {
			values[key] = value
		}
	}
	return lineOf(values)
}

// cutToken cuts a quoted string, or everything before end.
func cutToken(text, end string) (token, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		if i := strings.Index(text, end); i >= 0 {
			return text[:i], text[i:], true
		}
		return text, "", true
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", "", false
	}
	token, err = strconv.Unquote(quoted)
	return token, text[len(quoted):], err == nil
}

func lineOf(values map[string]string) (line, bool) {
	at, err := time.Parse(time.RFC3339Nano, values["time"])
	return line{at, values["msg"], values}, err == nil && values["msg"] != ""
}
