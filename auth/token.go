package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"github.com/go-chi/jwtauth/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"parley/errs"
	"parley/model"
)

// Tokens are the tokens of a session, for its client.
type Tokens struct {
	AccessToken  string
	ExpiresAt    time.Time // of the access token
	RefreshToken string
}

// Grant is the content of a valid access token.
type Grant struct {
	Actor     model.Actor
	ExpiresAt time.Time
}

// tokens makes and reads access tokens (JWTs) and refresh tokens (of our own format).
type tokens struct {
	issuer    string
	accessTTL time.Duration
	now       func() time.Time
	// The first key signs, and all verify, so that a key can be replaced without signing users out.
	// The three slices have one element for each key.
	jwts        []*jwtauth.JWTAuth
	algorithms  []string
	refreshKeys [][]byte
	// verified caches the grants of access tokens that were found to be valid, by the token's hash,
	// so that a signature is verified once and not with each request. Whether the token is expired
	// and whether its session has ended is checked each time.
	verified *lru.Cache[[sha256.Size]byte, Grant]
}

// tokenCacheSize is how many verified access tokens are cached; each takes about 250 bytes.
const tokenCacheSize = 1 << 14

const sessionClaim = "sid" // as in OpenID Connect Front-Channel Logout 1.0, section 3

func newTokens(opts Options, now func() time.Time) (tokens, error) {
	if len(opts.Keys) == 0 {
		return tokens{}, errors.New("the key that signs access tokens is missing")
	}
	if opts.Issuer == "" {
		return tokens{}, errors.New("the issuer of access tokens is missing")
	}
	verified, err := lru.New[[sha256.Size]byte, Grant](tokenCacheSize)
	if err != nil {
		return tokens{}, err
	}
	t := tokens{issuer: opts.Issuer, accessTTL: opts.AccessTTL, now: now, verified: verified}
	validate := []jwt.ValidateOption{
		jwt.WithClock(jwt.ClockFunc(now)), jwt.WithIssuer(opts.Issuer),
		jwt.WithAudience(opts.Issuer),
		// Without these, a token that lacks one of them would pass.
		jwt.WithRequiredClaim(jwt.ExpirationKey), jwt.WithRequiredClaim(jwt.SubjectKey),
		jwt.WithRequiredClaim(sessionClaim),
	}
	for _, k := range opts.Keys {
		t.algorithms = append(t.algorithms, k.algorithm)
		t.jwts = append(t.jwts, jwtauth.New(k.algorithm, k.sign, k.verify, validate...))
		// a derived key, so that no key has two uses
		t.refreshKeys = append(t.refreshKeys, mac(k.secret, []byte("parley: refresh tokens")))
	}
	return t, nil
}

func (t tokens) access(actor model.Actor) (token string, expiresAt time.Time, err error) {
	expiresAt = t.now().Add(t.accessTTL).Truncate(time.Second) // a JWT counts in seconds
	_, token, err = t.jwts[0].Encode(map[string]any{
		jwt.IssuerKey: t.issuer, jwt.AudienceKey: t.issuer, jwt.SubjectKey: actor.UserID.String(),
		jwt.ExpirationKey: expiresAt.Unix(), sessionClaim: actor.SessionID.String(),
		// No iat: a node with a slow clock would refuse a new token as one from the future.
	})
	return token, expiresAt, err
}

// read verifies an access token and returns its grant. It does not check the session.
func (t tokens) read(token string) (Grant, error) {
	hash := sha256.Sum256([]byte(token))
	if grant, cached := t.verified.Get(hash); cached && t.now().Before(grant.ExpiresAt) {
		return grant, nil
	}
	grant, err := t.readUncached(token)
	if err == nil {
		t.verified.Add(hash, grant)
	}
	return grant, err
}

func (t tokens) readUncached(token string) (Grant, error) {
	verified, err := t.verify(token)
	if errors.Is(err, jwtauth.ErrExpired) {
		return Grant{}, errs.Wrap(err, errs.Unauthenticated, expiredMessage)
	}
	invalid := func(err error) (Grant, error) {
		return Grant{}, errs.Wrap(err, errs.Unauthenticated,
			"The access token is not valid on this server. Sign in again.")
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
	actor := model.Actor{UserID: userID, SessionID: sessionID}
	return Grant{Actor: actor, ExpiresAt: expiresAt}, nil
}

const expiredMessage = "The access token is expired. Trade the refresh token for a new one."

func (t tokens) verify(token string) (verified jwt.Token, err error) {
	algorithm := algorithmOf(token)
	err = jwtauth.ErrAlgoInvalid
	for i, ja := range t.jwts {
		if t.algorithms[i] != algorithm {
			continue
		}
		verified, err = jwtauth.VerifyToken(ja, token)
		if err == nil || errors.Is(err, jwtauth.ErrExpired) { // signed with this key
			return verified, err
		}
	}
	return nil, err
}

// algorithmOf returns the algorithm that a token names in its header, or "". Only keys of exactly
// that algorithm are tried, and each key has one, so a token cannot choose how it is verified (RFC
// 8725, section 3.1).
func algorithmOf(token string) string {
	message, err := jws.ParseString(token)
	if err != nil || len(message.Signatures()) != 1 {
		return ""
	}
	algorithm, _ := message.Signatures()[0].ProtectedHeaders().Algorithm()
	return algorithm.String()
}

// A refresh token consists of the session's id, a secret of 32 bytes, and a tag. The tag is a MAC
// over both: it proves, also years later, that the token was issued here. Only the hash of a token
// is stored.
//
// The secret begins with the token's count: how many times its session was refreshed before the
// token was issued, so 0 in the first one. 16 bytes that cannot be guessed follow, and a MAC over
// all of this: it distinguishes a counted token from one whose 32 bytes of secret have no count.
// Nodes of the version before issue those. They check the length and the tag alone, and so accept
// counted tokens.
//
// The unguessable bytes of the first token are random. Those of a successor are derived from the
// token that it replaces, with a key, so that requests that race with one token get the same
// successor although it is not stored.
const (
	refreshIDLen     = 16
	refreshSecretLen = refreshCountLen + refreshRandomLen + refreshCheckLen
	refreshTagLen    = 16
	refreshLen       = refreshIDLen + refreshSecretLen + refreshTagLen

	refreshCountLen  = 8 // big endian
	refreshRandomLen = 16
	refreshCheckLen  = 8
)

type refreshToken []byte

func (t tokens) firstRefresh(id model.SessionID) refreshToken {
	var random [refreshRandomLen]byte
	_, _ = rand.Read(random[:]) // never fails, see its documentation
	return newRefresh(t.refreshKeys[0], id, 0, random[:])
}

// nextRefresh returns the successor of a token, with its count.
func (t tokens) nextRefresh(r refreshToken, count int64) refreshToken {
	return nextRefresh(t.refreshKeys[0], r, count)
}

// successor returns the token with this hash that followed another one, or nil. count is that of
// the session. It tries every key, because keys may have been replaced since, and the form without
// a count, because a node of the version before may have issued it.
func (t tokens) successor(of refreshToken, count int64, hash []byte) refreshToken {
	for _, key := range t.refreshKeys {
		for _, next := range []refreshToken{nextRefresh(key, of, count), nextUncounted(key, of)} {
			if bytes.Equal(next.hash(), hash) {
				return next
			}
		}
	}
	return nil
}

func nextRefresh(key []byte, r refreshToken, count int64) refreshToken {
	return newRefresh(key, r.session(), count, mac(key, []byte("next"), r)[:refreshRandomLen])
}

func newRefresh(key []byte, id model.SessionID, count int64, random []byte) refreshToken {
	secret := binary.BigEndian.AppendUint64(make([]byte, 0, refreshSecretLen), uint64(count))
	secret = append(secret, random...)
	return tagged(key, id, append(secret, refreshCheck(key, id, secret)...))
}

// nextUncounted returns the successor of a token as a node of the version before makes it.
func nextUncounted(key []byte, r refreshToken) refreshToken {
	return tagged(key, r.session(), mac(key, []byte("next"), r))
}

func tagged(key []byte, id model.SessionID, secret []byte) refreshToken {
	r := append(append(make(refreshToken, 0, refreshLen), id[:]...), secret...)
	return append(r, refreshTag(key, r)...)
}

func refreshTag(key, untagged []byte) []byte {
	return mac(key, []byte("tag"), untagged)[:refreshTagLen]
}

func refreshCheck(key []byte, id model.SessionID, unchecked []byte) []byte {
	return mac(key, []byte("count"), id[:], unchecked)[:refreshCheckLen]
}

// readRefresh decodes a refresh token. It returns false if the text does not have the form of one.
func readRefresh(s string) (refreshToken, bool) {
	r, err := base64.RawURLEncoding.Strict().DecodeString(s)
	// compared with its encoding, because the decoder skips line breaks
	return r, err == nil && len(r) == refreshLen && refreshToken(r).String() == s
}

// issuedHere reports whether the tag of a refresh token was made with one of the keys. Such a token
// may end its session, and works if its count says that it is newer than the database. Any other
// token works only if its hash is stored, so that a session outlives the key of its token's tag.
func (t tokens) issuedHere(r refreshToken) bool { return t.tagKey(r) != nil }

// count returns how many times the session had been refreshed when the token was issued. It returns
// false if the token was not issued here, or has no count.
func (t tokens) count(r refreshToken) (count int64, counted bool) {
	key := t.tagKey(r)
	secret := r[refreshIDLen : refreshIDLen+refreshSecretLen]
	unchecked := secret[:refreshCountLen+refreshRandomLen]
	if key == nil ||
		!hmac.Equal(refreshCheck(key, r.session(), unchecked), secret[len(unchecked):]) {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(unchecked)), true
}

// tagKey returns the key that the tag of a refresh token was made with, or nil.
func (t tokens) tagKey(r refreshToken) []byte {
	untagged := r[:refreshIDLen+refreshSecretLen]
	for _, key := range t.refreshKeys {
		if hmac.Equal(refreshTag(key, untagged), r[len(untagged):]) {
			return key
		}
	}
	return nil
}

func (r refreshToken) session() model.SessionID { return model.SessionID(r[:refreshIDLen]) }
func (r refreshToken) String() string           { return base64.RawURLEncoding.EncodeToString(r) }
func (r refreshToken) hash() []byte             { return hashOf(r) }

func hashOf(secret []byte) []byte {
	sum := sha256.Sum256(secret)
	return sum[:]
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, part := range parts {
		h.Write(part)
	}
	return h.Sum(nil)
}
