// Package text has rules for names and messages: their normal form, the folded form that is
// compared and searched, the characters that they must not have, and emoji.
package text

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
)

// Clean returns the form of a text that is stored: NFC (UAX #15), line breaks as \n, no white space
// at the ends.
func Clean(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.TrimSpace(nfc(s))
}

// Fold returns the form of a text that is compared and searched: NFKC with full case folding, and
// NFKC again, because folding can undo it. Texts that a person takes for the same word have the
// same form.
func Fold(s string) string {
	return nfkc(cases.Fold().String(nfkc(s)))
}

// Len returns the number of Unicode code points.
func Len(s string) int { return utf8.RuneCountInString(s) }

// Problem returns, in a few words, why s cannot be stored as one line or, if multiline is true, as
// several. It returns "" if it can.
func Problem(s string, multiline bool) string {
	if !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	for _, r := range s {
		if multiline && (r == '\n' || r == '\t') {
			continue
		}
		if unicode.IsControl(r) {
			return "has a control character"
		}
	}
	return ""
}

// Invisible reports whether s has an invisible character. Two names that differ only by those would
// look the same.
func Invisible(s string) bool {
	const brailleBlank = '\u2800'
	for _, r := range s {
		if unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp,
			unicode.Other_Default_Ignorable_Code_Point,
			unicode.Variation_Selector) || unicode.IsSpace(r) && r != ' ' || r == brailleBlank {
			return true
		}
	}
	return false
}

// Deceptive reports whether s has a character that makes a line look different from what it is: one
// that changes the direction of writing (UAX #9) or ends the line. Joiners are not among them,
// because emoji and some scripts need them.
func Deceptive(s string) bool {
	for _, r := range s {
		if unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return true
		}
	}
	return false
}
