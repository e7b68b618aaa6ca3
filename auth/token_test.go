package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"strings"
	"testing"
	"time"

	"parley/errs"
	"parley/model"
	"parley/store/storetest"
)

// forged is an access token of an attacker: any header, any claims, any signature.
type forged struct {
	header, claims map[string]any
	sign           func(signed []byte) []byte
}

// forge returns a valid token, in which a test changes one thing.
func forge(now time.Time, actor model.Actor) forged {
	return forged{
		header: map[string]any{"alg": "HS256", "typ": "JWT"},
		claims: map[string]any{
			"iss": issuer, "aud": issuer, "sub": actor.UserID.String(),
			"sid": actor.SessionID.String(),
			"iat": now.Unix(), "exp": now.Add(accessTTL).Unix(),
		},
		sign: signer(sha256.New, secretOf("k")),
	}
}

func signer(hash func() hash.Hash, key []byte) func([]byte) []byte {
	return func(signed []byte) []byte {
		h := hmac.New(hash, key)
		h.Write(signed)
		return h.Sum(nil)
	}
}

func (fake forged) String() string {
	header, err1 := json.Marshal(fake.header)
	claims, err2 := json.Marshal(fake.claims)
	if err1 != nil || err2 != nil {
		panic("the token of a test cannot be encoded")
	}
	signed := base64url(header) + "." + base64url(claims)
	return signed + "." + base64url(fake.sign([]byte(signed)))
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func TestAccessTokens(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		now := f.clock.Now()
		grant := f.grant(ann)
		if !grant.ExpiresAt.Equal(ann.Tokens.ExpiresAt) {
			t.Errorf("expires %v, and the client got %v", grant.ExpiresAt, ann.Tokens.ExpiresAt)
		}
		if d := grant.ExpiresAt.Sub(now); d > accessTTL || d <= accessTTL-time.Second {
			t.Errorf("expires in %v, want %v, cut to a second", d, accessTTL)
		}
		if got, err := f.Authenticate(t.Context(), forge(now, ann.Actor()).String()); err != nil ||
			got.Actor != ann.Actor() {
			t.Errorf(
				"the token that the attacks change is refused, so they would prove nothing: %v",
				err)
		}
		f.clock.Forward(ann.Tokens.ExpiresAt.Sub(now) - time.Microsecond)
		f.grant(ann)
		f.clock.Forward(time.Microsecond)
		_, err := f.Authenticate(t.Context(), ann.Tokens.AccessToken)
		if !errs.Is(err, errs.Unauthenticated) ||
			!strings.Contains(err.Error(), "Trade the refresh token") {
			t.Errorf("got %v, want UNAUTHENTICATED and what to do about it", err)
		}
		f.grant(f.refresh(ann.Tokens.RefreshToken))
	})
}

// Each attack changes one thing in a valid token.
func TestAccessTokensCannotBeForged(t *testing.T) {
	t.Parallel()
	key := secretOf("k")
	each(t, func(_ *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		alg := func(alg string, sign func([]byte) []byte) func(*forged) {
			return func(fake *forged) { fake.header["alg"], fake.sign = alg, sign }
		}
		header := func(name string, value any, sign func([]byte) []byte) func(*forged) {
			return func(fake *forged) { fake.header[name], fake.sign = value, sign }
		}
		claim := func(name string, value any) func(*forged) {
			return func(fake *forged) { fake.claims[name] = value }
		}
		without := func(name string) func(*forged) {
			return func(fake *forged) { delete(fake.claims, name) }
		}
		unsigned := func([]byte) []byte { return nil }
		theirs := []byte("a key that the attacker made up, long enough")
		for name, change := range map[string]func(*forged){
			"alg none":                            alg("none", unsigned),
			"alg None":                            alg("None", unsigned),
			"alg nOnE":                            alg("nOnE", unsigned),
			"alg empty":                           alg("", unsigned),
			"HS384 with the same key":             alg("HS384", signer(sha512.New384, key)),
			"RS256 that is an HMAC of the public": alg("RS256", signer(sha256.New, []byte(issuer))),
			"HS512 with the same key":             alg("HS512", signer(sha512.New, key)),
			"no alg": func(fake *forged) {
				delete(fake.header, "alg")
				fake.sign = unsigned
			},
			"no alg, another key": func(fake *forged) {
				delete(fake.header, "alg")
				fake.sign = signer(sha256.New, theirs)
			},
			"no signature": func(fake *forged) { fake.sign = unsigned },
			"an empty key": func(fake *forged) {
				fake.sign = signer(sha256.New, nil)
			},
			"another server's key": func(fake *forged) {
				fake.sign = signer(sha256.New, secretOf("x"))
			},
			"the key that refresh tokens use": func(fake *forged) {
				fake.sign = signer(sha256.New, f.tokens.refreshKeys[0])
			},
			"half the signature": func(fake *forged) {
				fake.sign = func(b []byte) []byte { return signer(sha256.New, key)(b)[:16] }
			},
			"a key in the header": header("jwk",
				map[string]any{"kty": "oct", "k": base64url(theirs)}, signer(sha256.New, theirs)),
			"a key's address": header("jku", "https://attacker.example/keys.json",
				signer(sha256.New, theirs)),
			"a key's id": header("kid", "../../../../dev/null", signer(sha256.New, nil)),

			"no iss":              without("iss"),
			"no aud":              without("aud"),
			"no sub":              without("sub"),
			"no sid":              without("sid"),
			"no exp":              without("exp"),
			"another issuer":      claim("iss", "https://other.test"),
			"part of the issuer":  claim("iss", issuer[:len(issuer)-1]),
			"another audience":    claim("aud", "https://other.test"),
			"no one's audience":   claim("aud", []string{}),
			"others' audience":    claim("aud", []string{"https://other.test", issuer + ".evil"}),
			"expired":             claim("exp", f.clock.Now().Unix()),
			"expired at 0":        claim("exp", 0),
			"expired before 1970": claim("exp", -1),
			"exp null":            claim("exp", nil),
			"sub empty":           claim("sub", ""),
			"sub null":            claim("sub", nil),
			"sub a number":        claim("sub", 1),
			"sub a list":          claim("sub", []string{ann.User.ID.String()}),
			"sub a session":       claim("sub", ann.Session.ID.String()),
			"sub a conversation":  claim("sub", model.ConversationID(ann.User.ID).String()),
			"sub a bare UUID":     claim("sub", "01890a5d-ac96-774b-bcce-b302099a8057"),
			"sid empty":           claim("sid", ""),
			"sid null":            claim("sid", nil),
			"sid a number":        claim("sid", 1),
			"sid a user":          claim("sid", model.UserID(ann.Session.ID).String()),
			"sid an object":       claim("sid", map[string]string{"id": ann.Session.ID.String()}),
			"sid no session":      claim("sid", model.NewSessionID().String()),
		} {
			fake := forge(f.clock.Now(), ann.Actor())
			fake.header, fake.claims = maps.Clone(fake.header), maps.Clone(fake.claims)
			change(&fake)
			f.wantUnauthenticated(name, fake.String())
		}
		f.grant(ann)
		f.grant(bob)
	})
}

func TestAccessTokensCannotBeAltered(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		token := ann.Tokens.AccessToken
		part := strings.Split(token, ".")
		ours, theirs := part[1], strings.Split(bob.Tokens.AccessToken, ".")[1]
		later := forge(f.clock.Now(), ann.Actor())
		later.claims["exp"] = f.clock.Now().Add(time.Hour * 24 * 365).Unix()
		for name, altered := range map[string]string{
			"empty":               "",
			"one dot":             ".",
			"two dots":            "..",
			"three dots":          "...",
			"blank":               "   ",
			"NUL":                 "\x00",
			"garbage":             "garbage",
			"three times garbage": "garbage.garbage.garbage",
			"not base64":          "!.!.!",
			"JSON":                `{"sub":"` + ann.User.ID.String() + `"}`,
			"JSON with a signature": fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`,
				part[0], theirs, part[2]),
			"another's payload": part[0] + "." + theirs + "." + part[2],
			"a later expiry": part[0] + "." + strings.Split(later.String(), ".")[1] + "." +
				part[2],
			"no payload":            part[0] + ".." + part[2],
			"no header":             "." + part[1] + "." + part[2],
			"no signature":          part[0] + "." + part[1] + ".",
			"no third part":         part[0] + "." + part[1],
			"four parts":            token + "." + part[2],
			"five parts":            token + "..",
			"the parts in disorder": part[1] + "." + part[0] + "." + part[2],
			"another's signature": part[0] + "." + part[1] + "." +
				strings.Split(bob.Tokens.AccessToken, ".")[2],
			"the first bit":           part[0] + "." + part[1] + "." + flip(part[2], 0),
			"a bit in the middle":     part[0] + "." + part[1] + "." + flip(part[2], 128),
			"the last bit":            part[0] + "." + part[1] + "." + flip(part[2], 255),
			"a bit of the payload":    part[0] + "." + flip(ours, 400) + "." + part[2],
			"a bit of the header":     flip(part[0], 40) + "." + part[1] + "." + part[2],
			"truncated":               token[:len(token)-2],
			"two tokens":              token + token,
			"two tokens, a comma":     token + "," + token,
			"its scheme":              "Bearer " + token,
			"a refresh token":         ann.Tokens.RefreshToken,
			"a megabyte":              strings.Repeat("a", 1<<20),
			"a megabyte of dots":      strings.Repeat(".", 1<<20),
			"a megabyte of signature": token + strings.Repeat("A", 1<<20),
			"a megabyte of payload":   part[0] + "." + strings.Repeat("e30", 1<<18) + "." + part[2],
			"deep JSON": part[0] + "." + base64url(bytes.Repeat([]byte("["), 1<<18)) +
				"." + part[2],
		} {
			f.wantUnauthenticated(name, altered)
		}
		f.grant(ann)
		f.wantTokenExpired("an access token for a refresh token", token)
	})
}

// flip changes one bit of the bytes that are encoded.
func flip(encoded string, bit int) string {
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		panic(err)
	}
	raw[bit/8] ^= 0x80 >> (bit % 8)
	return base64url(raw)
}

// A signature is verified once. Whether the token is expired and whether its session has ended is
// checked each time.
func TestVerifiedTokensAreCached(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, bob, cat := f.register("ann"), f.register("bob"), f.register("cat")
		remembered := func(name string, want int) {
			t.Helper()
			if n := f.tokens.verified.Len(); n != want {
				t.Errorf("%s: %d tokens are cached, want %d", name, n, want)
			}
		}
		for _, s := range []*SignedIn{ann, bob, cat} {
			first := f.grant(s)
			if again := f.grant(s); again != first {
				t.Errorf("at first %v, and then %v", first, again)
			}
		}
		remembered("those that work", 3)

		forgedToken := forge(f.clock.Now(), ann.Actor())
		forgedToken.sign = signer(sha256.New, secretOf("x"))
		for range 2 {
			f.wantUnauthenticated("another server's key", forgedToken.String())
			f.wantUnauthenticated("one that goes on", ann.Tokens.AccessToken+"A")
		}
		remembered("those that do not", 3)

		f.logout(ann)
		f.wantUnauthenticated("signed out here", ann.Tokens.AccessToken)
		other := f.node(f.clock)
		other.logout(bob)
		f.clock.Forward(sessionCacheTTL)
		f.wantUnauthenticated("signed out elsewhere", bob.Tokens.AccessToken)
		f.grant(cat)

		f.clock.Forward(cat.Tokens.ExpiresAt.Sub(f.clock.Now()))
		_, err := f.Authenticate(t.Context(), cat.Tokens.AccessToken)
		if !errs.Is(err, errs.Unauthenticated) ||
			!strings.Contains(err.Error(), "Trade the refresh token") {
			t.Errorf("expired: got %v, want UNAUTHENTICATED and what to do about it", err)
		}
	})
}

// A token with another user's session is refused, whatever the node has cached of the session.
func TestAnAccessTokenForAnothersSessionIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		mixed := forge(f.clock.Now(), model.Actor{UserID: ann.User.ID, SessionID: bob.Session.ID}).
			String()
		f.node(f.clock).wantUnauthenticated("on a node that never saw the session", mixed)

		seen := f.node(f.clock)
		seen.grant(bob)
		seen.wantUnauthenticated("on a node that has just seen it alive", mixed)

		misled := f.node(f.clock)
		misled.wantUnauthenticated("before its owner comes", mixed)
		misled.grant(bob)
	})
}

// A token is verified with the algorithm that it names, or refused (RFC 8725, section 3.1). The
// signatures in this test are valid for HS256.
func TestAccessTokensNameTheirAlgorithm(t *testing.T) {
	t.Parallel()
	now := storetest.NewClock().Now()
	service, err := newTokens(testOptions(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []string{"none", "RS256", "PS256", "ES256", "EdDSA", "HS384", "HS512"} {
		fake := forge(now, model.Actor{UserID: model.NewUserID(), SessionID: model.NewSessionID()})
		fake.header["alg"] = alg
		if _, err := service.read(fake.String()); !errs.Is(err, errs.Unauthenticated) {
			t.Errorf("%s over an HS256 signature: got %v, want UNAUTHENTICATED", alg, err)
		}
	}
}

// The clocks of two machines differ, and a client that has signed in at one node may send its next
// request to another.
func TestAccessTokensSurviveSmallDifferencesOfClocks(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ahead := storetest.NewClock()
		// in the next second already, as JWTs count
		ahead.Forward(time.Second - 100*time.Millisecond)
		ann := f.node(ahead).register("ann")
		f.grant(ann)
	})
}

// Two servers that share a key by mistake do not accept each other's tokens.
func TestAccessTokensAreForOneIssuer(t *testing.T) {
	t.Parallel()
	each(t, func(_ *testing.T, f *fixture) {
		ann := f.register("ann")
		other := f.node(f.clock, func(o *Options) { o.Issuer = "https://other.test" })
		other.wantUnauthenticated("another issuer's", ann.Tokens.AccessToken)
		keyed := f.node(f.clock, func(o *Options) { o.Keys = []Key{secretKey("x")} })
		keyed.wantUnauthenticated("another key's", ann.Tokens.AccessToken)
		f.grant(ann)
	})
}

func TestNewRefusesWhatWouldNotBeSafe(t *testing.T) {
	t.Parallel()
	db := mustSQLite(t, storetest.NewClock().Now)
	for name, change := range map[string]func(*Options){
		"no keys":   func(o *Options) { o.Keys = nil },
		"no issuer": func(o *Options) { o.Issuer = "" },
	} {
		opts := testOptions()
		change(&opts)
		if s, err := New(db, opts); err == nil || s != nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, size := range []int{0, MinKeyLen - 1} {
		if _, err := SecretKey(secretOf("k")[:size]); err == nil ||
			strings.Contains(err.Error(), "kkk") {
			t.Errorf("a secret of %d bytes: got %v", size, err)
		}
	}
}

// No input panics, and an accepted token has the signed claims. Its base64 encoding may differ from
// the one that was signed.
func FuzzReadAccessToken(f *testing.F) {
	now := storetest.NewClock().Now()
	service, err := newTokens(testOptions(), func() time.Time { return now })
	if err != nil {
		f.Fatal(err)
	}
	ann := model.Actor{UserID: model.UserID{1}, SessionID: model.SessionID{2}}
	signed, expiresAt, err := service.access(ann)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(signed[:len(signed)-1])
	f.Add(signed + "=")
	f.Add("")
	f.Add("..")
	for _, alg := range []string{"none", "HS512", "RS256"} {
		attack := forge(now, model.Actor{UserID: model.UserID{3}, SessionID: model.SessionID{4}})
		attack.header["alg"], attack.sign = alg, func([]byte) []byte { return nil }
		f.Add(attack.String())
	}
	part := strings.Split(signed, ".")
	f.Add(fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, part[0], part[1], part[2]))
	f.Add(`{"iss":"` + issuer + `","aud":"` + issuer + `"}`)
	f.Fuzz(func(t *testing.T, token string) {
		switch grant, err := service.read(token); {
		case err != nil && (!errs.Is(err, errs.Unauthenticated) || grant != (Grant{})):
			t.Errorf("%q: got %v (%v)", token, grant, err)
		case err == nil && (grant.Actor != ann || !grant.ExpiresAt.Equal(expiresAt)):
			t.Errorf("%q was never signed, and has the grant %v", token, grant)
		}
	})
}
