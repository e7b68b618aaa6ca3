package text

import (
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Package norm makes stream-safe text (UAX #15, section 13): it inserts U+034F, the combining
// grapheme joiner, after 30 combining marks in a row. The result is not the NFC of the text. So
// texts with a long run of marks are normalized by the plain algorithm here, and all others by
// package norm.

// nfc is Normalization Form C (UAX #15).
func nfc(s string) string { return normalize(s, norm.NFC, norm.NFD) }

// nfkc is Normalization Form KC (UAX #15).
func nfkc(s string) string { return normalize(s, norm.NFKC, norm.NFKD) }

const graphemeJoiner = "\u034f"

// normalize uses norm unless that inserts a joiner. Normalization neither adds nor removes joiners,
// which have no decomposition and are part of none.
func normalize(s string, composed, decomposed norm.Form) string {
	out := composed.String(s)
	if strings.Count(out, graphemeJoiner) == strings.Count(s, graphemeJoiner) ||
		!utf8.ValidString(s) {
		return out
	}
	return compose(decompose(s, decomposed))
}

// char is a code point with its canonical combining class, which is 0 for those that begin a
// sequence (starters).
type char struct {
	r     rune
	class uint8
}

// decompose is NFD or NFKD: every code point decomposed, and each run of marks in the order of
// their classes (canonical ordering, The Unicode Standard, section 3.11, D109).
func decompose(s string, form norm.Form) []char {
	chars := make([]char, 0, len(s)/2)
	var buf []byte
	for i, r := range s {
		buf = form.AppendString(buf[:0], s[i:i+utf8.RuneLen(r)])
		for at := 0; at < len(buf); {
			r, size := utf8.DecodeRune(buf[at:])
			chars = append(chars, char{r, form.Properties(buf[at:]).CCC()})
			at += size
		}
	}
	for from := 0; from < len(chars); from++ {
		to := from
		for to < len(chars) && chars[to].class != 0 {
			to++
		}
		slices.SortStableFunc(chars[from:to],
			func(a, b char) int { return int(a.class) - int(b.class) })
		from = to
	}
	return chars
}

// compose is the canonical composition algorithm (The Unicode Standard, section 3.11, D117).
func compose(chars []char) string {
	out := chars[:0]
	starter := -1
	for _, c := range chars {
		last := len(out) - 1
		blocked := starter < 0 || last > starter &&
			(out[last].class == 0 || out[last].class >= c.class)
		if !blocked {
			if r, ok := primaryComposite(out[starter].r, c.r); ok {
				out[starter].r = r
				continue
			}
		}
		if c.class == 0 {
			starter = len(out)
		}
		out = append(out, c)
	}
	var b strings.Builder
	for _, c := range out {
		b.WriteRune(c.r)
	}
	return b.String()
}

// primaryComposite returns the code point that is canonically equivalent to two (D114). ok is false
// if there is none.
func primaryComposite(first, second rune) (r rune, ok bool) {
	var room [4 * utf8.UTFMax]byte
	pair := utf8.AppendRune(room[:0], first)
	at := len(pair)
	pair = utf8.AppendRune(pair, second)
	if norm.NFC.Properties(pair[at:]).BoundaryBefore() {
		return 0, false
	}
	both := norm.NFC.Bytes(pair)
	r, size := utf8.DecodeRune(both)
	return r, size == len(both)
}
