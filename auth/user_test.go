package auth

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// insertUsers stores users without passwords, each given as "nickname" or "nickname|display name".
func (f *fixture) insertUsers(names ...string) []*model.User {
	f.t.Helper()
	people := make([]*model.User, len(names))
	for i, name := range names {
		nickname, display, named := strings.Cut(name, "|")
		in := Register{
			Email: fmt.Sprintf("invited%d@example.org", i), Nickname: nickname,
			Password: password,
		}
		if named {
			in.DisplayName = &display
		}
		u, err := in.user()
		if err != nil {
			f.t.Fatalf("%q: %v", name, err)
		}
		u.CreatedAt = f.clock.Now()
		people[i] = u
	}
	if _, err := f.db.NewInsert().Model(&people).Exec(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return people
}

func nicknames(people []*model.User) []string {
	names := []string{}
	for _, u := range people {
		names = append(names, u.Nickname)
	}
	return names
}

// search searches as some user: the result does not depend on the actor.
func (f *fixture) search(text string, page store.PageArgs) (store.Page[*model.User], error) {
	return f.SearchUsers(f.t.Context(), model.Actor{UserID: model.NewUserID()}, text, page)
}

func TestSearchUsersPages(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		// Names whose order depends on a locale, on case, or on how many bytes a character has.
		names := []string{
			"Zoe", "ann", "Ann B", "ann-c", "ann_d", "ärger", "Ärger 2", "ßeta",
			"Éva", "eva", "小明", "🐙🦑", "ﬁx", "12", "a1",
		}
		for i := range 8 {
			names = append(names, fmt.Sprintf("Person %d", i))
		}
		want := f.insertUsers(names...)
		slices.SortFunc(want, func(a, b *model.User) int {
			return strings.Compare(a.NicknameKey, b.NicknameKey)
		})
		for size := range len(want) + 2 {
			if size == 0 {
				continue
			}
			var got []*model.User
			for after := ""; ; {
				result, err := f.search("", store.PageArgs{First: &size, After: after})
				if err != nil {
					t.Fatal(err)
				}
				if result.Before != (after != "") ||
					result.More != (len(got)+len(result.Items) < len(want)) ||
					len(result.Items) > size {
					t.Errorf("size %d, from %d: %d items, before %t, more %t", size, len(got),
						len(result.Items), result.Before, result.More)
				}
				got = append(got, result.Items...)
				// The last condition stops a walk in circles.
				if !result.More || len(result.Items) == 0 || len(got) > len(want) {
					break
				}
				after = UserCursor(result.Items[len(result.Items)-1])
			}
			if diff := cmp.Diff(nicknames(want), nicknames(got)); diff != "" {
				t.Errorf("size %d (-want +got):\n%s", size, diff)
			}
		}

		for name, c := range map[string]struct {
			page store.PageArgs
			want []*model.User
			more bool
		}{
			"no size": {store.PageArgs{}, want[:20], true},
			"none":    {store.PageArgs{First: new(0)}, nil, true},
			"none after the last": {store.PageArgs{
				First: new(0),
				After: UserCursor(want[len(want)-1]),
			}, nil, false},
			"after the last":    {store.PageArgs{After: UserCursor(want[len(want)-1])}, nil, false},
			"as many as may be": {store.PageArgs{First: new(store.MaxPage)}, want, false},
			"after an unknown name": {
				store.PageArgs{
					First: new(2),
					After: UserCursor(&model.User{NicknameKey: "person 0a"}),
				},
				want[indexOf(want, "Person 1"):][:2], true,
			},
			"after the empty name": {store.PageArgs{
				First: new(1),
				After: UserCursor(&model.User{}),
			}, want[:1], true},
		} {
			result, err := f.search("", c.page)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if diff := cmp.Diff(nicknames(c.want), nicknames(result.Items)); diff != "" ||
				result.More != c.more {
				t.Errorf("%s: more %t (-want +got):\n%s", name, result.More, diff)
			}
		}
		result, err := f.search("PERSON",
			store.PageArgs{First: new(3), After: UserCursor(want[indexOf(want, "Person 4")])})
		if diff := cmp.Diff([]string{"Person 5", "Person 6", "Person 7"},
			nicknames(result.Items)); err != nil || diff != "" || result.More {
			t.Errorf("a page of a search: more %t, %v (-want +got):\n%s", result.More, err, diff)
		}
	})
}

func indexOf(people []*model.User, nickname string) int {
	return slices.IndexFunc(people, func(u *model.User) bool { return u.Nickname == nickname })
}

func TestSearchUsersRefusesPages(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.insertUsers("ann")[0]
		cursor := func(raw string) store.PageArgs {
			return store.PageArgs{After: base64.RawURLEncoding.EncodeToString([]byte(raw))}
		}
		for name, page := range map[string]store.PageArgs{
			"less than none": {First: new(-1)},
			"too many":       {First: new(store.MaxPage + 1)},
			"both ends":      {First: new(1), Last: new(1)},
			"garbage":        {After: "garbage!"},
			"a bare name":    {After: "ann"},
			"an id":          {After: ann.ID.String()},
			"another list's": cursor("mann"),
			"padded":         {After: UserCursor(ann) + "="},
			"SQL":            {After: "' OR 1=1 --"},
			"a megabyte":     {After: strings.Repeat("A", 1<<20)},
		} {
			result, err := f.search("", page)
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%s: got %v (%v), want BAD_USER_INPUT", name, nicknames(result.Items), err)
			}
		}
	})
}

// Any client can write such a cursor, and a database refuses its text.
func TestSearchUsersRefusesCursorsThatHoldNoText(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.insertUsers("ann")
		for _, name := range []string{"an\x00n", "\x00", "an\xff", "\xed\xa0\x80", "\xc3"} {
			result, err := f.search("",
				store.PageArgs{After: UserCursor(&model.User{NicknameKey: name})})
			if !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%q: got %v (%v), want BAD_USER_INPUT", name, nicknames(result.Items), err)
			}
		}
	})
}

// A name may fold to many times its length. The page after such a name must still be reachable.
func TestSearchUsersGoesOnAfterTheLongestNames(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for i, long := range []string{
			strings.Repeat("🐙", maxNickname),
			strings.Repeat("\U0001d7d8", maxNickname),
			strings.Repeat("\u0390", maxNickname), // three characters each, once folded
			strings.Repeat("\ufdfa", maxNickname), // eighteen: a whole blessing in one character
		} {
			u := &model.User{Nickname: long}
			full, err := Register{
				Email: "a@example.org", Nickname: u.Nickname,
				Password: password,
			}.user()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.search("", store.PageArgs{
				First: new(1),
				After: UserCursor(full),
			}); err != nil {
				t.Errorf("name %d, whose key has %d bytes: %v", i, len(full.NicknameKey), err)
			}
		}
	})
}

func TestSearchUsersFinds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.insertUsers("ann", "Annabel|Bella Donna", "bob|Ann's brother", "Ångström", "Straße",
			"ﬁne", "Οδυσσεύς", "cent%", "un_der",
			"ba!ng", `back\slash`, `quo'te`, `dou"ble`, "que?ry", "two words", "小明|Xiǎo Míng",
			"star*", "[ab]", "semi;--", "zed|100% _real_", "$1 :x @y")
		for what, want := range map[string][]string{
			"ann":           {"Annabel", "ann", "bob"},
			"ANN":           {"Annabel", "ann", "bob"},
			"  ann\n":       {"Annabel", "ann", "bob"},
			"ａｎｎ":           {"Annabel", "ann", "bob"},
			"nna":           {"Annabel"},
			"bella d":       {"Annabel"},
			"DONNA":         {"Annabel"},
			"ann's":         {"bob"},
			"ångs":          {"Ångström"},
			"A\u030aNGS":    {"Ångström"},
			"\u212bngstr":   {"Ångström"},
			"strasse":       {"Straße"},
			"STRASSE":       {"Straße"},
			"ß":             {"Straße"},
			"fi":            {"ﬁne"},
			"ΣΣΕΎΣ":         {"Οδυσσεύς"},
			"明":             {"小明"},
			"xiǎo":          {"小明"},
			"XIA\u030cO":    {"小明"},
			"%":             {"cent%", "zed"},
			"_":             {"un_der", "zed"},
			"!":             {"ba!ng"},
			`\`:             {`back\slash`},
			"'":             {"bob", `quo'te`},
			`"`:             {`dou"ble`},
			"?":             {"que?ry"},
			"*":             {"star*"},
			"[ab]":          {"[ab]"},
			";--":           {"semi;--"},
			"$1":            {"$1 :x @y"},
			":x @":          {"$1 :x @y"},
			"t%":            {"cent%"},
			"n_d":           {"un_der"},
			"a!n":           {"ba!ng"},
			`k\s`:           {`back\slash`},
			"0% _r":         {"zed"},
			"o w":           {"two words"},
			"%n%":           {},
			"a_n":           {},
			"!%":            {},
			`\%`:            {},
			"__":            {},
			"' OR '1'='1":   {},
			"invited0@":     {}, // addresses are private
			"example.org":   {},
			"unknown":       {},
			"ann\nbella":    {},
			"annabel bella": {},
			"\u200b":        {},
			"\xff":          {},
			"a\u0301nn":     {},
		} {
			result, err := f.search(what, store.PageArgs{First: new(store.MaxPage)})
			if err != nil {
				t.Errorf("%q: %v", what, err)
				continue
			}
			got := nicknames(result.Items)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%q (-want +got):\n%s", what, diff)
			}
		}
	})
}

// A search for text that no name can contain finds no user, or is refused. It does not fail with an
// internal error.
func TestSearchUsersForTextThatNoNameContains(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.insertUsers("ann|Lee")[0]
		for name, what := range map[string]string{
			"NUL": "\x00", "NUL inside": "an\x00n", "half a surrogate": "\xed\xa0\x80",
			"half a character":    "an\xc3",
			"very long":           strings.Repeat("a", 100_000),
			"very many wildcards": strings.Repeat("%_", 50_000),
		} {
			result, err := f.search(what, store.PageArgs{})
			if len(result.Items) != 0 || err != nil && !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%s: got %v (%v), want no user or BAD_USER_INPUT", name,
					nicknames(result.Items), err)
			}
			u, err := f.UserByNickname(t.Context(), model.Actor{}, what)
			if u != nil || err != nil && !errs.Is(err, errs.BadUserInput) {
				t.Errorf("%s, as a nickname: got %v (%v), want no user or BAD_USER_INPUT", name, u,
					err)
			}
		}
		// There is no match across the two names of a user.
		if result, err := f.search("ann\nlee", store.PageArgs{}); err != nil ||
			len(result.Items) != 0 {
			t.Errorf("a search across two names found %v (%v), for example %v",
				nicknames(result.Items), err, ann.SearchKey)
		}
	})
}

func TestUserByNickname(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		people := f.insertUsers("Ångström ﬁ|Anders", "Straße", "a%", "a_")
		for nickname, want := range map[string]*model.User{
			"Ångström ﬁ": people[0], "ångström fi": people[0], "A\u030aNGSTRO\u0308M FI": people[0],
			"  ångström ﬁ\n": people[0],
			"STRASSE":        people[1], "straße": people[1], "a%": people[2], "A_": people[3],
			"Ａ_": people[3],
			"":   nil, "a": nil, "%": nil, "ångström": nil, "Anders": nil, "strase": nil, "ab": nil,
			"' OR '1'='1":   nil,
			people[0].Email: nil, people[0].ID.String(): nil,
		} {
			got, err := f.UserByNickname(t.Context(), model.Actor{}, nickname)
			if err != nil {
				t.Errorf("%q: %v", nickname, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%q (-want +got):\n%s", nickname, diff)
			}
		}
	})
}

func TestUsers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		people := f.insertUsers("ann", "bob", "cat")
		ann, bob := people[0], people[1]
		unknown := model.NewUserID()
		for name, c := range map[string]struct {
			ids  []model.UserID
			want []*model.User
		}{
			"nil":            {nil, nil},
			"none":           {[]model.UserID{}, nil},
			"one":            {[]model.UserID{ann.ID}, []*model.User{ann}},
			"two, one twice": {[]model.UserID{bob.ID, ann.ID, bob.ID}, []*model.User{ann, bob}},
			"unknown":        {[]model.UserID{unknown}, nil},
			"known and not":  {[]model.UserID{unknown, ann.ID, {}}, []*model.User{ann}},
			"a thousand nots": {
				append(slices.Repeat([]model.UserID{unknown}, 1000), bob.ID),
				[]*model.User{bob},
			},
		} {
			got, err := f.Users(t.Context(), c.ids)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			want := map[model.UserID]*model.User{}
			for _, u := range c.want {
				want[u.ID] = u
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	})
}
