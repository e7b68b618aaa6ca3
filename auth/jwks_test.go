package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"parley/model"
	"parley/store/storetest"
)

// keyFile writes a private key as openssl does, and returns the path.
func keyFile(t *testing.T, private any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return textFile(t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func textFile(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ed25519Key returns a new key, read from a file, and its private half.
func ed25519Key(t *testing.T) (Key, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ReadKeyFile(keyFile(t, private))
	if err != nil {
		t.Fatal(err)
	}
	return key, private
}

func signedWith(keys ...Key) func(*Options) {
	return func(o *Options) { o.Keys = keys }
}

func (f *fixture) jwks() ([]byte, jwk.Set) {
	f.t.Helper()
	document, err := f.JWKS()
	if err != nil {
		f.t.Fatal(err)
	}
	set, err := jwk.Parse(document)
	if err != nil {
		f.t.Fatalf("%s: %v", document, err)
	}
	return document, set
}

// Another service verifies a token with the document alone.
func TestOtherServicesVerifyTokensWithTheJWKS(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		key, private := ed25519Key(t)
		previous, _ := ed25519Key(t)
		f := base.node(base.clock, signedWith(key, previous, secretKey("s")))
		ann := f.register("ann")
		document, set := f.jwks()
		parse := func(token string, set jwk.Set) (jwt.Token, error) {
			return jwt.ParseString(token, jwt.WithKeySet(set),
				jwt.WithClock(jwt.ClockFunc(f.clock.Now)), jwt.WithIssuer(issuer),
				jwt.WithAudience(issuer))
		}
		verified, err := parse(ann.Tokens.AccessToken, set)
		if err != nil {
			t.Fatalf("%s does not verify: %v", document, err)
		}
		if subject, _ := verified.Subject(); subject != ann.User.ID.String() {
			t.Errorf("the subject is %s", subject)
		}
		other, _ := ed25519Key(t)
		_, others := base.node(base.clock, signedWith(other)).jwks()
		if _, err := parse(ann.Tokens.AccessToken, others); err == nil {
			t.Error("verifies with the key of another server")
		}
		if set.Len() != 2 {
			t.Errorf("%d keys, want the two public ones", set.Len())
		}
		var raw struct{ Keys []map[string]any }
		if err := json.Unmarshal(document, &raw); err != nil {
			t.Fatal(err)
		}
		for _, k := range raw.Keys {
			if k["kty"] != "OKP" || k["crv"] != "Ed25519" || k["alg"] != "EdDSA" ||
				k["use"] != "sig" || k["kid"] == "" || k["kid"] == nil {
				t.Errorf("published: %v", k)
			}
			for _, secret := range []string{"d", "k"} {
				if _, there := k[secret]; there {
					t.Errorf("a private key is published: %v", k)
				}
			}
		}
		if bytes.Contains(document, []byte(base64url(private.Seed()))) {
			t.Error("the private key is published")
		}
		message, err := jws.ParseString(ann.Tokens.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		if id, _ := message.Signatures()[0].ProtectedHeaders().KeyID(); id != raw.Keys[0]["kid"] {
			t.Errorf("the token names the key %q, and the document %v", id, raw.Keys[0]["kid"])
		}
	})
}

func TestSecretsAreNotPublished(t *testing.T) {
	t.Parallel()
	f := &fixture{Service: mustService(t, mustSQLite(t, time.Now),
		signedWith(secretKey("a"), secretKey("b"))), t: t}
	if document, set := f.jwks(); set.Len() != 0 || string(document) != `{"keys":[]}` {
		t.Errorf("got %s", document)
	}
}

// A token that is signed with the public key as an HMAC secret must be refused (RFC 8725, section
// 2.1).
func TestAPublicKeyIsNotASecret(t *testing.T) {
	t.Parallel()
	key, private := ed25519Key(t)
	c := storetest.NewClock()
	f := &fixture{Service: mustService(t, mustSQLite(t, c.Now), signedWith(key)), t: t, clock: c}
	actor := model.Actor{UserID: model.NewUserID(), SessionID: model.NewSessionID()}
	good, _, err := f.tokens.access(actor)
	f.do("sign", err)
	if _, err := f.tokens.read(good); err != nil {
		t.Fatal(err)
	}
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		t.Fatal("no public key")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	f.do("marshal", err)
	document, _ := f.jwks()
	for name, secret := range map[string][]byte{
		"raw": public, "DER": der, "PEM": pem.EncodeToMemory(&pem.Block{
			Type:  "PUBLIC KEY",
			Bytes: der,
		}), "JWKS": document,
	} {
		hmac, err := SecretKey(append(secret, make([]byte, max(0, MinKeyLen-len(secret)))...))
		f.do("key", err)
		forger := &fixture{
			Service: mustService(t, mustSQLite(t, c.Now), signedWith(hmac)), t: t,
			clock: c,
		}
		token, _, err := forger.tokens.access(actor)
		f.do("forge", err)
		if grant, err := f.tokens.read(token); err == nil {
			t.Errorf("%s as a secret signs for %v", name, grant)
		}
	}
}

func TestAKeyCanBeReplaced(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		first, _ := ed25519Key(t)
		second, _ := ed25519Key(t)
		for name, keys := range map[string][2]Key{
			"secret by secret":     {secretKey("a"), secretKey("b")},
			"secret by key file":   {secretKey("c"), first},
			"key file by key file": {first, second}, "key file by secret": {second, secretKey("d")},
		} {
			was, is := keys[0], keys[1]
			before := base.node(base.clock, signedWith(was))
			person := strings.ReplaceAll(name, " ", "")
			ann := before.register(person)
			phone, idle := before.login(person), before.login(person)

			during := base.node(base.clock, signedWith(is, was))
			during.grant(ann)
			next := during.refresh(phone.Tokens.RefreshToken)
			during.grant(next)
			before.wantUnauthenticated(name+": a token of the new key where only the old is known",
				next.Tokens.AccessToken)

			after := base.node(base.clock, signedWith(is))
			after.grant(next)
			after.wantUnauthenticated(name+": a token of the dropped key", ann.Tokens.AccessToken)
			after.grant(after.refresh(idle.Tokens.RefreshToken))
			after.grant(after.refresh(next.Tokens.RefreshToken))
			// The refusal has not ended the session.
			after.grant(after.refresh(ann.Tokens.RefreshToken))
		}
	})
}

// The second use of a token is detected while the key that it was made with is still configured.
func TestReuseIsNoticedAcrossKeys(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		key, _ := ed25519Key(t)
		before := base.node(base.clock, signedWith(secretKey("a")))
		ann := before.register("ann")
		f := base.node(base.clock, signedWith(key, secretKey("a")))
		next := f.refresh(ann.Tokens.RefreshToken)
		again := f.refresh(ann.Tokens.RefreshToken)
		if again.Tokens.RefreshToken != next.Tokens.RefreshToken {
			t.Error("within the grace the successor is another")
		}
		f.clock.Forward(refreshGrace + time.Microsecond)
		f.wantTokenExpired("the second use", ann.Tokens.RefreshToken)
		f.wantEnded("the session", next)
	})
}

func TestReadKeyFileRefuses(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ path, want string }{
		"missing":  {filepath.Join(t.TempDir(), "none.pem"), "read the signing key"},
		"a folder": {t.TempDir(), "read the signing key"},
		"empty":    {textFile(t, nil), "does not contain a private key in PKCS #8 and PEM"},
		"text": {
			textFile(t, []byte("a secret")),
			"does not contain a private key in PKCS #8 and PEM",
		},
		"raw": {textFile(t, private), "does not contain a private key in PKCS #8 and PEM"},
		"public": {
			textFile(t,
				pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})),
			"does not contain a private key in PKCS #8 and PEM",
		},
		"another kind": {keyFile(t, other), "is not an Ed25519 key"},
		"broken": {
			textFile(t,
				pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("broken")})),
			".pem: ",
		},
		"of other format": {
			textFile(t,
				pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")})),
			"does not contain a private key in PKCS #8 and PEM",
		},
	} {
		_, err := ReadKeyFile(test.path)
		if err == nil || !strings.Contains(err.Error(), test.want) ||
			!strings.Contains(err.Error(), test.path) {
			t.Errorf("%s: got %v, want %q and the path", name, err, test.want)
		}
	}
	// The error must not quote the key.
	if _, err := ReadKeyFile(textFile(t, []byte("a secret"))); strings.Contains(err.Error(),
		"a secret") {
		t.Errorf("quotes the file: %v", err)
	}
}
