package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/model"
)

func TestLogin(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		in := Register{
			Email: "Ännchen@Example.org", Nickname: "ann", Password: password,
			DisplayName: new("Ann"),
		}
		ann, err := f.Register(t.Context(), in, Client{})
		if err != nil {
			t.Fatal(err)
		}
		f.clock.Forward(time.Hour)
		for _, email := range []string{
			"Ännchen@Example.org", "ännchen@example.org", "ÄNNCHEN@EXAMPLE.ORG",
			"A\u0308nnchen@example.org", "  ännchen@example.org\n",
			"ännchen@ｅxample.org",
		} {
			got, err := f.Login(t.Context(), Login{Email: email, Password: password},
				Client{UserAgent: "curl/8", IP: "2001:db8::1"})
			if err != nil {
				t.Errorf("%q: %v", email, err)
				continue
			}
			if diff := cmp.Diff(ann.User, got.User); diff != "" {
				t.Errorf("%q (-want +got):\n%s", email, diff)
			}
			want := model.Session{
				ID: got.Session.ID, UserID: ann.User.ID, CreatedAt: f.clock.Now(),
				LastUsedAt: f.clock.Now(),
				ExpiresAt:  f.clock.Now().Add(refreshTTL), UserAgent: new("curl/8"),
				IP: new("2001:db8::1"),
			}
			if diff := cmp.Diff(want, f.secrets(got.Session.ID).Session); diff != "" {
				t.Errorf("%q: session (-want +got):\n%s", email, diff)
			}
			f.grant(got)
		}
	})
}

// Different answers would reveal which addresses have accounts.
func TestLoginAnswersUnknownAddressesLikeWrongPasswords(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		before := f.rows()
		for _, in := range []Login{
			{Email: "ann@example.org", Password: "a wrong password"},
			{Email: "ann@example.org", Password: ""},
			{Email: "ann@example.org", Password: strings.Repeat("x", 1<<20)},
			{Email: "ann@example.org", Password: password + " "},
			{Email: "unknown@example.org", Password: password},
			{Email: "unknown@example.org", Password: decoyPassword},
			{Email: "unknown@example.org", Password: ""},
			{Email: "ann", Password: password},
			{Email: "", Password: ""},
			{Email: "%", Password: password},
			{Email: "ann@example.org' OR '1'='1", Password: password},
			{Email: strings.Repeat("a", 1<<20), Password: password},
		} {
			signedIn, err := f.Login(t.Context(), in, Client{})
			if signedIn != nil || err == nil || err.Error() != errCredentials.Error() {
				t.Errorf("%.40q: got %v (%v), want %v", in, signedIn, err, errCredentials)
			}
		}
		if diff := cmp.Diff(before, f.rows()); diff != "" {
			t.Errorf("refusals have changed rows (-before +after):\n%s", diff)
		}
	})
}

// Such an address has no account. If it reached the database, the query would fail, and an
// anonymous client could fill the operator's log.
func TestLoginAnswersAddressesThatNoDatabaseTakes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		for _, email := range []string{
			"ann@example.org\x00", "\x00", "a\x00b@example.org",
			"ann\xff@example.org", "\xed\xa0\x80",
		} {
			_, err := f.Login(t.Context(), Login{Email: email, Password: password}, Client{})
			if problems(err) != "INVALID_CREDENTIALS password" {
				t.Errorf("%q: got %v, want INVALID_CREDENTIALS", email, err)
			}
		}
	})
}

func TestEachLoginStartsASessionOfItsOwn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		all := []*SignedIn{
			f.register("ann"), f.login("ann"), f.login("ann"), f.register("bob"),
			f.login("bob"),
		}
		ids, access, refresh := map[model.SessionID]bool{}, map[string]bool{}, map[string]bool{}
		for _, s := range all {
			ids[s.Session.ID], access[s.Tokens.AccessToken], refresh[s.Tokens.RefreshToken] = true,
				true, true
			f.grant(s)
		}
		if len(ids) != len(all) || len(access) != len(all) || len(refresh) != len(all) {
			t.Errorf("%d sessions, %d access tokens, %d refresh tokens for %d logins", len(ids),
				len(access), len(refresh), len(all))
		}
	})
}

// The headers of an anonymous client are later shown to the session's owner.
func TestSessionsSanitizeTheClient(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		for _, c := range []struct {
			name, given string
			want        *string
		}{
			{"nothing", "", nil},
			{"blank", " \t ", nil},
			{"as it is", "Mozilla/5.0 (X11; Linux x86_64)", new("Mozilla/5.0 (X11; Linux x86_64)")},
			{"trimmed", "  curl/8 ", new("curl/8")},
			{"beyond ASCII", "Füchsin", new("Füchsin")},
			{"control characters", "a\x1b[31mred", nil},
			{"NUL", "a\x00b", nil},
			{"two lines", "a\nb", nil},
			{"not UTF-8", "Mozilla\xff", nil},
			{"long", strings.Repeat("🐙", maxClientText+1), new(strings.Repeat("🐙", maxClientText))},
			{"quotes", `'"\?`, new(`'"\?`)},
		} {
			got, err := f.Login(t.Context(), Login{Email: "ann@example.org", Password: password},
				Client{UserAgent: c.given})
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if diff := cmp.Diff(c.want, f.secrets(got.Session.ID).UserAgent); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.name, diff)
			}
		}
	})
}

func TestLogoutEndsTheSessionAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		phone, laptop, bob := f.register("ann"), f.login("ann"), f.register("bob")
		f.grant(phone) // so that the service remembers it as alive
		f.logout(phone)
		f.wantEnded("after logout", phone)
		f.clock.Forward(sessionCacheTTL)
		f.wantEnded("a second later", phone)
		for _, other := range []*SignedIn{laptop, bob} {
			f.grant(other)
			f.refresh(other.Tokens.RefreshToken)
		}
		ended := f.secrets(phone.Session.ID)
		if at := ended.RevokedAt; at == nil || !at.Equal(phone.Session.CreatedAt) {
			t.Errorf("revoked at %v, want %v", at, phone.Session.CreatedAt)
		}
		// Signing out twice, or from a session that never existed, is not an error.
		f.logout(phone)
		if diff := cmp.Diff(ended, f.secrets(phone.Session.ID)); diff != "" {
			t.Errorf("a second logout has changed the row (-before +after):\n%s", diff)
		}
		unknown := model.Actor{UserID: phone.User.ID, SessionID: model.NewSessionID()}
		if err := f.Logout(t.Context(), unknown, Client{}); err != nil {
			t.Errorf("a session that never was: %v", err)
		}
	})
}

func TestLogoutIsNoticedByOtherNodesWithinASecond(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		warm, cold := f.node(f.clock), f.node(f.clock)
		warm.grant(ann)
		warm.grant(bob)
		f.logout(ann)
		cold.wantEnded("a node that never saw it", ann)
		warm.wantTokenExpired("its refresh token, which is never answered from memory",
			ann.Tokens.RefreshToken)
		// Whether the cache still has it within the second is not specified.
		f.clock.Forward(sessionCacheTTL)
		warm.wantUnauthenticated("a second later", ann.Tokens.AccessToken)
		warm.grant(bob)
	})
}

// Every request checks its session. That must not renew the cached outcome for ever.
func TestUseDoesNotExtendTheCacheOfASession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		warm := f.node(f.clock)
		warm.grant(ann)
		f.logout(ann)
		const steps = 10
		for range steps {
			f.clock.Forward(sessionCacheTTL / steps)
			_, _ = warm.Authenticate(t.Context(), ann.Tokens.AccessToken)
		}
		warm.wantUnauthenticated("a second after logout", ann.Tokens.AccessToken)
	})
}

func TestLogoutRacesWithEverything(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for round := range 5 {
			name := fmt.Sprintf("ann%d", round)
			ann := f.register(name)
			newest := make([]string, 4)
			concurrently(9, func(i int) {
				switch {
				case i == 0:
					if err := f.Logout(t.Context(), ann.Actor(), Client{}); err != nil {
						t.Error(err)
					}
				case i < 5:
					signedIn, err := f.Refresh(t.Context(), ann.Tokens.RefreshToken, nil, Client{})
					if err == nil {
						newest[i-1] = signedIn.Tokens.RefreshToken
					} else if problems(err) != "TOKEN_EXPIRED refreshToken" {
						t.Error(err)
					}
				default:
					_, _ = f.Authenticate(t.Context(), ann.Tokens.AccessToken)
				}
			})
			// Whichever came first, the session has ended.
			for _, token := range append(newest, ann.Tokens.RefreshToken) {
				f.wantTokenExpired("after the race", token)
			}
			f.clock.Forward(sessionCacheTTL)
			f.wantUnauthenticated("after the race", ann.Tokens.AccessToken)
		}
	})
}
