package text_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/text"
)

func TestTokensAndTerms(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]string{
		"":                  {"", ""},
		"!? -- _":           {"", ""},
		"Two words, two":    {"two|words", "two|words"},
		"a_b c-d":           {"a|b|c|d", "a|b|c|d"},
		"北京市":               {"北|京|北京|市|京市", "北京|京市"},
		"北":                 {"北", "北"},
		"今日hello":           {"今|日|今日|hello", "今日|hello"},
		"कि ΣΊΣΥΦΟΣ Straße": {"कि|σίσυφοσ|strasse", "कि|σίσυφοσ|strasse"},
		"🎉🎉 ❤️":             {"🎉|❤", "🎉|❤"},
		strings.Repeat("x", 65) + " y": {
			strings.Repeat("x", 64) + "|y",
			strings.Repeat("x", 64) + "|y",
		},
	} {
		got := [2]string{strings.Join(text.Tokens(in), "|"), strings.Join(text.Terms(in), "|")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}

// Whatever is looked for in a text that it was taken from is found there, and a snippet that has
// room for all of it is it.
func FuzzSnippet(f *testing.F) {
	f.Add("今日はhello明日", "明日", 160)
	f.Add("ｶﾞｷﾞｸﾞ ﬁne Straße", "STRASSE", 10)
	f.Fuzz(func(t *testing.T, s, query string, size int) {
		size = max(1, min(size, 200))
		s = text.Clean(strings.ToValidUTF8(s, ""))
		var whole strings.Builder
		for _, part := range text.Snippet(s, text.Terms(query), size) {
			if part.Text == "" {
				t.Error("a part is empty")
			}
			whole.WriteString(part.Text)
		}
		shown := strings.TrimSuffix(strings.TrimPrefix(whole.String(), "…"), "…")
		if text.Len(whole.String()) > size+2 || !strings.Contains(s, shown) {
			t.Errorf("%q of %q", whole.String(), s)
		}
	})
}
