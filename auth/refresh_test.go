package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/model"
	"parley/store/storetest"
)

func TestRefreshRotates(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		other := f.login("ann")
		f.clock.Forward(time.Minute)
		next, err := f.Refresh(t.Context(), ann.Tokens.RefreshToken, nil,
			Client{UserAgent: "Firefox 2", IP: "192.0.2.2"})
		if err != nil {
			t.Fatal(err)
		}
		if next.Tokens.RefreshToken == ann.Tokens.RefreshToken ||
			next.Tokens.AccessToken == ann.Tokens.AccessToken {
			t.Error("a token stayed the same")
		}
		if diff := cmp.Diff(ann.User, next.User); diff != "" {
			t.Errorf("user (-want +got):\n%s", diff)
		}
		want := model.Session{
			ID: ann.Session.ID, UserID: ann.User.ID, CreatedAt: ann.Session.CreatedAt,
			LastUsedAt: f.clock.Now(),
			ExpiresAt:  f.clock.Now().Add(refreshTTL), UserAgent: new("Firefox 2"),
			IP: new("192.0.2.2"),
		}
		for name, s := range map[string]model.Session{
			"returned": next.Session,
			"stored":   f.secrets(ann.Session.ID).Session,
		} {
			if diff := cmp.Diff(want, s); diff != "" {
				t.Errorf("session, %s (-want +got):\n%s", name, diff)
			}
		}
		f.grant(next)
		f.grant(other)
		// A session lasts as long as it is used, longer than one token.
		for range 5 {
			f.clock.Forward(refreshTTL - time.Microsecond)
			next = f.refresh(next.Tokens.RefreshToken)
			f.grant(next)
		}
		f.wantTokenExpired("the other session, which was not used", other.Tokens.RefreshToken)
	})
}

// Two tabs of one browser race: the slower one must not sign the user out.
func TestRefreshGivesTheSameSuccessorWithinTheGrace(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		first := f.refresh(ann.Tokens.RefreshToken)
		before := f.secrets(ann.Session.ID)
		for _, d := range []time.Duration{0, refreshGrace / 2, refreshGrace - refreshGrace/2} {
			f.clock.Forward(d)
			again := f.refresh(ann.Tokens.RefreshToken)
			if again.Tokens.RefreshToken != first.Tokens.RefreshToken {
				t.Error("another successor")
			}
			f.grant(again)
		}
		if diff := cmp.Diff(before, f.secrets(ann.Session.ID)); diff != "" {
			t.Errorf(
				"a second use has changed the row, which would prolong the grace (-before "+
					"+after):\n%s", diff)
		}
		f.grant(f.refresh(first.Tokens.RefreshToken))
	})
}

func TestRefreshRacesWithOneToken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		other := f.node(f.clock)
		successors := make([]string, 20)
		concurrently(len(successors), func(i int) {
			s := f
			if i%2 == 0 { // two tabs may reach two nodes
				s = other
			}
			signedIn, err := s.Refresh(t.Context(), ann.Tokens.RefreshToken, nil, Client{})
			if err != nil {
				t.Error(err)
				return
			}
			successors[i] = signedIn.Tokens.RefreshToken
		})
		used, ok := readIssued(f.tokens, ann.Tokens.RefreshToken)
		successor, ok2 := readIssued(f.tokens, successors[0])
		if !ok || !ok2 {
			t.Fatal("not refresh tokens")
		}
		for _, s := range successors {
			if s != successors[0] {
				t.Errorf("two successors: %s and %s", s, successors[0])
			}
		}
		// After more than one rotation the first token would end the session.
		row := f.secrets(ann.Session.ID)
		if !bytes.Equal(row.PreviousHash, used.hash()) ||
			!bytes.Equal(row.RefreshHash, successor.hash()) {
			t.Error("what is stored is not one rotation from the first token to its successor")
		}
		f.grant(f.refresh(successors[0]))
	})
}

// After a second use, one of the two clients may have stolen the token: neither keeps the session.
func TestRefreshAfterTheGraceEndsTheSession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, other := f.register("ann"), f.login("ann")
		next := f.refresh(ann.Tokens.RefreshToken)
		f.grant(next)
		f.clock.Forward(refreshGrace + time.Microsecond)
		f.grant(next)
		f.wantTokenExpired("the second use", ann.Tokens.RefreshToken)
		f.wantEnded("the newest tokens", next)
		f.wantEnded("the first tokens", ann)
		f.grant(other)
		f.grant(f.refresh(other.Tokens.RefreshToken))
		if at := f.secrets(ann.Session.ID).RevokedAt; at == nil || !at.Equal(f.clock.Now()) {
			t.Errorf("revoked at %v, want now", at)
		}
	})
}

// The grace is for the parent of the newest token only: no honest client races with a token that is
// two generations old.
func TestRefreshWithAGrandparentEndsTheSession(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		second := f.refresh(f.refresh(ann.Tokens.RefreshToken).Tokens.RefreshToken)
		f.wantTokenExpired("two generations old", ann.Tokens.RefreshToken)
		f.wantEnded("the newest tokens", second)
		f.grant(bob)

		tokens := []*SignedIn{f.login("ann")}
		for range 20 {
			f.clock.Forward(time.Minute)
			tokens = append(tokens, f.refresh(tokens[len(tokens)-1].Tokens.RefreshToken))
		}
		// The reuse of a month-old token is detected too, although its hash is no longer stored.
		f.wantTokenExpired("twenty generations old", tokens[0].Tokens.RefreshToken)
		f.wantEnded("the newest tokens", tokens[20])
	})
}

func TestRefreshOfAnEndedSession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, bob, cat, dan := f.register("ann"), f.register("bob"), f.register("cat"),
			f.register("dan")
		// The grace does not apply to a session that has ended.
		next := f.refresh(bob.Tokens.RefreshToken)
		f.logout(bob)
		f.wantTokenExpired("the newest token after logout", next.Tokens.RefreshToken)
		f.wantTokenExpired("its parent after logout, within the grace", bob.Tokens.RefreshToken)

		f.clock.Forward(refreshTTL - time.Microsecond)
		cat = f.refresh(cat.Tokens.RefreshToken)
		f.clock.Forward(time.Microsecond)
		f.wantTokenExpired("at its expiry", ann.Tokens.RefreshToken)
		f.wantTokenExpired("at its expiry, again", ann.Tokens.RefreshToken)
		f.refresh(cat.Tokens.RefreshToken)
		f.clock.Forward(10 * refreshTTL)
		f.wantTokenExpired("long after its expiry", dan.Tokens.RefreshToken)

		// The sessions of a deleted account are deleted.
		eve := f.register("eve")
		f.do("delete", f.DeleteAccount(t.Context(), eve.Actor(), password, Client{}))
		f.wantTokenExpired("an account that is being removed", eve.Tokens.RefreshToken)
		f.finish()
		f.wantTokenExpired("an account that was removed", eve.Tokens.RefreshToken)
	})
}

// A token that was not issued here is refused, and must not end a session: any client could send
// it.
func TestRefreshWithForgedTokens(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		token := ann.Tokens.RefreshToken
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := newTokens(Options{Keys: []Key{secretKey("x")}, Issuer: issuer}, f.clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		before := f.secrets(ann.Session.ID)
		for name, s := range map[string]string{
			"empty": "", "blank": " ", "garbage": "garbage", "NUL": "\x00", "not UTF-8": "\xff",
			"an id":                              ann.Session.ID.String(),
			"an access token":                    ann.Tokens.AccessToken,
			"a megabyte":                         strings.Repeat("A", 1<<20),
			"all zero":                           base64url(make([]byte, refreshLen)),
			"truncated":                          token[:len(token)-1],
			"without its tag":                    base64url(raw[:refreshIDLen+refreshSecretLen]),
			"longer":                             token + "AAAA",
			"twice":                              token + token,
			"padded":                             token + "==",
			"hexadecimal":                        hex.EncodeToString(raw),
			"in other base64":                    base64.StdEncoding.EncodeToString(raw),
			"a bit of the id":                    flip(token, 5),
			"a bit of the secret":                flip(token, 200),
			"a bit of the tag":                   flip(token, 511),
			"another server's, for this session": theirs.firstRefresh(ann.Session.ID).String(),
			"another server's next":              theirs.nextRefresh(raw, 1).String(),
		} {
			f.wantTokenExpired(name, s)
		}
		// This one has a valid tag, and there is no such session.
		f.wantTokenExpired("no such session", f.tokens.firstRefresh(model.NewSessionID()).String())
		if diff := cmp.Diff(before, f.secrets(ann.Session.ID)); diff != "" {
			t.Errorf("the session has changed (-before +after):\n%s", diff)
		}
		f.grant(f.refresh(token))
	})
}

// Every bit of a token counts, and a token has only one encoding.
func TestRefreshTokensHaveOneSpelling(t *testing.T) {
	t.Parallel()
	service, err := newTokens(testOptions(), storetest.NewClock().Now)
	if err != nil {
		t.Fatal(err)
	}
	token := service.firstRefresh(model.NewSessionID()).String()
	if _, ok := readIssued(service, token); !ok {
		t.Fatal("its own token is refused")
	}
	for bit := range refreshLen * 8 {
		if _, ok := readIssued(service, flip(token, bit)); ok {
			t.Errorf("bit %d does not count", bit)
		}
	}
	// The base64 decoder skips line breaks, also in strict mode.
	for _, other := range []string{
		token + "\n", "\r\n" + token, token[:40] + "\n" + token[40:],
		token + "=", token + " ",
	} {
		if _, ok := readIssued(service, other); ok {
			t.Errorf("%q is read as %s", other, token)
		}
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range token {
		for _, c := range alphabet {
			other := token[:i] + string(c) + token[i+1:]
			if _, ok := readIssued(service, other); ok && other != token {
				t.Errorf("%s is read as %s", other, token)
			}
		}
	}
}

// A successor is derived from the token before it, which a thief may have, and from the server's
// key: without the key it cannot be computed.
func TestSuccessorsCannotBeWorkedOut(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	ours, err1 := newTokens(opts, storetest.NewClock().Now)
	opts.Keys = []Key{secretKey("x")}
	theirs, err2 := newTokens(opts, storetest.NewClock().Now)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	secret := func(r refreshToken) []byte {
		return r[refreshIDLen+refreshCountLen:][:refreshRandomLen]
	}
	token := ours.firstRefresh(model.NewSessionID())
	next := ours.nextRefresh(token, 1)
	if bytes.Equal(secret(next), secret(theirs.nextRefresh(token, 1))) {
		t.Error("the successor does not depend on the key")
	}
	if bytes.Equal(secret(next), secret(token)) ||
		bytes.Equal(secret(next), secret(ours.nextRefresh(next, 2))) {
		t.Error("a successor repeats")
	}
	if bytes.Equal(secret(token), secret(ours.firstRefresh(token.session()))) {
		t.Error("the first token of a session can be guessed")
	}
}

// A copy of the database has no refresh token that works.
func TestOnlyHashesOfRefreshTokensAreStored(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		given := []*SignedIn{ann, f.refresh(ann.Tokens.RefreshToken), f.login("ann")}
		given = append(given, f.refresh(given[1].Tokens.RefreshToken))
		needles := map[string][]byte{}
		for i, s := range given {
			raw, ok := readIssued(f.tokens, s.Tokens.RefreshToken)
			if !ok {
				t.Fatal("not a refresh token")
			}
			// Without the id at the start, which is stored and is not a secret.
			for name, part := range map[string][]byte{
				"secret": raw[refreshIDLen : refreshIDLen+refreshSecretLen],
				"tag":    raw[refreshLen-refreshTagLen:],
			} {
				needles[fmt.Sprint(i, name, "raw")] = part
				needles[fmt.Sprint(i, name, "hex")] = []byte(hex.EncodeToString(part))
				// Base64 encodes three bytes as four characters, so a part of a longer text has
				// three encodings.
				for shift := range 3 {
					cut := part[shift : shift+(len(part)-shift)/3*3]
					needles[fmt.Sprint(i, name, "base64url",
						shift)] = []byte(base64.RawURLEncoding.EncodeToString(cut))
					needles[fmt.Sprint(i, name, "base64",
						shift)] = []byte(base64.RawStdEncoding.EncodeToString(cut))
				}
			}
			needles[fmt.Sprint(i, "access")] = []byte(s.Tokens.AccessToken)
		}
		for _, table := range []string{"sessions", "users", "credentials"} {
			for column, value := range f.everything(table) {
				for name, needle := range needles {
					if bytes.Contains(value, needle) ||
						bytes.Contains(bytes.ToLower(value), needle) {
						t.Errorf("%s of a token stands in %s, %s", name, table, column)
					}
				}
			}
		}
		// The search must find a value that is stored.
		used, _ := readIssued(f.tokens, given[3].Tokens.RefreshToken)
		found := false
		for _, value := range f.everything("sessions") {
			found = found || bytes.Contains(value, used.hash())
		}
		if !found {
			t.Error("not even the hash was found")
		}
	})
}

// everything returns every value of every row of a table, by row and column.
func (f *fixture) everything(table string) map[string][]byte {
	f.t.Helper()
	rows, err := f.db.QueryContext(f.t.Context(), "SELECT * FROM "+table)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		f.t.Fatal(err)
	}
	values := map[string][]byte{}
	for n := 0; rows.Next(); n++ {
		row, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			f.t.Fatal(err)
		}
		for i, value := range row {
			b, ok := value.([]byte)
			if !ok {
				b = fmt.Append(nil, value)
			}
			values[fmt.Sprintf("row %d, %s", n, columns[i])] = b
		}
	}
	if err := rows.Err(); err != nil || len(values) == 0 {
		f.t.Fatalf("%d values (%v)", len(values), err)
	}
	return values
}

// No input panics, and accepted input is encoded as the server encodes it.
func FuzzReadRefreshToken(f *testing.F) {
	service, err := newTokens(testOptions(), storetest.NewClock().Now)
	if err != nil {
		f.Fatal(err)
	}
	// the same in every run
	first := newRefresh(service.refreshKeys[0], model.SessionID{1}, 0,
		bytes.Repeat([]byte{2}, refreshRandomLen))
	f.Add(first.String())
	f.Add(service.nextRefresh(first, 1).String())
	f.Add(nextUncounted(service.refreshKeys[0], first).String())
	f.Add(first.String() + "=")
	f.Add(first.String()[:85])
	f.Add("")
	f.Add("\x00")
	f.Fuzz(func(t *testing.T, s string) {
		token, ok := readIssued(service, s)
		if !ok {
			return
		}
		if token.String() != s {
			t.Errorf("%q was read as %q", s, token)
		}
		next, ok := readIssued(service, service.nextRefresh(token, 7).String())
		if count, counted := service.count(next); !ok || next.session() != token.session() ||
			!counted || count != 7 {
			t.Errorf("the successor of %q is no token of the same session with its count", s)
		}
	})
}
