package text

import (
	"strings"
	"sync"

	"github.com/forPelevin/gomoji"
)

// Emoji reports whether s is one emoji of those that Unicode recommends for interchange (UTS #51),
// and brings it into the form that is stored: fully qualified, so that a heart with and without its
// variation selector is one and the same.
func Emoji(s string) (string, bool) {
	if len(s) > maxEmoji {
		return "", false
	}
	qualified, known := emoji()[unqualified(s)]
	return qualified, known
}

// maxEmoji is longer than any emoji, in bytes.
const maxEmoji = 64

// unqualified is an emoji without the selectors that ask for its colourful form.
func unqualified(s string) string { return strings.ReplaceAll(s, "\ufe0f", "") }

// emoji has the fully qualified form of each emoji by its unqualified one.
//
//nolint:gochecknoglobals // a table that never changes, made when it is needed first
var emoji = sync.OnceValue(func() map[string]string {
	all := gomoji.AllEmojis()
	table := make(map[string]string, len(all))
	for _, e := range all {
		key := unqualified(e.Character)
		if strings.HasPrefix(e.Slug, "regional-indicator") || strings.HasPrefix(e.Character, "\ufe0f") {
			// half a flag; or a mistake in the list, where a selector stands before what it selects
			continue
		}
		if len(e.Character) > len(table[key]) {
			table[key] = e.Character
		}
	}
	return table
})
