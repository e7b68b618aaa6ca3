package text

import (
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// Text with many marks in a row keeps them all, and gets nothing between them.
func TestLongRunsOfMarks(t *testing.T) {
	t.Parallel()
	acute, below := strings.Repeat("\u0301", 40), strings.Repeat("\u0323", 40)
	for name, c := range map[string]struct{ in, nfc string }{
		"a run on a letter": {"e" + acute, "é" + acute[2:]},
		"a run on nothing":  {acute, acute},
		// the mark below comes first, and combines
		"marks out of order": {"e" + acute + below, "ẹ" + below[2:] + acute},
		"a run that is NFC":  {"é" + acute, "é" + acute},
		"two runs": {
			"e" + acute + "o" + acute,
			"é" + acute[2:] + "ó" + acute[2:],
		},
		"Hangul before":                {"\u1100\u1161\u11a8" + acute, "각" + acute},
		"Hangul behind":                {"e" + acute + "\u1100\u1161\u11a8", "é" + acute[2:] + "각"},
		"a joiner of the sender's own": {"e\u034f" + acute, "e\u034f" + acute},
		"two starters":                 {"\u09c7\u09be" + acute, "\u09cb" + acute},
		// is excluded from it
		"no composition": {"\u0958" + acute, "\u0915\u093c" + acute},
	} {
		if got := nfc(c.in); got != c.nfc {
			t.Errorf("%s: %+q, want %+q", name, got, c.nfc)
		}
		if got := Fold(c.in); Fold(got) != got ||
			strings.Count(got, graphemeJoiner) != strings.Count(c.in, graphemeJoiner) {
			t.Errorf("%s folds to %+q", name, got)
		}
	}
	if got := nfkc("ﬁ" + acute); got != "fí"+acute[2:] {
		t.Errorf("NFKC is %+q", got)
	}
	if zalgo := "é" + acute; Clean(zalgo+" "+zalgo) != zalgo+" "+zalgo {
		t.Errorf("what is stored of %+q is %+q", zalgo, Clean(zalgo))
	}
}

// spell draws text of what normalization has rules for: marks of several classes, Hangul, letters
// that decompose.
func spell(t *rapid.T, runs int) string {
	one := rapid.SampledFrom([]rune(
		"eA가\u1100\u1161\u11a8\u0301\u0301\u0323\u0327\u0345\u0344\u034f\u09c7\u09be" +
			"\u0958ﬁẛ̣\u1e9bΣß\U0001d15e\U000110ba "))
	return string(rapid.SliceOfN(one, 0, runs).Draw(t, "text"))
}

// The plain algorithm and norm are the same where no run is long.
func TestThePlainFormIsNorms(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := spell(t, 25)
		for _, form := range [][2]norm.Form{{norm.NFC, norm.NFD}, {norm.NFKC, norm.NFKD}} {
			if got, want := compose(decompose(s, form[1])), form[0].String(s); got != want {
				t.Fatalf("%+q: got %+q, want %+q", s, got, want)
			}
		}
	})
}

// NFC changes nothing that is NFC, is canonically equivalent to what it is made of, and neither
// adds nor removes a joiner.
func TestNFCIsANormalForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := spell(t, 25) + strings.Repeat("\u0301\u0323", rapid.IntRange(0, 40).
			Draw(t, "marks")) + spell(t, 25)
		checkNormalForm(t, s)
	})
}

func checkNormalForm(t interface{ Fatalf(string, ...any) }, s string) {
	once := nfc(s)
	switch {
	case nfc(once) != once:
		t.Fatalf("%+q becomes %+q, and that %+q", s, once, nfc(once))
	case spelt(once) != spelt(s):
		t.Fatalf("%+q becomes %+q, which is another text", s, once)
	case strings.Count(once, graphemeJoiner) != strings.Count(s, graphemeJoiner):
		t.Fatalf("%+q becomes %+q, with other joiners", s, once)
	}
}

// spelt is text decomposed.
func spelt(s string) string {
	var b strings.Builder
	for _, c := range decompose(s, norm.NFD) {
		b.WriteRune(c.r)
	}
	return b.String()
}

func FuzzNFC(f *testing.F) {
	f.Add("e" + strings.Repeat("\u0301\u0323", 40) + "각")
	f.Add("ﬁ Straße ẛ̣")
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			if nfc(s) != norm.NFC.String(s) {
				t.Errorf("%q is not text, and is changed", s)
			}
			return
		}
		checkNormalForm(t, s)
		if norm.NFC.IsNormalString(s) && nfc(s) != s {
			t.Errorf("%+q is NFC, and is changed", s)
		}
		if want := norm.NFC.String(s); strings.Count(want, graphemeJoiner) == strings.Count(s,
			graphemeJoiner) {
			if got := compose(decompose(s, norm.NFD)); got != want {
				t.Errorf("%+q: got %+q, want %+q", s, got, want)
			}
		}
	})
}
