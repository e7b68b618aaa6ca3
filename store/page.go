package store

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"parley/errs"
)

// MaxPage is how many items a page may hold.
const MaxPage = 100

// PageArgs is what a client asks of a list, in the terms of the Relay connection spec. Cursors are
// empty where none was given.
type PageArgs struct {
	First, Last   *int
	After, Before string
}

// DefaultPage is the page of a client that gives neither first nor last: the First items of the
// list, or the Last ones. The other is 0. A client that gives a cursor without a size gets as many
// items after or before it.
type DefaultPage struct{ First, Last int }

// Window is a PageArgs that has been checked: up to Limit items, in the list's order or, with
// Backwards, from its other end.
type Window struct {
	Limit     int
	Backwards bool
	// where to start, exclusive; empty at the end of the list that the walk begins with
	Cursor string
}

// Window checks the arguments. The error is BAD_USER_INPUT.
func (p PageArgs) Window(byDefault DefaultPage) (Window, error) {
	if p.First != nil && p.Last != nil {
		return Window{}, errs.New(errs.BadUserInput, "Give first or last, not both.")
	}
	if p.First == nil && p.Last == nil {
		size, fromEnd := byDefault.First, false
		if byDefault.Last > 0 {
			size, fromEnd = byDefault.Last, true
		}
		if (p.After != "") != (p.Before != "") {
			fromEnd = p.Before != ""
		}
		if fromEnd {
			p.Last = &size
		} else {
			p.First = &size
		}
	}
	w := Window{Cursor: p.After, Backwards: p.Last != nil}
	name, count, other := "first", p.First, p.Before
	if w.Backwards {
		name, count, other = "last", p.Last, p.After
		w.Cursor = p.Before
	}
	if *count < 0 || *count > MaxPage {
		return Window{}, errs.New(errs.BadUserInput, "%s has to be from 0 to %d, not %d.", name, MaxPage, *count)
	}
	if other != "" {
		return Window{}, errs.New(errs.BadUserInput, "first goes with after, and last with before.")
	}
	w.Limit = *count
	return w, nil
}

// Order is what a list is sorted by: columns that are unique together, all in the same direction.
type Order struct {
	Columns    []string
	Descending bool
}

// Apply has a query walk through the list in the window's direction: beyond the position, which is
// given for the window's cursor alone, and for one item more than the window holds, so that Cut can
// tell whether there is one.
func (w Window) Apply(q *bun.SelectQuery, o Order, position ...any) *bun.SelectQuery {
	direction, beyond := "ASC", ">"
	if o.Descending != w.Backwards {
		direction, beyond = "DESC", "<"
	}
	for _, column := range o.Columns {
		q = q.OrderExpr("? ?", bun.Safe(column), bun.Safe(direction))
	}
	if len(position) > 0 {
		q = q.Where("(?) ? (?)", bun.Safe(strings.Join(o.Columns, ", ")), bun.Safe(beyond), bun.List(position))
	}
	return q.Limit(int64(w.Limit) + 1)
}

// Continue is Apply for Read: it continues a text that ends with a condition, and its arguments.
// The position has to be empty where the window has no cursor.
func (w Window) Continue(text string, o Order, args []any, position ...any) (string, []any) {
	direction, beyond := " ASC", ">"
	if o.Descending != w.Backwards {
		direction, beyond = " DESC", "<"
	}
	args = append(slices.Clone(args), int64(w.Limit)+1)
	limit := strconv.Itoa(len(args))
	if len(position) > 0 {
		places := make([]string, len(position))
		for i, p := range position {
			args = append(args, p)
			places[i] = "?" + strconv.Itoa(len(args))
		}
		text += " AND (" + strings.Join(o.Columns, ", ") + ") " + beyond + " (" + strings.Join(places, ", ") + ")"
	}
	return text + " ORDER BY " + strings.Join(o.Columns, direction+", ") + direction + " LIMIT ?" + limit + " + 0", args
}

// Page is one page of a list: its items in the list's order, and whether there is more on either
// side.
type Page[T any] struct {
	Items        []T
	More, Before bool // after its last item; before its first
}

// Cut makes a slice of what a query found that was asked for one item more than the window holds,
// in the order of the walk.
func Cut[T any](w Window, found []T) Page[T] {
	more := len(found) > w.Limit
	found = found[:min(len(found), w.Limit)]
	// On the side that the walk came from there is something when it did not start at the list's
	// end: the item that the cursor names, unless that has gone meanwhile.
	behind := w.Cursor != ""
	if w.Backwards {
		slices.Reverse(found)
		return Page[T]{Items: found, More: behind, Before: more}
	}
	return Page[T]{Items: found, More: more, Before: behind}
}

// Cursor builds and reads the position of an item in a list: one letter for the list, and what the
// list is sorted by. It is opaque to clients, and needs no secret: it says nothing that its reader
// may not see, and a forged one costs no more than an honest one, because a page has at most
// MaxPage items wherever it starts. Cursors of streams are authenticated by package chat.
type Cursor struct {
	raw []byte
	bad bool
}

// NewCursor starts a cursor of the list that the letter stands for.
func NewCursor(list byte) *Cursor { return &Cursor{raw: []byte{list}} }

func (c *Cursor) Int(n int64) *Cursor {
	c.raw = binary.BigEndian.AppendUint64(c.raw, uint64(n))
	return c
}

func (c *Cursor) Time(t time.Time) *Cursor { return c.Int(t.UnixMicro()) }

func (c *Cursor) UUID(id [16]byte) *Cursor {
	c.raw = append(c.raw, id[:]...)
	return c
}

func (c *Cursor) Bytes(b []byte) *Cursor {
	c.raw = append(c.raw, b...)
	return c
}

// Text has to come last.
func (c *Cursor) Text(s string) *Cursor {
	c.raw = append(c.raw, s...)
	return c
}

func (c *Cursor) String() string { return base64.RawURLEncoding.EncodeToString(c.raw) }

// MaxCursor is how many characters a cursor has at most.
const MaxCursor = 4096

// ReadCursor begins to read a cursor of the list that the letter stands for.
func ReadCursor(list byte, s string) *Cursor {
	if len(s) > MaxCursor {
		return &Cursor{bad: true}
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) == 0 || raw[0] != list ||
		base64.RawURLEncoding.EncodeToString(raw) != s { // the decoder passes over line breaks
		return &Cursor{bad: true}
	}
	return &Cursor{raw: raw[1:]}
}

func (c *Cursor) take(n int) []byte {
	if c.bad || len(c.raw) < n {
		c.bad = true
		return make([]byte, n)
	}
	taken := c.raw[:n]
	c.raw = c.raw[n:]
	return taken
}

func (c *Cursor) ReadBytes(n int) []byte { return c.take(n) }

// ReadRest reads all bytes that are left.
func (c *Cursor) ReadRest() []byte { return c.take(len(c.raw)) }

func (c *Cursor) ReadInt() int64      { return int64(binary.BigEndian.Uint64(c.take(8))) }
func (c *Cursor) ReadUUID() uuid.UUID { return uuid.UUID(c.take(16)) }

func (c *Cursor) ReadTime() time.Time {
	t := time.UnixMicro(c.ReadInt()).UTC()
	if t.Year() < 1 || t.Year() > 9999 { // which no database writes
		c.bad = true
	}
	return t
}

func (c *Cursor) ReadText() string {
	text := string(c.take(len(c.raw)))
	// which no text has that is stored
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		c.bad = true
		return ""
	}
	return text
}

var errCursor = errors.New("not a cursor")

// Done ends the reading. The error is BAD_USER_INPUT.
func (c *Cursor) Done() error {
	if c.bad || len(c.raw) > 0 {
		return errs.Wrap(errCursor, errs.BadUserInput, "That is not a cursor of this list.")
	}
	return nil
}
