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

// MinKeyLen is the minimum length of a secret in bytes: that of HS256's hash (RFC 7518, section
// 3.2).
const MinKeyLen = 32

// Key signs and verifies access tokens.
type Key struct {
	algorithm    string
	sign, verify jwk.Key
	public       jwk.Key // published; nil for a secret
	secret       []byte  // the keys of refresh tokens are derived from it
}

// SecretKey returns a key that both signs and verifies: HMAC with SHA-256 (HS256).
func SecretKey(secret []byte) (Key, error) {
	if len(secret) < MinKeyLen {
		return Key{}, fmt.Errorf("the signing secret has %d bytes; it needs at least %d",
			len(secret), MinKeyLen)
	}
	k := Key{algorithm: "HS256", secret: secret}
	var err error
	if k.sign, err = withKeyID(secret, secret); err != nil {
		return Key{}, err
	}
	k.verify = k.sign
	return k, nil
}

// ReadKeyFile reads an Ed25519 private key (EdDSA, RFC 8037) in PKCS #8 and PEM, as `openssl
// genpkey -algorithm ed25519` writes it. Its public half is published in the JWKS, so that other
// services can verify tokens.
func ReadKeyFile(path string) (Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read the signing key: %w", err) // err names the file
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return Key{}, fmt.Errorf(
			"read the signing key: %s does not contain a private key in PKCS #8 and PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("read the signing key: %s: %w", path, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("read the signing key: %s is not an Ed25519 key", path)
	}
	public := private.Public().(ed25519.PublicKey) //nolint:forcetypeassert // as documented
	k := Key{algorithm: "EdDSA", secret: private.Seed()}
	var err1, err2 error
	k.sign, err1 = withKeyID(private, public)
	k.public, err2 = withKeyID(public, public)
	k.verify = k.public
	return k, errors.Join(err1, err2)
}

// withKeyID imports a key and gives it an id (kid), which is in the header of the tokens that it
// signs. The id is the start of a hash, so it does not reveal a secret.
func withKeyID(raw any, of []byte) (jwk.Key, error) {
	key, err := jwk.Import(raw)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("parley: key id: "), of...))
	return key, key.Set(jwk.KeyIDKey, hex.EncodeToString(sum[:8]))
}

// JWKS returns the public halves of the keys, for services that verify tokens: a JWK Set (RFC 7517,
// section 5) in JSON. It is empty if tokens are signed with a secret.
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
		err = errors.Join(key.Set(jwk.AlgorithmKey, k.algorithm), key.Set(jwk.KeyUsageKey, "sig"),
			set.AddKey(key))
		if err != nil {
			return nil, err
		}
	}
	return json.Marshal(set)
}

// LoadOrMakeSecret reads the signing secret from the file. If there is no file, it creates one with
// a new secret, which only the owner may read.
func LoadOrMakeSecret(path string) ([]byte, error) {
	secret, err := os.ReadFile(path)
	if err == nil {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
			if err := os.Chmod(path, 0o600); err != nil {
				return nil, fmt.Errorf("make the signing secret readable by its owner only: %w",
					err)
			}
		}
		if len(secret) < MinKeyLen {
			return nil, fmt.Errorf("the signing secret in %s has %d bytes; it needs at least %d. "+
				"Without the file, a new secret is made, and clients refresh their sessions", path,
				len(secret), MinKeyLen)
		}
		return secret, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the signing secret: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the signing secret: %w", err)
	}
	secret = make([]byte, MinKeyLen)
	_, _ = rand.Read(secret) // never fails, see its documentation
	// The secret is written to a temporary file, which is then linked to its path. So a crash
	// leaves a whole secret or none, and if two processes start at once, the second uses the secret
	// of the first.
	temporary, err := os.CreateTemp(filepath.Dir(path), "secret-*")
	if err != nil {
		return nil, fmt.Errorf("store the signing secret: %w", err)
	}
	_, errWrite := temporary.Write(secret)
	err = errors.Join(errWrite, temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Link(temporary.Name(), path)
	}
	errRemove := os.Remove(temporary.Name())
	if errors.Is(err, fs.ErrExist) {
		return LoadOrMakeSecret(path)
	}
	if err := errors.Join(err, errRemove); err != nil {
		return nil, fmt.Errorf("store the signing secret: %w", err)
	}
	return secret, nil
}
