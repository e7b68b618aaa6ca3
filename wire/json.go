package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"parley/errs"
)

// byteOrderMark is U+FEFF. JSON must not begin with it (RFC 8259, section 8.1).
const byteOrderMark = "\ufeff"

func errByteOrderMark() error {
	return errs.New(errs.BadUserInput,
		"It begins with a byte order mark (U+FEFF), which JSON must not have.")
}

// maxJSONDepth is how deep objects and arrays may be nested. encoding/json refuses a depth of
// 10,000, but as a syntax error.
const maxJSONDepth = 100

// checkDepth refuses JSON whose objects and arrays are nested too deep. b need not be valid.
func checkDepth(b []byte) error {
	if bytes.Count(b, []byte("{"))+bytes.Count(b, []byte("[")) <= maxJSONDepth {
		return nil
	}
	depth, quoted := 0, false
	for at := 0; at < len(b); at++ {
		switch c := b[at]; {
		case quoted && c == '\\':
			at++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxJSONDepth {
				return errs.New(errs.BadUserInput,
					"Its objects and arrays are nested more than %d deep, at byte %d.",
					maxJSONDepth, at+1)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// checkJSON refuses what encoding/json accepts and silently changes: half of a surrogate pair,
// which becomes U+FFFD, and names that an object has twice, of which the last one wins. I-JSON
// allows neither (RFC 7493, sections 2.1 and 2.3). b must be valid JSON. root is the name of the
// value in error messages, or "".
func checkJSON(b []byte, root string) error {
	c := jsonChecker{b: b, root: root}
	for c.at < len(b) {
		switch b[c.at] {
		case '{':
			c.levels = append(c.levels, jsonLevel{object: true, name: true})
		case '[':
			c.levels = append(c.levels, jsonLevel{})
		case '}', ']':
			c.levels = c.levels[:len(c.levels)-1]
		case ',':
			top := &c.levels[len(c.levels)-1]
			top.name = top.object
			top.index++
		case '"':
			if err := c.text(); err != nil {
				return err
			}
			continue
		}
		c.at++
	}
	return nil
}

// jsonChecker walks through JSON.
type jsonChecker struct {
	b      []byte
	at     int
	root   string
	levels []jsonLevel // the objects and arrays around at
}

// jsonLevel is an object or an array.
type jsonLevel struct {
	object bool
	name   bool // the next string is a name
	index  int  // of the current element or member
	names  [][]byte
	seen   map[string]struct{} // the same names; nil up to fewNames
}

// fewNames is the number of names up to which they are compared one by one.
const fewNames = 16

// text checks the string at the current position, and steps over it.
func (c *jsonChecker) text() error {
	start, escaped := c.at, false
	at := start + 1
	for c.b[at] != '"' {
		switch {
		case c.b[at] != '\\':
			at++
		case c.b[at+1] != 'u':
			at, escaped = at+2, true
		default:
			escaped = true
			first := escapedRune(c.b[at:])
			switch {
			case !utf16.IsSurrogate(first):
				at += 6
			case utf16.DecodeRune(first, escapedRune(c.b[at+6:])) != unicode.ReplacementChar:
				at += 12
			default:
				return errs.New(errs.BadUserInput, "%s at byte %d%s is half of a surrogate pair.",
					c.b[at:at+6], at+1, c.in())
			}
		}
	}
	c.at = at + 1
	if len(c.levels) == 0 || !c.levels[len(c.levels)-1].name {
		return nil
	}
	return c.nameOnce(start, escaped)
}

// nameOnce records the name between start and the current position. It refuses a second one.
func (c *jsonChecker) nameOnce(start int, escaped bool) error {
	name := c.b[start+1 : c.at-1]
	if escaped {
		var text string
		_ = json.Unmarshal(c.b[start:c.at], &text) // cannot fail: b is valid
		name = []byte(text)
	}
	top := &c.levels[len(c.levels)-1]
	twice := top.has(name)
	top.name = false
	top.names = append(top.names, name)
	if twice {
		return errs.New(errs.BadUserInput, "%s is there twice, the second time at byte %d.",
			c.path(len(c.levels)), start+1)
	}
	return nil
}

func (l *jsonLevel) has(name []byte) bool {
	if len(l.names) < fewNames {
		for _, other := range l.names {
			if bytes.Equal(name, other) {
				return true
			}
		}
		return false
	}
	if l.seen == nil {
		l.seen = make(map[string]struct{}, 2*fewNames)
		for _, other := range l.names {
			l.seen[string(other)] = struct{}{}
		}
	}
	_, known := l.seen[string(name)]
	l.seen[string(name)] = struct{}{}
	return known
}

// escapedRune returns the UTF-16 code unit with which b begins, written as \uXXXX; 0 if b begins
// otherwise.
func escapedRune(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0
	}
	unit, _ := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(unit) //nolint:gosec // 16 bits
}

// in returns " (in PATH)" for the current string; "" if it is the whole value.
func (c *jsonChecker) in() string {
	depth := len(c.levels)
	if depth > 0 && c.levels[depth-1].name {
		depth-- // a name is in its object
	}
	if path := c.path(depth); path != "" {
		return " (in " + path + ")"
	}
	return ""
}

// How much of a path is shown. The rest is left out, because the client knows what it has sent.
const (
	maxShownSteps = 20
	maxShownName  = 40 // characters
)

// path returns the path of the value at this depth, like variables.input.members[0].userId.
func (c *jsonChecker) path(depth int) string {
	path := c.root
	for i, level := range c.levels[:depth] {
		if i == maxShownSteps {
			return path + "…"
		}
		switch {
		case !level.object:
			path += fmt.Sprintf("[%d]", level.index)
		case path == "":
			path = shownName(level.names)
		default:
			path += "." + shownName(level.names)
		}
	}
	return path
}

// shownName returns the last of an object's names, in quotes if it has other characters than
// letters, digits and underscores.
func shownName(names [][]byte) string {
	name := errs.Clip(string(names[len(names)-1]), maxShownName)
	for _, r := range name {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '…' ||
			r == utf8.RuneError {
			return strconv.Quote(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}
