package errs

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// maxQuoted is how many characters of a string Quote shows.
const maxQuoted = 100

// Clip returns the first characters of s, at most limit, and "…" if there are more. What a client
// sent may be as long as a request.
func Clip(s string, limit int) string {
	if n := prefix(s, limit); n < len(s) {
		return s[:n] + "…"
	}
	return s
}

// ClipMiddle returns s with " … " for its middle if it has more than limit characters, for messages
// that say at their end what to do. Half of limit is left on each side.
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

// Quote returns the first 100 characters of s as Clip does, in quotation marks as in JSON.
func Quote(s string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(Clip(s, maxQuoted)) // a string can always be encoded
	return strings.TrimSuffix(b.String(), "\n")
}

// prefix is how many bytes the first characters of s have, at most limit characters.
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
