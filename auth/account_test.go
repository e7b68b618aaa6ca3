package auth

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/errs"
	"parley/model"
	"parley/store"
)

func TestRegisterStoresAnAccountAndSignsItIn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		in := Register{
			Email: " Ann@Example.org ", Nickname: " Ann Lee\n", Password: password,
			DisplayName: new(" Ann L. "),
		}
		got, err := f.Register(t.Context(), in, Client{UserAgent: "Firefox", IP: "192.0.2.1"})
		if err != nil {
			t.Fatal(err)
		}
		want := &model.User{
			ID: got.User.ID, Email: "Ann@Example.org", EmailKey: "ann@example.org",
			Nickname: "Ann Lee", NicknameKey: "ann lee",
			DisplayName: new("Ann L."), SearchKey: "ann lee\nann l.", CreatedAt: f.clock.Now(),
			ShowPresence: true, SendReadReceipts: true,
		}
		stored, err := f.Users(t.Context(), []model.UserID{got.User.ID})
		if err != nil {
			t.Fatal(err)
		}
		for name, user := range map[string]*model.User{
			"returned": got.User,
			"stored":   stored[got.User.ID],
		} {
			if diff := cmp.Diff(want, user); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		session := model.Session{
			ID: got.Session.ID, UserID: got.User.ID, CreatedAt: f.clock.Now(),
			LastUsedAt: f.clock.Now(),
			ExpiresAt:  f.clock.Now().Add(refreshTTL), UserAgent: new("Firefox"),
			IP: new("192.0.2.1"),
		}
		for name, s := range map[string]model.Session{
			"returned": got.Session,
			"stored":   f.secrets(got.Session.ID).Session,
		} {
			if diff := cmp.Diff(session, s); diff != "" {
				t.Errorf("session, %s (-want +got):\n%s", name, diff)
			}
		}
		f.grant(got)
		if diff := cmp.Diff(accounts(1), f.rows()); diff != "" {
			t.Errorf("rows (-want +got):\n%s", diff)
		}
	})
}

// accounts is how many rows n accounts take, each with its first session and a mail to confirm its
// address.
func accounts(n int64) map[string]int64 {
	return map[string]int64{
		"users": n, "credentials": n, "sessions": n, "one_time_tokens": n,
		"mails": n,
	}
}

// The expected names are those that are stored; "" means the one that was given.
func TestRegisterAccepts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for i, c := range []struct {
			name              string
			change            func(*Register)
			email, nickname   string
			display           *string
			emailKey, nickKey string
		}{
			{name: "two characters", change: func(in *Register) { in.Nickname = "al" }},
			{name: "32 characters", change: func(in *Register) {
				in.Nickname = strings.Repeat("n", 32)
			}},
			{
				name:   "32 characters of four bytes",
				change: func(in *Register) { in.Nickname = strings.Repeat("🐙", 32) },
			},
			{
				name:   "two characters of four bytes",
				change: func(in *Register) { in.Nickname = "🐙🦑" },
			},
			{
				name:     "32 characters once composed",
				change:   func(in *Register) { in.Nickname = strings.Repeat("a\u0308", 32) },
				nickname: strings.Repeat("ä", 32),
			},
			{name: "32 and white space", change: func(in *Register) {
				in.Nickname = "  " +
					strings.Repeat("m", 32) + "\t"
			}, nickname: strings.Repeat("m", 32)},
			{name: "a space inside", change: func(in *Register) { in.Nickname = "ann of austria" }},
			{name: "right to left", change: func(in *Register) { in.Nickname = "שלום" }},
			{name: "Chinese", change: func(in *Register) { in.Nickname = "小明" }},
			{name: "SQL", change: func(in *Register) { in.Nickname = `'; DROP TABLE users; --` }},
			{name: "placeholders", change: func(in *Register) { in.Nickname = `?0 ?? $1 \' "` }},
			{
				name:   "full width stays as written",
				change: func(in *Register) { in.Nickname = "Ｗｉｄｅ" }, nickKey: "wide",
			},
			{
				name: "sharp s folds", change: func(in *Register) { in.Nickname = "Straße" },
				nickKey: "strasse",
			},
			{name: "plus", change: func(in *Register) { in.Email = "ann+parley@example.org" }},
			{
				name:     "an address beyond ASCII",
				change:   func(in *Register) { in.Email = "Änne@exämple.org" },
				emailKey: "änne@exämple.org",
			},
			{name: "254 bytes", change: func(in *Register) {
				in.Email = strings.Repeat("a", 254-len("@example.org")) + "@example.org"
			}},
			{
				name:   "white space around",
				change: func(in *Register) { in.Email = "\tspace@example.org\r\n" },
				email:  "space@example.org",
			},
			{name: "8 characters", change: func(in *Register) { in.Password = "3f!k9~Zq" }},
			{
				name:   "8 characters of four bytes",
				change: func(in *Register) { in.Password = strings.Repeat("🐙", 8) },
			},
			{
				name:   "256 characters of four bytes",
				change: func(in *Register) { in.Password = strings.Repeat("🐙", 256) },
			},
			{name: "8 spaces", change: func(in *Register) { in.Password = strings.Repeat(" ", 8) }},
			{
				name:   "any bytes",
				change: func(in *Register) { in.Password = "\x00\xff\u200b\u202e1234" },
			},
			{name: "no display name", change: func(in *Register) { in.DisplayName = nil }},
			{
				name:   "a blank one is none",
				change: func(in *Register) { in.DisplayName = new(" \t\n") },
			},
			{
				name: "one character", change: func(in *Register) { in.DisplayName = new("X") },
				display: new("X"),
			},
			{
				name: "64 once composed",
				change: func(in *Register) {
					in.DisplayName = new(strings.Repeat("o\u0308", 64) +
						" ")
				},
				display: new(strings.Repeat("ö", 64)),
			},
			{
				name:    "an emoji of several characters",
				change:  func(in *Register) { in.DisplayName = new("👩‍👩‍👧") },
				display: new("👩‍👩‍👧"),
			},
		} {
			in := Register{
				Email:    fmt.Sprintf("p%d@example.org", i),
				Nickname: fmt.Sprintf("person %d", i), Password: password,
			}
			c.change(&in)
			got, err := f.Register(t.Context(), in, Client{})
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			for _, pair := range [][2]string{
				{got.User.Email, or(c.email, in.Email)},
				{got.User.Nickname, or(c.nickname, in.Nickname)},
				{got.User.EmailKey, or(c.emailKey, got.User.EmailKey)},
				{got.User.NicknameKey, or(c.nickKey, got.User.NicknameKey)},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s: got %q, want %q", c.name, pair[0], pair[1])
				}
			}
			if diff := cmp.Diff(c.display, got.User.DisplayName); diff != "" {
				t.Errorf("%s: display name (-want +got):\n%s", c.name, diff)
			}
			if _, err := f.Login(t.Context(), Login{Email: in.Email, Password: in.Password},
				Client{}); err != nil {
				t.Errorf("%s: signing in afterwards: %v", c.name, err)
			}
		}
	})
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func TestRegisterRefuses(t *testing.T) {
	t.Parallel()
	nickname := func(s string) func(*Register) { return func(in *Register) { in.Nickname = s } }
	email := func(s string) func(*Register) { return func(in *Register) { in.Email = s } }
	secret := func(s string) func(*Register) { return func(in *Register) { in.Password = s } }
	display := func(s string) func(*Register) { return func(in *Register) { in.DisplayName = &s } }
	cases := []struct {
		name   string
		change func(*Register)
		want   string
	}{
		{"no address", email(""), "REQUIRED email"},
		{"a blank address", email(" \t\n"), "REQUIRED email"},
		{
			"255 bytes", email(strings.Repeat("a", 255-len("@example.org")) + "@example.org"),
			"TOO_LONG email",
		},
		{
			"255 bytes in fewer characters", email(strings.Repeat("ä", 122) + "@example.org"),
			"TOO_LONG email",
		},
		{"a megabyte of open comments", email(strings.Repeat("(", 1<<20)), "TOO_LONG email"},

		{"no nickname", nickname(""), "REQUIRED nickname"},
		{"a blank nickname", nickname(" \u00a0\u3000\n"), "REQUIRED nickname"},
		{"one character", nickname("a"), "TOO_SHORT nickname"},
		{"one character of four bytes", nickname("🐙"), "TOO_SHORT nickname"},
		{"one character once composed", nickname("a\u0308"), "TOO_SHORT nickname"},
		{"one character and white space", nickname(" a "), "TOO_SHORT nickname"},
		{"33 characters", nickname(strings.Repeat("n", 33)), "TOO_LONG nickname"},
		{"33 characters of four bytes", nickname(strings.Repeat("🐙", 33)), "TOO_LONG nickname"},
		{"not UTF-8", nickname("an\xff"), "INVALID nickname"},
		{"half a surrogate pair", nickname("an\xed\xa0\x80"), "INVALID nickname"},

		{"the most common of all", secret("12345678"), "INVALID password"},
		{"a common one, whatever its case", secret("PassWord1"), "INVALID password"},
		{"7 characters", secret("1234567"), "TOO_SHORT password"},
		{"7 characters of four bytes", secret(strings.Repeat("🐙", 7)), "TOO_SHORT password"},
		{"no password", secret(""), "TOO_SHORT password"},
		{"257 characters", secret(strings.Repeat("x", 257)), "TOO_LONG password"},
		{"256 characters and a space", secret(strings.Repeat("x", 256) + " "), "TOO_LONG password"},

		{"65 characters", display(strings.Repeat("d", 65)), "TOO_LONG displayName"},
		{"two lines", display("Ann\nLee"), "INVALID displayName"},
		{"a NUL", display("Ann\x00"), "INVALID displayName"},
		{"a bell", display("Ann\aLee"), "INVALID displayName"},
		{"a C1 control", display("Ann\u0085Lee"), "INVALID displayName"},
		{"not UTF-8", display("Ann\xc3"), "INVALID displayName"},
		{
			"everything at once", func(in *Register) {
				*in = Register{
					Email: "no", Nickname: "a", Password: "short",
					DisplayName: new("\x01"),
				}
			}, "INVALID email, TOO_SHORT nickname, TOO_SHORT password, INVALID displayName",
		},
		{
			"nothing at all", func(in *Register) { *in = Register{} },
			"REQUIRED email, REQUIRED nickname, TOO_SHORT password",
		},
	}
	for _, s := range []string{
		"ann", "@example.org", "ann@", "ann@@example.org", "ann@example.org, bob@example.org",
		"Ann <ann@example.org>",
		"<ann@example.org>", "ann@example.org (work)", "ann lee@example.org",
		`"ann lee"@example.org`, "ann@exam ple.org",
		"ann..lee@example.org", ".ann@example.org", "ann@example..org",
		"ann@example.org\nBcc: bob@example.org",
		"ann\x00@example.org", "ann@example.org\x7f", "ann\u200b@example.org",
		"\u202eann@example.org", "ann\u00ad@example.org",
		"ann\ufeff@example.org", "ann\xff@example.org", "ann＠example.org", "team:ann@example.org;",
	} {
		cases = append(cases, struct {
			name   string
			change func(*Register)
			want   string
		}{fmt.Sprintf("%q", s), email(s), "INVALID email"})
	}
	// Each would make a name that looks like another, or like nothing, or that reverses the text
	// around it.
	for _, r := range []rune{
		0x00, 0x07, '\n', '\t', 0x1b, 0x7f, 0x85, 0xa0, 0xad, 0x34f, 0x61c, 0x115f, 0x1160, 0x17b4,
		0x180b, 0x180e, 0x2003, 0x200b, 0x200c,
		0x200d, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202d, 0x202e, 0x202f, 0x205f, 0x2060,
		0x2064, 0x2066, 0x2069,
		0x3000, 0x3164, 0xe000, 0xfe0f, 0xfeff, 0xffa0, 0xfff9, 0xe0001, 0xe0041, 0xe0100, 0xf0000,
	} {
		cases = append(cases, struct {
			name   string
			change func(*Register)
			want   string
		}{fmt.Sprintf("%U inside", r), nickname("an" + string(r) + "na"), "INVALID nickname"})
	}
	each(t, func(t *testing.T, f *fixture) {
		before := f.rows()
		for _, c := range cases {
			in := Register{Email: "ann@example.org", Nickname: "ann", Password: password}
			c.change(&in)
			signedIn, err := f.Register(t.Context(), in, Client{})
			if got := problems(err); got != c.want || signedIn != nil {
				t.Errorf("%s: got %q (%v), want %q", c.name, got, err, c.want)
			}
		}
		if diff := cmp.Diff(before, f.rows()); diff != "" {
			t.Errorf("refusals have changed rows (-before +after):\n%s", diff)
		}
	})
}

// U+2800 is a symbol in Unicode, and invisible.
func TestANicknameOfBlankBrailleIsInvisible(t *testing.T) {
	t.Parallel()
	_, err := Register{
		Email: "ann@example.org", Nickname: "\u2800\u2800",
		Password: password,
	}.user()
	if got := problems(err); got != "INVALID nickname" {
		t.Errorf("got %q, want INVALID", got)
	}
}

func TestRegisterRefusesTakenNames(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for _, in := range []Register{
			{Email: "Ånn@Example.org", Nickname: "Ångström ﬁ", Password: password},
			{Email: "bob@example.org", Nickname: "Straße", Password: password},
			{Email: "cat@example.org", Nickname: "Οδυσσεύς", Password: password},
		} {
			if _, err := f.Register(t.Context(), in, Client{}); err != nil {
				t.Fatal(err)
			}
		}
		before := f.rows()
		for _, c := range []struct{ email, nickname, want string }{
			{"new@example.org", "Ångström ﬁ", "TAKEN nickname"},
			{"new@example.org", "ÅNGSTRÖM FI", "TAKEN nickname"},
			{"new@example.org", "A\u030angstro\u0308m fi", "TAKEN nickname"},
			{"new@example.org", "\u212bngström ﬁ", "TAKEN nickname"}, // the sign for the unit
			{"new@example.org", "Ａ\u030aｎｇｓｔｒöｍ ｆｉ", "TAKEN nickname"},
			{"new@example.org", "  ångström fi ", "TAKEN nickname"},
			{"new@example.org", "STRASSE", "TAKEN nickname"},
			{"new@example.org", "STRA\u1e9eE", "TAKEN nickname"},
			// the last sigma has a form of its own
			{"new@example.org", "ΟΔΥΣΣΕΎΣ", "TAKEN nickname"},
			{"ånn@example.org", "new", "TAKEN email"},
			{"ÅNN@EXAMPLE.ORG", "new", "TAKEN email"},
			{"A\u030ann@example.org", "new", "TAKEN email"},
			{"ånn@ｅxample.org", "new", "TAKEN email"},
			{"ånn@example.org", "ångström fi", "TAKEN email, TAKEN nickname"},
			{"ånn@example.org", "strasse", "TAKEN email, TAKEN nickname"}, // of two people
		} {
			in := Register{Email: c.email, Nickname: c.nickname, Password: password}
			signedIn, err := f.Register(t.Context(), in, Client{})
			// The order of two rows that are taken is the database's.
			got := problems(err)
			if got == "TAKEN nickname, TAKEN email" {
				got = "TAKEN email, TAKEN nickname"
			}
			if got != c.want || signedIn != nil {
				t.Errorf("%s, %s: got %q (%v), want %q", c.email, c.nickname, got, err, c.want)
			}
		}
		if diff := cmp.Diff(before, f.rows()); diff != "" {
			t.Errorf("refusals have changed rows (-before +after):\n%s", diff)
		}
	})
}

func TestRegisterRacesForOneName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for round := range int64(5) {
			for field, in := range map[string]func(i int) Register{
				"nickname": func(i int) Register {
					name := fmt.Sprintf("racer %d", round)
					if i%2 == 0 {
						name = strings.ToUpper(name)
					}
					return Register{
						Email:    fmt.Sprintf("n%d.%d@example.org", round, i),
						Nickname: name, Password: password,
					}
				},
				"email": func(i int) Register {
					return Register{
						Email:    fmt.Sprintf("e%d@example.org", round),
						Nickname: fmt.Sprintf("e%d.%d", round, i), Password: password,
					}
				},
			} {
				var won atomic.Int64
				concurrently(4, func(i int) {
					switch signedIn, err := f.Register(t.Context(), in(i), Client{}); {
					case err == nil && signedIn != nil:
						won.Add(1)
					case problems(err) != "TAKEN "+field:
						t.Errorf("got %v, want TAKEN at %s", err, field)
					}
				})
				if won.Load() != 1 {
					t.Errorf("%d have the same %s", won.Load(), field)
				}
			}
			if diff := cmp.Diff(accounts(2*(round+1)), f.rows()); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		}
	})
}

// The race above seldom gets past requireFree on one machine, so this test calls insertUser.
func TestTheDatabaseDecidesAboutTakenNames(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann").User
		sameEmail, sameNickname := *ann, *ann
		sameEmail.ID, sameEmail.NicknameKey = model.NewUserID(), "other"
		sameNickname.ID, sameNickname.EmailKey = model.NewUserID(), "other@example.org"
		for want, u := range map[string]*model.User{
			"TAKEN email":    &sameEmail,
			"TAKEN nickname": &sameNickname,
		} {
			err := f.db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				return insertUser(ctx, tx, true, u)
			})
			if got := problems(err); got != want {
				t.Errorf("got %q (%v), want %q", got, err, want)
			}
		}
	})
}

func TestRegisterMessagesSayWhatToDo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   Register
		want string
	}{
		{
			Register{Email: "ann", Nickname: "an\x00", Password: "1"},
			"That is not an e-mail address, like ann@example.org." +
				" A nickname has no control character. A password has at least 8 characters.",
		},
		{
			Register{Email: "a@b", Nickname: "an\xff", Password: password},
			"A nickname has to be valid UTF-8.",
		},
		{
			Register{Email: "a@b", Nickname: "a\u200bn", Password: password},
			"A nickname has no invisible characters.",
		},
	} {
		_, err := c.in.user()
		var messages []string
		for _, e := range errs.Correctable(err) {
			messages = append(messages, e.Message)
		}
		if got := strings.Join(messages, " "); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
