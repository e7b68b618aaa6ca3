package text_test

import (
	"testing"

	"parley/text"
)

func TestKeycapsAreWellFormed(t *testing.T) {
	t.Parallel()
	for _, key := range "0123456789#*" {
		want := string(key) + "\ufe0f\u20e3"
		if got, ok := text.Emoji(string(key) + "\u20e3"); !ok || got != want {
			t.Errorf("%q: %q, %v", key, got, ok)
		}
	}
}
