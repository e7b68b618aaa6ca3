package text

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxToken is how many code points of a word are compared.
const maxToken = 64

// Tokens finds the words of a text, each once, in order, folded: what a search compares, whatever
// the database. A word is a run of letters, marks and digits; a symbol, such as an emoji, is a word
// of its own. Scripts that write no space between words give every character, and every two that
// follow each other, so that a part of a sentence is found in it.
func Tokens(s string) []string { return tokens(s, true) }

// Terms finds what a query looks for: as Tokens, but where two characters follow each other not
// each of them alone as well.
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

// words cuts text where a word begins or ends. All of a word is of scripts with spaces, or all of
// those without.
func words(s []rune) (list []span) {
	start := -1 // of the word that is open
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

// What most characters are, ASCII, is told without looking at tables: each message that is sent is
// looked at like this.

func isSymbol(r rune) bool { return r > unicode.MaxASCII && unicode.Is(unicode.So, r) }

// inWord leaves out variation selectors: they are marks, but say only how a character looks.
func inWord(r rune) bool {
	if r <= unicode.MaxASCII {
		return unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	return unicode.In(r, unicode.L, unicode.M, unicode.N) && !unicode.Is(unicode.Variation_Selector, r)
}

// firstUnspaced is where the first block of such a script begins, Thai.
const firstUnspaced = '\u0e00'

// unspaced reports whether r is of a script that writes words without spaces between them.
func unspaced(r rune) bool {
	// which lengthens the kana before it, and belongs to no one script
	return r >= firstUnspaced && (r == 'ー' ||
		unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar))
}

// Part is a piece of a text that either was searched for or was not.
type Part struct {
	Text  string
	Match bool
}

// Snippet cuts about size code points out of a text, from a little before its first match on, and
// tells apart what matches one of the terms. An ellipsis stands where something was cut off.
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

// matchBlock is how many candidates are folded at once.
const matchBlock = 256

// matches finds the parts of a text that one of the terms stands for, in order, none within
// another: the first one and those that begin less than size code points after it, and perhaps some
// more. Folding is most of the work, so it is done for many words at once, and ends when enough is
// found.
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
			// two emoji, or two parts of a word without spaces
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

// candidatesIn are the words of a text and, in scripts without spaces, every two characters and
// then the first of them.
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

// foldEach folds parts of a text, each by itself: nothing that folding does goes beyond the end of
// a line.
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

// isTerm reports whether a folded word is looked for, or one of those that folding has made of it.
func isTerm(folded string, spaced bool, terms []string) bool {
	if slices.Contains(terms, folded) {
		return true
	}
	one := len(folded) <= maxToken && !strings.ContainsFunc(folded, splits) || utf8.RuneCountInString(folded) == 1
	if !spaced || one {
		return false
	}
	return slices.ContainsFunc(tokensOfFolded(folded, true), func(t string) bool { return slices.Contains(terms, t) })
}

// splits reports whether a word with r in it may be several.
func splits(r rune) bool { return !inWord(r) || unspaced(r) }
