package text

import (
	_ "embed"
	"strings"
	"sync"
)

// Emoji reports whether s is one emoji of those that Unicode recommends for interchange (RGI_Emoji
// in UTS #51), and returns its fully qualified form. A heart with and without its variation
// selector thus is one emoji.
func Emoji(s string) (string, bool) {
	if len(s) > maxEmoji {
		return "", false
	}
	qualified, ok := emojiTable()[unqualified(s)]
	return qualified, ok
}

// maxEmoji is longer than any emoji, in bytes.
const maxEmoji = 64

// unqualified removes the selectors that ask for an emoji's colourful form.
func unqualified(s string) string { return strings.ReplaceAll(s, "\ufe0f", "") }

// emojiList has one fully qualified emoji in each line.
//
//go:generate ../scripts/emoji
//go:embed emoji.txt
var emojiList string

// emojiTable maps the unqualified form of each emoji to the fully qualified one.
//
//nolint:gochecknoglobals // a table that never changes, made when it is needed first
var emojiTable = sync.OnceValue(func() map[string]string {
	table := make(map[string]string, strings.Count(emojiList, "\n"))
	for qualified := range strings.Lines(emojiList) {
		qualified = strings.TrimSuffix(qualified, "\n")
		table[unqualified(qualified)] = qualified
	}
	return table
})
