package errs

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// maxQuoted is how many characters of a string Quote shows.
const maxQuoted = 100

// Clip returns the first characters of s, at most limit, and "…" if there are more. It is for text
// of clients, which may be as long as a request.
func Clip(s string, limit int) string {
	if n := prefix(s, limit); n < len(s) {
		return s[:n] + "…"
	}
	return s
}

// ClipMiddle returns s with " … " in place of its middle if it has more than limit characters. Half
// of limit is left on each side. It is for messages that end with advice.
func ClipMiddle(s string, limit int) string {
	if prefix(s, limit) == len(s) {
		return s
	}
	end := len(s)
	for range limit / 2 {
		_, size := utf8.DecodeLastRuneInString(s[:end])
		end -= size
	}
	return s[:prefix(s, limit/2)] + " … " + s[end:]
}

// Quote clips s to 100 characters and quotes it as JSON does.
func Quote(s string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(Clip(s, maxQuoted)) // a string can always be encoded
	return strings.TrimSuffix(b.String(), "\n")
}

// prefix returns the length in bytes of the first characters of s, at most limit.
func prefix(s string, limit int) int {
	if len(s) <= limit {
		return len(s)
	}
	characters := 0
	for i := range s {
		if characters == limit {
			return i
		}
		characters++
	}
	return len(s)
}
