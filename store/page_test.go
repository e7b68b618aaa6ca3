package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"parley/errs"
	"parley/store"
)

func TestCursorsComeBack(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 10, 15, 30, 123456000, time.UTC)
	id := uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057")
	c := store.ReadCursor('x', store.NewCursor('x').Int(-7).Time(at).UUID(id).Text("Ångström").
		String())
	n, gotAt, gotID, text := c.ReadInt(), c.ReadTime(), c.ReadUUID(), c.ReadText()
	if err := c.Done(); err != nil || n != -7 || !gotAt.Equal(at) || gotID != id ||
		text != "Ångström" {
		t.Errorf("%d %v %v %q (%v)", n, gotAt, gotID, text, err)
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	n := func(n int) *int { return &n }
	for name, c := range map[string]struct {
		page      store.PageArgs
		byDefault store.DefaultPage
		want      store.Window
		refused   bool
	}{
		"first": {
			store.PageArgs{First: n(3), After: "a"},
			store.DefaultPage{First: 20},
			store.Window{Limit: 3, Cursor: "a"},
			false,
		},
		"last": {
			store.PageArgs{Last: n(3), Before: "b"},
			store.DefaultPage{First: 20},
			store.Window{Limit: 3, Cursor: "b", Backwards: true},
			false,
		},
		"neither, from the start": {
			store.PageArgs{},
			store.DefaultPage{First: 20},
			store.Window{Limit: 20},
			false,
		},
		"neither, from the end": {
			store.PageArgs{},
			store.DefaultPage{Last: 50},
			store.Window{Limit: 50, Backwards: true},
			false,
		},
		"only after": {
			store.PageArgs{After: "a"},
			store.DefaultPage{Last: 50},
			store.Window{Limit: 50, Cursor: "a"},
			false,
		},
		"only before": {
			store.PageArgs{Before: "b"},
			store.DefaultPage{First: 20},
			store.Window{Limit: 20, Cursor: "b", Backwards: true},
			false,
		},
		"none": {
			store.PageArgs{First: n(0)},
			store.DefaultPage{First: 20},
			store.Window{},
			false,
		},
		"both": {
			store.PageArgs{First: n(1), Last: n(1)},
			store.DefaultPage{First: 20},
			store.Window{},
			true,
		},
		"crossed": {
			store.PageArgs{First: n(1), Before: "b"},
			store.DefaultPage{First: 20},
			store.Window{},
			true,
		},
		"negative": {
			store.PageArgs{First: n(-1)},
			store.DefaultPage{First: 20},
			store.Window{},
			true,
		},
		"too many": {
			store.PageArgs{Last: n(store.MaxPage + 1)},
			store.DefaultPage{First: 20},
			store.Window{},
			true,
		},
	} {
		got, err := c.page.Window(c.byDefault)
		if (err != nil) != c.refused || c.refused && !errs.Is(err, errs.BadUserInput) ||
			got != c.want {
			t.Errorf("%s: %+v (%v)", name, got, err)
		}
	}
}

func FuzzReadCursor(f *testing.F) {
	f.Add(store.NewCursor('m').Int(1).UUID(uuid.New()).String())
	f.Add("")
	f.Add("bQ")
	f.Fuzz(func(t *testing.T, s string) {
		c := store.ReadCursor('m', s)
		n, id := c.ReadInt(), c.ReadUUID()
		if err := c.Done(); err != nil {
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if back := store.NewCursor('m').Int(n).UUID(id).String(); back != s {
			t.Errorf("%q was read as %q", s, back)
		}
	})
}
