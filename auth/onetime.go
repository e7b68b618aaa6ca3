package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/mail"
	"parley/model"
	"parley/store"
)

// purpose is what a one-time token is good for, and nothing else.
type purpose string

const (
	verifyEmail   purpose = "verify_email"
	changeEmail   purpose = "change_email"
	resetPassword purpose = "reset_password"
)

// How long a mailed link works.
const (
	resetTTL  = 30 * time.Minute
	verifyTTL = 48 * time.Hour
)

const oneTimeLen = 32

// issue makes a token that works once, and voids those that were issued before for the same
// purpose. Only its hash is stored; the token itself is in the mail alone. If stored is false, it
// runs the same statements, and the token never works.
func (s *Service) issue(
	ctx context.Context, tx *store.Tx, stored bool, what purpose, user model.UserID, newEmail *string, ttl time.Duration,
) (string, error) {
	if err := s.void(ctx, tx, user, what); err != nil {
		return "", err
	}
	var secret [oneTimeLen]byte
	_, _ = rand.Read(secret[:]) // never fails, see its documentation
	err := tx.InsertWhen(ctx, stored, &model.OneTimeToken{
		Hash: hashOf(secret[:]), Purpose: string(what), UserID: user, Email: newEmail, CreatedAt: tx.Now, ExpiresAt: tx.Now.Add(ttl),
	}, "")
	return base64.RawURLEncoding.EncodeToString(secret[:]), err
}

// void makes unused tokens worthless, and takes back the mails that wait to carry them: with the
// token they would lose what says whose they are, and outlive the account. It runs the same
// statements if there are none.
func (s *Service) void(ctx context.Context, tx *store.Tx, user model.UserID, purposes ...purpose) error {
	unused := func(q bun.QueryBuilder) bun.QueryBuilder {
		return q.Where("user_id = ?", user).Where("purpose IN (?)", bun.List(purposes)).Where("used_at IS NULL")
	}
	var tokens []*model.OneTimeToken
	if err := tx.NewSelect().Model(&tokens).ApplyQueryBuilder(unused).Scan(ctx); err != nil {
		return err
	}
	keys := mailKeys(tokens)
	for len(keys) < len(purposes) { // there is at most one for each purpose
		keys = append(keys, "")
	}
	if err := s.opts.Mail.Withdraw(ctx, tx, keys...); err != nil {
		return err
	}
	_, err := tx.NewDelete().Model((*model.OneTimeToken)(nil)).ApplyQueryBuilder(unused).Exec(ctx)
	return err
}

// mailKeys are those of the mails that carry tokens.
func mailKeys(tokens []*model.OneTimeToken) []string {
	keys := make([]string, len(tokens))
	for i, token := range tokens {
		keys[i] = hex.EncodeToString(token.Hash)
	}
	return keys
}

var errOneTime = errs.Input(errs.TokenExpired, "token", "The link is expired, or was used before. Ask for a new one.")

// hashOfToken is what is stored of a token.
func hashOfToken(token string) []byte {
	secret, _ := base64.RawURLEncoding.DecodeString(token) // as issue has made it
	return hashOf(secret)
}

// readToken returns the hash that is stored of a token; false for anything that issue cannot have
// made.
func readToken(token string) (hash []byte, ok bool) {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(secret) != oneTimeLen || base64.RawURLEncoding.EncodeToString(secret) != token {
		return nil, false
	}
	return hashOf(secret), true
}

// requireToken is TOKEN_EXPIRED for a token that redeem would refuse, without using it up: it comes
// before costly work.
func (s *Service) requireToken(ctx context.Context, token string, what purpose) error {
	hash, ok := readToken(token)
	if !ok {
		return errOneTime
	}
	works, err := s.db.NewSelect().Model((*model.OneTimeToken)(nil)).Where("hash = ?", hash).Where("purpose = ?", what).
		Where("used_at IS NULL").Where("expires_at > ?", s.db.Now()).Exists(ctx)
	if err == nil && !works {
		return errOneTime
	}
	return store.Error(err)
}

// redeem uses a token up. TOKEN_EXPIRED where it does not work, or not for any of these purposes.
func redeem(ctx context.Context, tx *store.Tx, token string, purposes ...purpose) (*model.OneTimeToken, error) {
	hash, ok := readToken(token)
	if !ok {
		return nil, errOneTime
	}
	row := new(model.OneTimeToken)
	res, err := tx.NewUpdate().Model(row).Set("used_at = ?", tx.Now).
		Where("hash = ?", hash).Where("purpose IN (?)", bun.List(purposes)).
		Where("used_at IS NULL").Where("expires_at > ?", tx.Now).Returning("*").Exec(ctx)
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, cmp.Or[error](err, errOneTime)
	}
	return row, nil
}

// linkMail brings a token to an address; one token is one mail.
func (s *Service) linkMail(kind mail.Kind, to string, u *model.User, page, token string) mail.Message {
	return mail.Message{
		Kind: kind, To: to, Nickname: u.Nickname, Link: s.opts.Link(page, token),
		Key: hex.EncodeToString(hashOfToken(token)),
	}
}

// noticeMail informs an address of what has happened.
func noticeMail(kind mail.Kind, to string, u *model.User) mail.Message {
	return mail.Message{Kind: kind, To: to, Nickname: u.Nickname, Key: model.NewAuditID().String()}
}

// decoyAccount stands for the account of an address that has none, so that the same work can be
// done for both. Its id is the same for the same address, and is the id of no account.
func decoyAccount(emailKey string) *model.User {
	// a name that never exists (RFC 6761)
	u := &model.User{Email: "nobody@parley.invalid", Nickname: "nobody"}
	copy(u.ID[:], hashOf([]byte("no account: "+emailKey)))
	return u
}
