package text_test

import (
	"os"
	"strings"
	"testing"

	"parley/text"
)

// scotland is a black flag, five letters as tags, and the tag that ends them.
const scotland = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"

func TestEmojiAreFullyQualified(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"one code point":                   {"👍", "👍"},
		"shown as text without a selector": {"\u2764", "\u2764\ufe0f"},
		"with its selector":                {"\u2764\ufe0f", "\u2764\ufe0f"},
		"a selector that is not needed":    {"👍\ufe0f", "👍"},
		"a watch, which needs none":        {"\u231a\ufe0f", "\u231a"},
		"a skin tone":                      {"👋\U0001f3fd", "👋\U0001f3fd"},
		"a selector before a skin tone":    {"\u261d\ufe0f\U0001f3fd", "\u261d\U0001f3fd"},
		"a flag":                           {"🇳🇵", "🇳🇵"},
		"a flag by tags":                   {scotland, scotland},
		"a family":                         {"👨\u200d👩\u200d👧\u200d👦", "👨\u200d👩\u200d👧\u200d👦"},
		"a profession":                     {"👩\U0001f3fe\u200d🚒", "👩\U0001f3fe\u200d🚒"},
		"a couple of two skin tones": {
			"👩🏻\u200d\u2764\u200d💋\u200d👨🏿",
			"👩🏻\u200d\u2764\ufe0f\u200d💋\u200d👨🏿",
		},
		"a gender":                            {"🏃\u200d\u2640", "🏃\u200d\u2640\ufe0f"},
		"selectors within, partly":            {"🏳\u200d\u26a7\ufe0f", "🏳\ufe0f\u200d\u26a7\ufe0f"},
		"hair, which Unicode shows alone too": {"🦰", "🦰"},
		"new in Unicode 16":                   {"\U0001fae9", "\U0001fae9"},
		"new in Unicode 17":                   {"\U0001faea", "\U0001faea"},
		"the first of the list":               {"\u00a9", "\u00a9\ufe0f"},
	} {
		if got, ok := text.Emoji(c.in); !ok || got != c.want {
			t.Errorf("%s: %+q is %+q, %t, want %+q", name, c.in, got, ok, c.want)
		}
	}
	for _, key := range "0123456789#*" {
		want := string(key) + "\ufe0f\u20e3"
		if got, ok := text.Emoji(string(key) + "\u20e3"); !ok || got != want {
			t.Errorf("keycap %q: %q, %v", key, got, ok)
		}
	}
}

func TestTheWholeList(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile("emoji.txt")
	if err != nil {
		t.Fatal(err)
	}
	for want := range strings.Lines(string(list)) {
		want = strings.TrimSuffix(want, "\n")
		for _, form := range []string{want, strings.ReplaceAll(want, "\ufe0f", "")} {
			if got, ok := text.Emoji(form); !ok || got != want {
				t.Errorf("%+q is %+q, %t, want %+q", form, got, ok, want)
			}
		}
	}
}

func TestWhatIsNotOneEmojiIsRefused(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{
		"nothing":                            "",
		"a letter":                           "a",
		"a digit, which is an emoji's base":  "1",
		"a word":                             "thumbsup",
		"a line":                             "👍\n",
		"two emoji":                          "👍👍",
		"an emoji and a letter":              "👍a",
		"a symbol":                           "☆",
		"a chess piece":                      "♖",
		"a selector alone":                   "\ufe0f",
		"a joiner alone":                     "\u200d",
		"the form of text":                   "\u2764\ufe0e",
		"a skin tone alone":                  "\U0001f3fd",
		"a skin tone on a face":              "😀\U0001f3fd",
		"two skin tones":                     "👋🏽🏽",
		"half a flag":                        "\U0001f1fa",
		"a flag of no region":                "\U0001f1fd\U0001f1f8",
		"tags without an end":                strings.TrimSuffix(scotland, "\U000e007f"),
		"a flag by tags of no subdivision":   "\U0001f3f4\U000e0078\U000e0078\U000e0078\U000e007f",
		"a sequence that ends with a joiner": "👩\u200d",
		"a sequence that is not recommended": "👩\u200d🧀",
		"a keycap of a letter":               "a\ufe0f\u20e3",
		"a keycap without a key":             "\u20e3",
		"bytes that are not UTF-8":           "\xf0\x9f\x91",
		"far too much":                       strings.Repeat("👍", 1000),
		"far too many selectors":             "👍" + strings.Repeat("\ufe0f", 100),
	} {
		if got, ok := text.Emoji(s); ok {
			t.Errorf("%s: %+q is %+q", name, s, got)
		}
	}
}
