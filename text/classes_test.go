package text

import (
	"testing"
	"unicode"
)

// The functions that skip the tables for ASCII agree with the tables for every code point.
func TestCharacterClassesAgreeWithTheTables(t *testing.T) {
	t.Parallel()
	scripts := []*unicode.RangeTable{
		unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer,
		unicode.Myanmar,
	}
	for r := range rune(unicode.MaxRune + 1) {
		if got, want := isSymbol(r), unicode.Is(unicode.So, r); got != want {
			t.Errorf("%U is a symbol: %t", r, got)
		}
		word := unicode.In(r, unicode.L, unicode.M, unicode.N) &&
			!unicode.Is(unicode.Variation_Selector, r)
		if got := inWord(r); got != word {
			t.Errorf("%U is in a word: %t", r, got)
		}
		if got, want := unspaced(r), r == 'ー' || unicode.In(r, scripts...); got != want {
			t.Errorf("%U is of a script without spaces: %t", r, got)
		}
	}
}
