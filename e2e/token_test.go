package e2e

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// jwt encodes a token without a library, so that any part can be wrong.
func jwt(t *testing.T, header, claims map[string]any, sign func(signed []byte) []byte) string {
	t.Helper()
	signed := encoded(t, header) + "." + encoded(t, claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(signed)))
}

func encoded(t *testing.T, part map[string]any) string {
	t.Helper()
	text, err := json.Marshal(part)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// decoded returns the header (part 0) or the claims (part 1) of a token.
func decoded(t *testing.T, token string, part int) (found map[string]any) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[part])
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func hs256(key string) func([]byte) []byte {
	return func(signed []byte) []byte {
		h := hmac.New(sha256.New, []byte(key))
		h.Write(signed)
		return h.Sum(nil)
	}
}

// TestForgedTokens tries tokens that the server has not issued. Over HTTP they are UNAUTHENTICATED,
// and the server closes a socket with one. A token that the test signs with the server's own key,
// without a mistake, is accepted: this shows that the others are refused for their mistakes.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	const secret = "the secret of the server under attack"
	srv := mustServe(t, "PARLEY_JWT_SECRET="+secret)
	ada, grace := srv.register("ada"), srv.register("grace")
	good := ada.tokens.AccessToken
	parts := strings.Split(good, ".")
	// with returns the claims of ada's token with another value for one.
	with := func(claim string, value any) map[string]any {
		claims := decoded(t, good, 1)
		claims[claim] = value
		if value == nil {
			delete(claims, claim)
		}
		return claims
	}
	header := map[string]any{"alg": "HS256", "typ": "JWT"}
	sign := func(claims map[string]any) string { return jwt(t, header, claims, hs256(secret)) }
	foreign := mustServe(t).register("ada")

	accepted := *ada
	accepted.tokens.AccessToken = sign(with("exp", time.Now().Add(time.Minute).Unix()))
	accepted.wants(`{"viewer": {"user": {"nickname": "ada"}}}`, viewerNickname, nil)
	accepted.connect()

	unsigned := func([]byte) []byte { return nil }
	for name, token := range map[string]string{
		"alg none": jwt(t, map[string]any{"alg": "none", "typ": "JWT"},
			with("exp", time.Now().Add(time.Hour).Unix()), unsigned),
		"alg None with the signature": encoded(t, map[string]any{"alg": "None"}) + "." + parts[1] +
			"." + parts[2],
		"no signature": parts[0] + "." + parts[1] + ".",
		"the header of another key": jwt(t,
			map[string]any{"alg": "HS256", "jwk": map[string]any{"kty": "oct", "k": "YQ"}},
			with("exp", time.Now().Add(time.Hour).Unix()), hs256("a")),
		"another person in it": parts[0] + "." + encoded(t, with("sub", grace.ID)) + "." +
			parts[2],
		"a longer life": parts[0] + "." +
			encoded(t, with("exp", time.Now().Add(24*time.Hour).Unix())) + "." + parts[2],
		"another key": jwt(t, header, with("exp", time.Now().Add(time.Hour).Unix()),
			hs256("the secret of another server")),
		"from another server":    foreign.tokens.AccessToken,
		"expired":                sign(with("exp", time.Now().Add(-time.Minute).Unix())),
		"without an end":         sign(with("exp", nil)),
		"without a session":      sign(with("sid", nil)),
		"without a person":       sign(with("sub", nil)),
		"for others":             sign(with("aud", "another")),
		"by others":              sign(with("iss", "another")),
		"not yet":                sign(with("nbf", time.Now().Add(time.Hour).Unix())),
		"grace in ada's session": sign(with("sub", grace.ID)),
		"the refresh token":      ada.tokens.RefreshToken,
		"no token":               "ada",
	} {
		forger := &person{server: srv, tokens: tokens{AccessToken: token}}
		if a := forger.ask(viewerNickname, nil); a.code() != "UNAUTHENTICATED" ||
			strings.Contains(string(a.Data), "nickname") {
			t.Errorf("%s: %s %+v, want UNAUTHENTICATED", name, a.Data, a.Errors)
		}
		if _, err := forger.tryConnect(); err == nil {
			t.Errorf("%s: the socket is accepted", name)
		} else {
			wantForbidden(t, err)
		}
	}
	// The forged tokens have ended no session.
	ada.wants(`{"viewer": {"user": {"nickname": "ada"}}}`, viewerNickname, nil)
}

// TestPublicKey verifies access tokens in another program, which has only the published keys.
func TestPublicKey(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		0o600); err != nil {
		t.Fatal(err)
	}
	srv := mustServe(t, "PARLEY_JWT_KEY_FILE="+file)
	ada := srv.register("ada")

	verifier := mustRun(t, "jwks.js", map[string]string{"url": srv.page + ".well-known/jwks.json"})
	verify := func(token string) (e struct {
		Verified bool
		Claims   struct{ Sub, Iss, Aud string }
		Private  bool
	},
	) {
		t.Helper()
		verifier.instruct(map[string]string{"token": token})
		verifier.next(&e)
		return e
	}
	e := verify(ada.tokens.AccessToken)
	if !e.Verified || e.Claims.Sub != ada.ID || e.Claims.Iss != "parley" ||
		e.Claims.Aud != "parley" {
		t.Errorf("ada's token: %+v", e)
	}
	if e.Private {
		t.Error("the private half of the key is published")
	}
	claims := decoded(t, ada.tokens.AccessToken, 1)
	claims["exp"] = time.Now().Add(time.Hour).Unix()
	parts := strings.Split(ada.tokens.AccessToken, ".")
	altered := parts[0] + "." + encoded(t, claims) + "." + parts[2]
	if e := verify(altered); e.Verified {
		t.Errorf("an altered token: %+v", e)
	}

	// The public key is not a secret to sign with, whatever algorithm a token names.
	header := decoded(t, ada.tokens.AccessToken, 0)
	header["alg"] = "HS256"
	published := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: mustMarshal(t, public)})
	for name, token := range map[string]string{
		"altered":                            altered,
		"HS256 with the public key":          jwt(t, header, claims, hs256(string(public))),
		"HS256 with the public key as a PEM": jwt(t, header, claims, hs256(string(published))),
	} {
		forger := &person{server: srv, tokens: tokens{AccessToken: token}}
		if a := forger.ask(viewerNickname, nil); a.code() != "UNAUTHENTICATED" {
			t.Errorf("%s: %s %+v, want UNAUTHENTICATED", name, a.Data, a.Errors)
		}
	}
}

func mustMarshal(t *testing.T, public ed25519.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
