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

// PageArgs are the arguments of a list, as the Relay Cursor Connections Specification has them. A
// cursor that was not given is empty.
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
	// Cursor is of the item that the page begins after or, with Backwards, ends before. It is empty
	// for the page at the end of the list.
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
		return Window{}, errs.New(errs.BadUserInput, "%s has to be from 0 to %d, not %d.", name,
			MaxPage, *count)
	}
	if other != "" {
		return Window{}, errs.New(errs.BadUserInput, "first goes with after, and last with before.")
	}
	w.Limit = *count
	return w, nil
}

// Order is what a list is sorted by: columns that are unique together, all in the same direction.
// The values of these columns are the keyset of a row.
type Order struct {
	Columns    []string
	Descending bool
}

// sql returns the order in which a query reads a page, and the comparison for rows that come after
// a keyset in this order.
func (o Order) sql(w Window) (orderBy, after string) {
	direction, operator := " ASC", ">"
	if o.Descending != w.Backwards {
		direction, operator = " DESC", "<"
	}
	return strings.Join(o.Columns, direction+", ") + direction,
		"(" + strings.Join(o.Columns, ", ") + ") " + operator
}

// Apply makes a query of Bun's read the page: the rows after the keyset of the window's cursor, and
// one row more than the window holds, for Cut. keyset is empty if the window has no cursor.
//
// It is for queries whose conditions vary, or whose plan depends on the values. Others are texts of
// Read, which Continue does this for.
func (w Window) Apply(q *bun.SelectQuery, o Order, keyset ...any) *bun.SelectQuery {
	orderBy, after := o.sql(w)
	if len(keyset) > 0 {
		q = q.Where("? (?)", bun.Safe(after), bun.List(keyset))
	}
	return q.OrderExpr(orderBy).Limit(int64(w.Limit) + 1)
}

// Continue is Apply for the text and the arguments of a Read. The text ends with a condition.
func (w Window) Continue(text string, o Order, args []any, keyset ...any) (string, []any) {
	orderBy, after := o.sql(w)
	args = append(slices.Clone(args), int64(w.Limit)+1)
	limit := "?" + strconv.Itoa(len(args))
	if len(keyset) > 0 {
		placeholders := make([]string, len(keyset))
		for i, value := range keyset {
			args = append(args, value)
			placeholders[i] = "?" + strconv.Itoa(len(args))
		}
		text += " AND " + after + " (" + strings.Join(placeholders, ", ") + ")"
	}
	return text + " ORDER BY " + orderBy + " LIMIT " + limit + " + 0", args
}

// Page is one page of a list: its items in the list's order, and whether the list has items after
// the last of them (More) and before the first (Before).
type Page[T any] struct {
	Items        []T
	More, Before bool
}

// Cut makes a page of the rows that Apply or Continue made a query read, in the query's order. The
// row beyond the window only tells whether there are more.
func Cut[T any](w Window, found []T) Page[T] {
	more := len(found) > w.Limit
	found = found[:min(len(found), w.Limit)]
	// On the other side is at least the item that the cursor was made of, unless it was deleted
	// meanwhile.
	behind := w.Cursor != ""
	if w.Backwards {
		slices.Reverse(found)
		return Page[T]{Items: found, More: behind, Before: more}
	}
	return Page[T]{Items: found, More: more, Before: behind}
}

// Cursor writes and reads the cursor of an item in a list: one letter for the list, and the item's
// keyset. It is opaque to clients. It needs no signature: it has nothing in it that the client may
// not see, and a forged one costs no more than any other, because a page has at most MaxPage items
// wherever it starts. The cursors of streams, of which that is not true, are signed.
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

// Text appends text. Nothing may follow it.
func (c *Cursor) Text(s string) *Cursor {
	c.raw = append(c.raw, s...)
	return c
}

func (c *Cursor) String() string { return base64.RawURLEncoding.EncodeToString(c.raw) }

// MaxCursor is how many characters a cursor has at most.
const MaxCursor = 4096

// ReadCursor starts to read a cursor of the list that the letter stands for. Done returns what was
// wrong with it; until then each Read returns a value, which may be zero.
func ReadCursor(list byte, s string) *Cursor {
	if len(s) > MaxCursor {
		return &Cursor{bad: true}
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) == 0 || raw[0] != list ||
		base64.RawURLEncoding.EncodeToString(raw) != s { // the decoder ignores line breaks
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
	if t.Year() < 1 || t.Year() > 9999 { // the databases cannot have written it
		c.bad = true
	}
	return t
}

func (c *Cursor) ReadText() string {
	text := string(c.take(len(c.raw)))
	// stored text is valid UTF-8 without NUL
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
