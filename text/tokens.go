package text

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxToken is how many code points of a word are kept.
const maxToken = 64

// Tokens returns the words of a text, folded, each once, in order. Searches on both databases
// compare them. A word is a run of letters, marks and digits, or one symbol, such as an emoji. In
// scripts without spaces between words, every character is a token, and every two neighbours are
// one, so that a part of a sentence is found in it.
func Tokens(s string) []string { return tokens(s, true) }

// Terms returns the words that a query searches for. It is Tokens without the single characters of
// longer runs in scripts without spaces.
func Terms(s string) []string { return tokens(s, false) }

func tokens(s string, singles bool) (list []string) { return tokensOfFolded(Fold(s), singles) }

func tokensOfFolded(folded string, singles bool) (list []string) {
	runes := []rune(folded)
	seen := map[string]bool{}
	add := func(token []rune) {
		if t := string(token[:min(len(token), maxToken)]); !seen[t] {
			seen[t] = true
			list = append(list, t)
		}
	}
	for _, w := range words(runes) {
		word := runes[w.from:w.to]
		if !unspaced(word[0]) {
			add(word)
			continue
		}
		for i := range word {
			if singles || len(word) == 1 {
				add(word[i : i+1])
			}
			if i > 0 {
				add(word[i-1 : i+1])
			}
		}
	}
	return list
}

// span is a part of a text, in code points.
type span struct{ from, to int }

// words returns the words of a text. A word ends where scripts with and without spaces meet.
func words(s []rune) (list []span) {
	start := -1 // of the current word
	end := func(at int) {
		if start >= 0 {
			list = append(list, span{start, at})
			start = -1
		}
	}
	for i, r := range s {
		switch {
		case isSymbol(r):
			end(i)
			list = append(list, span{i, i + 1})
		case !inWord(r):
			end(i)
		case start >= 0 && unspaced(r) != unspaced(s[start]) && !unicode.Is(unicode.M, r):
			end(i)
			start = i
		case start < 0:
			start = i
		}
	}
	end(len(s))
	return list
}

// The tables of package unicode are not needed for ASCII, which most characters are. Every message
// that is sent is tokenized.

func isSymbol(r rune) bool { return r > unicode.MaxASCII && unicode.Is(unicode.So, r) }

// inWord reports whether r is part of a word. Variation selectors are marks, but only change how a
// character looks.
func inWord(r rune) bool {
	if r <= unicode.MaxASCII {
		return unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	return unicode.In(r, unicode.L, unicode.M, unicode.N) &&
		!unicode.Is(unicode.Variation_Selector, r)
}

// firstUnspaced is the first code point of Thai, the first block of a script without spaces.
const firstUnspaced = '\u0e00'

// unspaced reports whether r is of a script that writes words without spaces between them.
func unspaced(r rune) bool {
	// 'ー' lengthens the kana before it, and belongs to several scripts.
	return r >= firstUnspaced && (r == 'ー' ||
		unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao,
			unicode.Khmer, unicode.Myanmar))
}

// Part is a piece of a text. Match is true if it matches a search.
type Part struct {
	Text  string
	Match bool
}

// Snippet returns about size code points of a text, from a little before the first match of one of
// the terms, and marks the matches. An ellipsis stands for text that was cut off.
func Snippet(s string, terms []string, size int) []*Part {
	runes := []rune(s)
	found := matches(runes, terms, size)
	from := 0
	if len(found) > 0 && len(runes) > size {
		from = max(0, min(found[0].from-size/4, len(runes)-size))
	}
	to := min(len(runes), from+size)
	var parts []*Part
	add := func(s string, match bool) {
		if s != "" {
			parts = append(parts, &Part{s, match})
		}
	}
	at := from
	if from > 0 {
		add("…", false)
	}
	for _, m := range found {
		if m.from >= to {
			break
		}
		add(string(runes[at:max(at, m.from)]), false)
		add(string(runes[max(at, m.from):min(m.to, to)]), true)
		at = min(m.to, to)
	}
	add(string(runes[at:to]), false)
	if to < len(runes) {
		add("…", false)
	}
	return parts
}

// matchBlock is how many candidates are folded together.
const matchBlock = 256

// matches returns the parts of a text that match one of the terms, in order, without overlaps: the
// first one, those that begin less than size code points after it, and perhaps some more. Folding
// is most of the work, so many words are folded together, and it ends when enough is found.
func matches(s []rune, terms []string, size int) (list []span) {
	candidates := candidatesIn(s)
	for block := range slices.Chunk(candidates, matchBlock) {
		folded := foldEach(s, block)
		matched := -1
		for i, c := range block {
			if c.from == matched || !isTerm(folded[i], !unspaced(s[c.from]), terms) {
				continue
			}
			matched = c.from
			// neighbours, such as two emoji or two parts of a word without spaces, are one match
			if last := len(list) - 1; last >= 0 && c.from <= list[last].to {
				list[last].to = max(list[last].to, c.to)
				continue
			}
			list = append(list, c)
		}
		if len(list) > 0 && block[len(block)-1].from >= list[0].from+size {
			break
		}
	}
	return list
}

// candidatesIn returns the words of a text. In scripts without spaces it returns, for each
// character, the pair that begins with it and then the character alone.
func candidatesIn(s []rune) (list []span) {
	for _, w := range words(s) {
		if !unspaced(s[w.from]) {
			list = append(list, w)
			continue
		}
		for i := w.from; i < w.to; i++ {
			if i+2 <= w.to {
				list = append(list, span{i, i + 2})
			}
			list = append(list, span{i, i + 1})
		}
	}
	return list
}

// foldEach folds each part of a text by itself. It joins them with line breaks, across which
// folding changes nothing.
func foldEach(s []rune, parts []span) []string {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(string(s[p.from:p.to]))
	}
	return strings.Split(Fold(b.String()), "\n")
}

// isTerm reports whether a folded word is one of the terms, or consists of words of which one is.
func isTerm(folded string, spaced bool, terms []string) bool {
	if slices.Contains(terms, folded) {
		return true
	}
	one := len(folded) <= maxToken && !strings.ContainsFunc(folded, splits) ||
		utf8.RuneCountInString(folded) == 1
	if !spaced || one {
		return false
	}
	return slices.ContainsFunc(tokensOfFolded(folded, true),
		func(t string) bool { return slices.Contains(terms, t) })
}

// splits reports whether a word with r in it may be several words.
func splits(r rune) bool { return !inWord(r) || unspaced(r) }
