package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-chi/jwtauth/v5"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"parley/errs"
	"parley/model"
)

// MinKeyLen is the least length of a signing key in bytes: that of HS256's hash (RFC 7518, section 3.2).
const MinKeyLen = 32

// Tokens is what a client keeps after signing in.
type Tokens struct {
	AccessToken  string
	ExpiresAt    time.Time // of the access token
	RefreshToken string
}

// Grant is what an access token stands for.
type Grant struct {
	Actor     model.Actor
	ExpiresAt time.Time
}

// tokens makes and reads access tokens (JWTs) and refresh tokens (ours).
type tokens struct {
	jwt        *jwtauth.JWTAuth
	issuer     string
	accessTTL  time.Duration
	refreshKey []byte
	now        func() time.Time
}

const sessionClaim = "sid"

func newTokens(opts Options, now func() time.Time) (tokens, error) {
	if len(opts.Key) < MinKeyLen {
		return tokens{}, fmt.Errorf("the signing key has %d bytes, and needs at least %d", len(opts.Key), MinKeyLen)
	}
	if opts.Issuer == "" {
		return tokens{}, errors.New("the issuer of access tokens is missing")
	}
	validate := []jwt.ValidateOption{
		jwt.WithClock(jwt.ClockFunc(now)), jwt.WithIssuer(opts.Issuer), jwt.WithAudience(opts.Issuer),
		// Without these, a token that lacks one of them would pass.
		jwt.WithRequiredClaim(jwt.ExpirationKey), jwt.WithRequiredClaim(jwt.SubjectKey), jwt.WithRequiredClaim(sessionClaim),
	}
	return tokens{
		jwt:        jwtauth.New("HS256", opts.Key, nil, validate...),
		issuer:     opts.Issuer,
		accessTTL:  opts.AccessTTL,
		refreshKey: mac(opts.Key, []byte("parley: refresh tokens")), // a key of its own for each use
		now:        now,
	}, nil
}

func (t tokens) access(actor model.Actor) (token string, expiresAt time.Time, err error) {
	now := t.now()
	expiresAt = now.Add(t.accessTTL).Truncate(time.Second) // a JWT counts in seconds
	_, token, err = t.jwt.Encode(map[string]any{
		jwt.IssuerKey: t.issuer, jwt.AudienceKey: t.issuer, jwt.SubjectKey: actor.UserID.String(),
		jwt.IssuedAtKey: now.Unix(), jwt.ExpirationKey: expiresAt.Unix(), sessionClaim: actor.SessionID.String(),
	})
	return token, expiresAt, err
}

// read checks everything about an access token that the token itself can tell.
func (t tokens) read(token string) (Grant, error) {
	verified, err := jwtauth.VerifyToken(t.jwt, token)
	if errors.Is(err, jwtauth.ErrExpired) {
		return Grant{}, errs.Wrap(err, errs.Unauthenticated, "The access token is expired. Trade the refresh token for a new one.")
	}
	invalid := func(err error) (Grant, error) {
		return Grant{}, errs.Wrap(err, errs.Unauthenticated, "The access token is not valid here. Sign in again.")
	}
	if err != nil {
		return invalid(err)
	}
	subject, _ := verified.Subject()
	var session string
	if err := verified.Get(sessionClaim, &session); err != nil {
		return invalid(err)
	}
	userID, err1 := model.ParseID[model.UserID](subject)
	sessionID, err2 := model.ParseID[model.SessionID](session)
	if err := errors.Join(err1, err2); err != nil {
		return invalid(err)
	}
	expiresAt, _ := verified.Expiration()
	return Grant{Actor: model.Actor{UserID: userID, SessionID: sessionID}, ExpiresAt: expiresAt}, nil
}

// A refresh token is the session's id, 32 bytes that nobody can guess, and a tag over both that shows, years later, that it
// once was ours. Only its hash is stored. The bytes of the first one are random; those of a successor are made from the
// token that it replaces, with a key, so that two requests that race with the same token get the same successor without
// it being stored.
const (
	refreshIDLen     = 16
	refreshSecretLen = 32
	refreshTagLen    = 16
	refreshLen       = refreshIDLen + refreshSecretLen + refreshTagLen
)

type refreshToken []byte

func (t tokens) firstRefresh(id model.SessionID) refreshToken {
	var secret [refreshSecretLen]byte
	_, _ = rand.Read(secret[:]) // never fails, see its documentation
	return t.refresh(id, secret[:])
}

func (t tokens) nextRefresh(r refreshToken) refreshToken {
	return t.refresh(r.session(), mac(t.refreshKey, []byte("next"), r))
}

func (t tokens) refresh(id model.SessionID, secret []byte) refreshToken {
	r := append(append(make(refreshToken, 0, refreshLen), id[:]...), secret...)
	return append(r, mac(t.refreshKey, []byte("tag"), r)[:refreshTagLen]...)
}

// readRefresh reports false for what never was a refresh token of ours.
func (t tokens) readRefresh(s string) (refreshToken, bool) {
	r, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(r) != refreshLen {
		return nil, false
	}
	untagged := r[:refreshIDLen+refreshSecretLen]
	return r, hmac.Equal(mac(t.refreshKey, []byte("tag"), untagged)[:refreshTagLen], r[len(untagged):])
}

func (r refreshToken) session() model.SessionID { return model.SessionID(r[:refreshIDLen]) }
func (r refreshToken) String() string           { return base64.RawURLEncoding.EncodeToString(r) }

func (r refreshToken) hash() []byte {
	sum := sha256.Sum256(r)
	return sum[:]
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, part := range parts {
		h.Write(part)
	}
	return h.Sum(nil)
}

// LoadOrMakeKey reads the signing key that the file holds, or makes one there that only its owner may read.
func LoadOrMakeKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil {
		if len(key) < MinKeyLen {
			return nil, fmt.Errorf("the signing key in %s is too short: remove the file, and everybody signs in again", path)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the signing key: %w", err)
	}
	key = make([]byte, MinKeyLen)
	_, _ = rand.Read(key)
	// Written under another name first: a crash leaves a whole key or none.
	whole := path + ".new"
	if err := os.WriteFile(whole, key, 0o600); err != nil {
		return nil, fmt.Errorf("keep the signing key: %w", err)
	}
	if err := os.Rename(whole, path); err != nil {
		return nil, fmt.Errorf("keep the signing key: %w", err)
	}
	return key, nil
}
