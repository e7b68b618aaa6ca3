package document

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"
)

// maxName is how many characters a name of a document may have. An unknown name is compared with
// all similar ones, in time that grows with its length, and each error about it repeats it.
const maxName = 255

// maxNesting is how many selection sets, lists, objects and list types may enclose a token, counted
// together. The parser recurses once for each.
const maxNesting = parser.MaxNestingDepth

// scanner reads a document's text before the parser does. It counts tokens and nesting, and finds
// the errors that the parser's lexer misses (section 2.1): half a surrogate pair, and a number that
// runs into a name. It also collects the block strings, whose indentation the lexer gets wrong. The
// parser finds all other errors.
type scanner struct {
	text      string
	maxTokens int
	at        int
	tokens    int // so far; a comment counts as one, because the parser keeps it
	nesting   int // of brackets and braces around at
	blocks    []blockString
}

// blockString is a block string of the document.
type blockString struct {
	at     int               // of its first quotation mark, in bytes
	begins gqlerror.Location // set by blocksByOffset
	raw    string            // the text between the quotation marks
}

// scan reads to the end of the text, or to the first error.
func (s *scanner) scan() *gqlerror.Error {
	if !utf8.ValidString(s.text) {
		return coded(ParseFailed, "The document is not valid UTF-8.")
	}
	for s.at < len(s.text) {
		var err *gqlerror.Error
		if !isIgnored(s.text[s.at]) {
			err = s.bound()
		}
		switch c := s.text[s.at]; {
		case err != nil:
		case c == '#':
			s.skip(func(c byte) bool { return c != '\n' && c != '\r' })
		case strings.HasPrefix(s.text[s.at:], `"""`):
			err = s.block()
		case c == '"':
			err = s.quoted()
		case beginsName(c):
			err = s.name()
		case c == '-' || isDigit(c):
			err = s.number()
		case c >= utf8.RuneSelf:
			err = s.foreign()
		case strings.HasPrefix(s.text[s.at:], "..."):
			s.at += 3
		default:
			s.at++
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bound counts the token at s.at.
func (s *scanner) bound() *gqlerror.Error {
	switch s.text[s.at] {
	case '{', '[':
		s.nesting++
	case '}', ']':
		s.nesting--
	}
	if s.nesting > maxNesting {
		return withCode(s.wrong("The document is nested more than %d deep.", maxNesting), TooLarge)
	}
	if s.tokens++; s.tokens > s.maxTokens {
		return withCode(s.wrong("The document has more than %d tokens, comments included.",
			s.maxTokens), TooLarge)
	}
	return nil
}

// isIgnored reports whether no token begins with this byte (section 2.1.7). Bytes that are not
// ASCII count as ignored: they are a byte order mark, or foreign refuses them.
func isIgnored(c byte) bool { return c <= ' ' || c == ',' || c >= utf8.RuneSelf }

func (s *scanner) wrong(format string, args ...any) *gqlerror.Error {
	err := coded(ParseFailed, format, args...)
	err.Locations = []gqlerror.Location{s.location()}
	return err
}

// location returns line and column of s.at. Both start at 1; columns are characters.
func (s *scanner) location() gqlerror.Location {
	before := normalNewlines.Replace(s.text[:s.at])
	last := strings.LastIndexByte(before, '\n') + 1
	return gqlerror.Location{
		Line: 1 + strings.Count(before, "\n"), Column: 1 + utf8.RuneCountInString(before[last:]),
	}
}

//nolint:gochecknoglobals // a constant
var normalNewlines = strings.NewReplacer("\r\n", "\n", "\r", "\n")

func (s *scanner) skip(while func(c byte) bool) {
	for s.at < len(s.text) && while(s.text[s.at]) {
		s.at++
	}
}

func (s *scanner) name() *gqlerror.Error {
	start := *s
	s.skip(func(c byte) bool { return beginsName(c) || isDigit(c) })
	if s.at-start.at > maxName {
		err := start.wrong("A name has at most %d characters; this one has %d.", maxName,
			s.at-start.at)
		return withCode(err, TooLarge)
	}
	return nil
}

// number reads a number. A name or a dot must not follow it directly (section 2.9.1).
func (s *scanner) number() *gqlerror.Error {
	if s.text[s.at] == '-' {
		s.at++
	}
	s.skip(isDigit)
	if next := s.ahead(1); s.ahead(0) == '.' && isDigit(next) {
		s.at++
		s.skip(isDigit)
	}
	if s.ahead(0) == 'e' || s.ahead(0) == 'E' {
		sign := s.ahead(1) == '+' || s.ahead(1) == '-'
		if !sign && isDigit(s.ahead(1)) || sign && isDigit(s.ahead(2)) {
			s.at += 2
			s.skip(isDigit)
		}
	}
	if next := s.ahead(0); beginsName(next) || next == '.' {
		return s.wrong("A number cannot be followed by \"%c\" at once.", next)
	}
	return nil
}

// ahead returns the byte at s.at+n, and 0 after the end.
func (s *scanner) ahead(n int) byte {
	if s.at+n >= len(s.text) {
		return 0
	}
	return s.text[s.at+n]
}

// quoted reads a string. A surrogate in its escapes must be part of a pair (section 2.9.4).
func (s *scanner) quoted() *gqlerror.Error {
	for s.at++; s.at < len(s.text); {
		switch s.text[s.at] {
		case '"':
			s.at++
			return nil
		case '\n', '\r':
			return nil // the parser reports that it does not end
		case '\\':
			unit, ok := s.escapedUnit(0)
			if !ok || !utf16.IsSurrogate(unit) {
				s.at += 2
				continue
			}
			second, ok := s.escapedUnit(len(`\u0000`))
			if !ok || utf16.DecodeRune(unit, second) == utf8.RuneError {
				return s.wrong(`\u%s is half of a surrogate pair: the other half is missing.`,
					s.text[s.at+2:s.at+6])
			}
			s.at += 2 * len(`\u0000`)
		default:
			s.at++
		}
	}
	return nil
}

// escapedUnit returns the code unit of the escape of four digits at s.at+skip.
func (s *scanner) escapedUnit(skip int) (unit rune, ok bool) {
	rest := s.text[min(s.at+skip, len(s.text)):]
	if len(rest) < len(`\u0000`) || rest[0] != '\\' || rest[1] != 'u' {
		return 0, false
	}
	for _, c := range []byte(rest[2:6]) {
		switch {
		case isDigit(c):
			unit = unit<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			unit = unit<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return unit, true
}

// block reads a block string. It ends at the first three quotation marks; the parser's lexer would
// end it at the last of many.
func (s *scanner) block() *gqlerror.Error {
	start := s.at
	for s.at += 3; s.at < len(s.text); s.at++ {
		if strings.HasPrefix(s.text[s.at:], `\"""`) {
			s.at += 3
			continue
		}
		if !strings.HasPrefix(s.text[s.at:], `"""`) {
			continue
		}
		s.blocks = append(s.blocks, blockString{at: start, raw: s.text[start+3 : s.at]})
		s.at += 3
		if s.ahead(0) == '"' {
			return s.wrong(`A block string ends with the first """: ` +
				`write \""" for three quotation marks in it.`)
		}
		return nil
	}
	return nil
}

// foreign reads a character that is not ASCII, outside of strings and comments.
func (s *scanner) foreign() *gqlerror.Error {
	const byteOrderMark = '\uFEFF'
	r, size := utf8.DecodeRuneInString(s.text[s.at:])
	if r != byteOrderMark {
		return s.wrong("The character \"%c\" can be in strings and comments only.", r)
	}
	s.at += size
	return nil
}

// fixStrings corrects two mistakes of the parser's lexer: the positions of strings, and the values
// of block strings, whose first line it takes for indented.
func (s *scanner) fixStrings(doc *ast.QueryDocument) {
	blocks := s.blocksByOffset()
	eachValue(doc, func(v *ast.Value) {
		if v.Kind == ast.StringValue {
			v.Position.Column-- // the lexer counts from after the quotation mark
		}
		if v.Kind == ast.BlockValue {
			b := blocks[v.Position.Start]
			v.Raw = blockStringValue(b.raw)
			v.Position.Line, v.Position.Column = b.begins.Line, b.begins.Column
		}
	})
}

// blocksByOffset returns the block strings by their offsets in characters, as the parser counts.
func (s *scanner) blocksByOffset() map[int]blockString {
	byOffset := make(map[int]blockString, len(s.blocks))
	from, offset, here := 0, 0, gqlerror.Location{Line: 1, Column: 1}
	for _, b := range s.blocks {
		between := normalNewlines.Replace(s.text[from:b.at])
		offset += utf8.RuneCountInString(s.text[from:b.at])
		if last := strings.LastIndexByte(between, '\n'); last >= 0 {
			here.Line += strings.Count(between, "\n")
			here.Column = 1
			between = between[last+1:]
		}
		here.Column += utf8.RuneCountInString(between)
		from, b.begins = b.at, here
		byOffset[offset] = b
	}
	return byOffset
}

// blockStringValue is BlockStringValue of section 2.9.4.
func blockStringValue(raw string) string {
	lines := strings.Split(normalNewlines.Replace(strings.ReplaceAll(raw, `\"""`, `"""`)), "\n")
	common := -1
	for _, line := range lines[1:] {
		if indent := indentOf(line); indent < len(line) && (common < 0 || indent < common) {
			common = indent
		}
	}
	for i, line := range lines[1:] {
		lines[1+i] = line[min(max(common, 0), len(line)):]
	}
	isBlank := func(line string) bool { return indentOf(line) == len(line) }
	for len(lines) > 0 && isBlank(lines[0]) {
		lines = lines[1:]
	}
	for len(lines) > 0 && isBlank(lines[len(lines)-1]) {
		lines = lines[:len(lines)-1]
	}
	return strings.Join(lines, "\n")
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " \t")) }

func beginsName(c byte) bool { return c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
