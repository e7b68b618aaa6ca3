package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lestrrat-go/jwx/v3/jwk"
)

// MinKeyLen is the least length of a secret in bytes: that of HS256's hash (RFC 7518, section 3.2).
const MinKeyLen = 32

// Key signs access tokens, and says whether they were signed with it.
type Key struct {
	algorithm    string
	sign, verify jwk.Key
	public       jwk.Key // nil for a secret, which nobody else may know
	secret       []byte  // what other keys are derived from
}

// SecretKey is a key that both signs and verifies: HMAC with SHA-256 (HS256).
func SecretKey(secret []byte) (Key, error) {
	if len(secret) < MinKeyLen {
		return Key{}, fmt.Errorf("the signing secret has %d bytes, and needs at least %d", len(secret), MinKeyLen)
	}
	k := Key{algorithm: "HS256", secret: secret}
	var err error
	if k.sign, err = named(secret, secret); err != nil {
		return Key{}, err
	}
	k.verify = k.sign
	return k, nil
}

// ReadKeyFile reads an Ed25519 private key (EdDSA, RFC 8037) in PKCS #8 and PEM, as `openssl
// genpkey -algorithm ed25519` writes it. Its public half is published, so that others can verify
// tokens.
func ReadKeyFile(path string) (Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read the signing key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return Key{}, fmt.Errorf("%s has no private key in PKCS #8 and PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("%s is not an Ed25519 key", path)
	}
	public := private.Public().(ed25519.PublicKey) //nolint:forcetypeassert // its documentation says so
	k := Key{algorithm: "EdDSA", secret: private.Seed()}
	var err1, err2 error
	k.sign, err1 = named(private, public)
	k.public, err2 = named(public, public)
	k.verify = k.public
	return k, errors.Join(err1, err2)
}

// named gives a key an id that shows in the tokens it signs: with two keys, which one. The id says
// nothing of a secret, whose hash it is begun from.
func named(raw any, of []byte) (jwk.Key, error) {
	key, err := jwk.Import(raw)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("parley: key id: "), of...))
	return key, key.Set(jwk.KeyIDKey, hex.EncodeToString(sum[:8]))
}

// JWKS is the public halves of the keys, for whoever verifies tokens elsewhere: a JWK Set (RFC
// 7517, section 5). It is empty where tokens are signed with a secret.
func (s *Service) JWKS() ([]byte, error) {
	set := jwk.NewSet()
	for _, k := range s.opts.Keys {
		if k.public == nil {
			continue
		}
		key, err := k.public.Clone()
		if err != nil {
			return nil, err
		}
		err = errors.Join(key.Set(jwk.AlgorithmKey, k.algorithm), key.Set(jwk.KeyUsageKey, "sig"), set.AddKey(key))
		if err != nil {
			return nil, err
		}
	}
	return json.Marshal(set)
}

// LoadOrMakeSecret reads the signing secret that the file holds, or makes one there that only its
// owner may read.
func LoadOrMakeSecret(path string) ([]byte, error) {
	secret, err := os.ReadFile(path)
	if err == nil {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
			if err := os.Chmod(path, 0o600); err != nil {
				return nil, fmt.Errorf("keep the signing secret to its owner: %w", err)
			}
		}
		if len(secret) < MinKeyLen {
			return nil, fmt.Errorf("the signing secret in %s is too short: remove the file, and clients refresh their sessions", path)
		}
		return secret, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the signing secret: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the signing secret: %w", err)
	}
	secret = make([]byte, MinKeyLen)
	_, _ = rand.Read(secret) // never fails, see its documentation
	// Written under another name first, and linked to its own: a crash leaves a whole secret or
	// none, and of two that start at once the second takes what the first has made.
	whole, err := os.CreateTemp(filepath.Dir(path), "secret-*")
	if err != nil {
		return nil, fmt.Errorf("keep the signing secret: %w", err)
	}
	_, errWrite := whole.Write(secret)
	err = errors.Join(errWrite, whole.Sync(), whole.Close())
	if err == nil {
		err = os.Link(whole.Name(), path)
	}
	err2 := os.Remove(whole.Name())
	if errors.Is(err, fs.ErrExist) {
		return LoadOrMakeSecret(path)
	}
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("keep the signing secret: %w", err)
	}
	return secret, nil
}
