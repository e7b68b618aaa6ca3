// Package text has what names and messages have in common: a normal form, a folded form to compare
// by, and which characters have no place in them.
package text

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
)

// Clean brings text into the form that is stored: NFC (UAX #15), line breaks as \n, no white space
// at the ends.
func Clean(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.TrimSpace(nfc(s))
}

// Fold brings text into the form that is compared and searched: NFKC with full case folding,
// normalized once more because folding can undo it. Two texts that a person would take for the same
// word fold to the same.
func Fold(s string) string {
	return nfkc(cases.Fold().String(nfkc(s)))
}

// Len counts Unicode code points.
func Len(s string) int { return utf8.RuneCountInString(s) }

// Problem says in a few words why s may not be stored as one line, or as several; empty where it
// may.
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

// Invisible reports whether s has a character that cannot be seen: two names that differ only by
// such would look the same.
func Invisible(s string) bool {
	for _, r := range s {
		if unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point,
			// the last is a blank in braille
			unicode.Variation_Selector) || unicode.IsSpace(r) && r != ' ' || r == '\u2800' {
			return true
		}
	}
	return false
}

// Deceptive reports whether s has a character that makes it look like something else in a line: one
// that turns the direction of writing (UAX #9), or ends the line. Joiners are no such, because
// emoji and some scripts need them.
func Deceptive(s string) bool {
	for _, r := range s {
		if unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return true
		}
	}
	return false
}
