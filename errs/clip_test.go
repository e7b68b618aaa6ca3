package errs_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"parley/errs"
)

func TestClip(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s            string
		limit        int
		want, middle string
	}{
		{"", 4, "", ""},
		{"abcd", 4, "abcd", "abcd"},
		{"abcde", 4, "abcd…", "ab … de"},
		{"éèêë", 4, "éèêë", "éèêë"},
		{"éèêëē", 4, "éèêë…", "éè … ëē"},
		{"😀😁😂😃😄", 3, "😀😁😂…", "😀 … 😄"},
		{"a\xffbcde", 4, "a\xffbc…", "a\xff … de"},
		{"abc", 0, "…", " … "},
	} {
		if got := errs.Clip(c.s, c.limit); got != c.want {
			t.Errorf("Clip(%q, %d) = %q, want %q", c.s, c.limit, got, c.want)
		}
		if got := errs.ClipMiddle(c.s, c.limit); got != c.middle {
			t.Errorf("ClipMiddle(%q, %d) = %q, want %q", c.s, c.limit, got, c.middle)
		}
	}
}

// Texts are cut between characters, and only if they are longer than the limit.
func TestClippedTextsAreValid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, limit := rapid.String().Draw(t, "s"), rapid.IntRange(0, 20).Draw(t, "limit")
		n := utf8.RuneCountInString(s)
		clipped, middle := errs.Clip(s, limit), errs.ClipMiddle(s, limit)
		if n <= limit {
			if clipped != s || middle != s {
				t.Fatalf("%q is not longer than %d: %q, %q", s, limit, clipped, middle)
			}
			return
		}
		begin, ok := strings.CutSuffix(clipped, "…")
		if !ok || !strings.HasPrefix(s, begin) || utf8.RuneCountInString(begin) != limit {
			t.Fatalf("%q, clipped to %d: %q", s, limit, clipped)
		}
		runes := []rune(s)
		if want := string(runes[:limit/2]) + " … " + string(runes[n-limit/2:]); middle != want {
			t.Fatalf("%q, clipped to %d: %q, want %q", s, limit, middle, want)
		}
	})
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"":                       `""`,
		`<"a">`:                  `"<\"a\">"`,
		strings.Repeat("é", 100): `"` + strings.Repeat("é", 100) + `"`,
		strings.Repeat("é", 101): `"` + strings.Repeat("é", 100) + `…"`,
	} {
		if got := errs.Quote(s); got != want {
			t.Errorf("Quote(%q) = %s, want %s", s, got, want)
		}
	}
}
