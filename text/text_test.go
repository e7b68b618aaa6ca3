package text_test

import (
	"testing"

	"parley/text"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"  hi\n":           "hi",
		"a\r\nb":           "a\nb",
		"e\u0301":          "é",
		"\u3000全角\u3000":   "全角",
		"مرحبا ":           "مرحبا",
		"👩\u200d👩\u200d👧 ": "👩\u200d👩\u200d👧",
		" \t\n ":           "",
	} {
		if got := text.Clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestFold(t *testing.T) {
	t.Parallel()
	for _, same := range [][]string{
		{"Ann", "ANN", "ann", "Ａｎｎ"},
		{"Straße", "STRASSE", "strasse"},
		{"Élan", "e\u0301lan", "ÉLAN"},
		{"ΣΊΣΥΦΟΣ", "σίσυφος"},
		{"ﬁne", "FINE"},
	} {
		for _, s := range same {
			if text.Fold(s) != text.Fold(same[0]) {
				t.Errorf("%q and %q differ", s, same[0])
			}
		}
	}
	if text.Fold("ann") == text.Fold("anna") {
		t.Error("ann and anna are not the same")
	}
}

func TestProblem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in        string
		multiline bool
		ok        bool
	}{
		{"plain", false, true},
		{"two\nlines\tand a tab", true, true},
		{"two\nlines", false, false},
		{"nul\x00", true, false},
		{"bell\a", true, false},
		{"next line \u0085", true, false},
		{"\xff", true, false},
		{"שלום 👋🏽", false, true},
	} {
		if got := text.Problem(c.in, c.multiline); (got == "") != c.ok {
			t.Errorf("%q: %q", c.in, got)
		}
	}
}

func TestInvisible(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"ann": false, "Ann Lee": false, "आन": false, "an\u200bn": true, "an\u00adn": true,
		"ann\u202e": true, "an\ufe0fn": true,
		"an\u2028n": true, "an\u3164n": true, "an\u00a0n": true, "\u2800\u2800": true,
	} {
		if got := text.Invisible(in); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func FuzzFoldIsStable(f *testing.F) {
	f.Add("Straße ΣΊΣΥΦΟΣ ﬁ ͅ")
	f.Fuzz(func(t *testing.T, s string) {
		if once := text.Fold(s); text.Fold(once) != once {
			t.Errorf("%q folds to %q and then to %q", s, once, text.Fold(once))
		}
	})
}
