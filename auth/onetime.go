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

// purpose is the one thing that a one-time token works for.
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

const oneTimeLen = 32 // bytes

// issue returns a token that works once, and invalidates those that the user had for the same
// purpose. Only the hash is stored; the token itself is in the mail alone. If stored is false, it
// runs the same statements, and the token never works.
func (s *Service) issue(
	ctx context.Context, tx *store.Tx, stored bool, use purpose, user model.UserID,
	newEmail *string, ttl time.Duration,
) (string, error) {
	if err := s.invalidate(ctx, tx, user, use); err != nil {
		return "", err
	}
	var secret [oneTimeLen]byte
	_, _ = rand.Read(secret[:]) // never fails, see its documentation
	err := tx.InsertWhen(ctx, stored, &model.OneTimeToken{
		Hash: hashOf(secret[:]), Purpose: string(use), UserID: user, Email: newEmail,
		CreatedAt: tx.Now, ExpiresAt: tx.Now.Add(ttl),
	}, "")
	return base64.RawURLEncoding.EncodeToString(secret[:]), err
}

// invalidate deletes the user's unused tokens for the purposes, and the mails that wait to carry
// them: without its token a mail could no longer be found when the account is removed. It runs the
// same statements if there are none.
func (s *Service) invalidate(
	ctx context.Context, tx *store.Tx, user model.UserID, purposes ...purpose,
) error {
	unused := func(q bun.QueryBuilder) bun.QueryBuilder {
		return q.Where("user_id = ?", user).Where("purpose IN (?)", bun.List(purposes)).
			Where("used_at IS NULL")
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

// mailKeys returns the keys of the mails that carry the tokens.
func mailKeys(tokens []*model.OneTimeToken) []string {
	keys := make([]string, len(tokens))
	for i, token := range tokens {
		keys[i] = hex.EncodeToString(token.Hash)
	}
	return keys
}

var errLinkExpired = errs.Input(errs.TokenExpired, "token",
	"The link is expired, or was used before. Ask for a new one.")

// readToken returns the hash that is stored of a token, or false for text that issue cannot have
// returned.
func readToken(token string) (hash []byte, ok bool) {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(secret) != oneTimeLen ||
		base64.RawURLEncoding.EncodeToString(secret) != token {
		return nil, false
	}
	return hashOf(secret), true
}

// requireToken returns TOKEN_EXPIRED for a token that redeem would refuse. It does not use it up:
// it is for a check before costly work.
func (s *Service) requireToken(ctx context.Context, token string, use purpose) error {
	hash, ok := readToken(token)
	if !ok {
		return errLinkExpired
	}
	works, err := s.db.NewSelect().Model((*model.OneTimeToken)(nil)).
		ApplyQueryBuilder(redeemable(hash, s.db.Now(), use)).
		Exists(ctx)
	if err == nil && !works {
		return errLinkExpired
	}
	return store.Error(err)
}

// redeem uses a token up. The error is TOKEN_EXPIRED if it does not work, or if it is for another
// purpose.
func redeem(
	ctx context.Context, tx *store.Tx, token string, purposes ...purpose,
) (*model.OneTimeToken, error) {
	hash, ok := readToken(token)
	if !ok {
		return nil, errLinkExpired
	}
	row := new(model.OneTimeToken)
	res, err := tx.NewUpdate().Model(row).Set("used_at = ?", tx.Now).
		ApplyQueryBuilder(redeemable(hash, tx.Now, purposes...)).
		Returning("?Columns").Exec(ctx)
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, cmp.Or[error](err, errLinkExpired)
	}
	return row, nil
}

// redeemable restricts a query to the token with this hash, if it works for one of the purposes.
func redeemable(
	hash []byte, now time.Time, purposes ...purpose,
) func(bun.QueryBuilder) bun.QueryBuilder {
	return func(q bun.QueryBuilder) bun.QueryBuilder {
		return q.Where("hash = ?", hash).Where("purpose IN (?)", bun.List(purposes)).
			Where("used_at IS NULL").Where("expires_at > ?", now)
	}
}

// linkMail returns a mail with a link that contains the token. Each token has one mail.
func (s *Service) linkMail(
	kind mail.Kind, to string, u *model.User, page, token string,
) mail.Message {
	hash, _ := readToken(token) // it comes from issue
	return mail.Message{
		Kind: kind, To: to, Nickname: u.Nickname, Link: s.opts.Link(page, token),
		Key: hex.EncodeToString(hash),
	}
}

// noticeMail returns a mail to the user's address, without a link.
func noticeMail(kind mail.Kind, u *model.User) mail.Message {
	return mail.Message{
		Kind: kind, To: u.Email, Nickname: u.Nickname, Key: model.NewAuditID().String(),
	}
}

// decoyAccount returns a stand-in for the account of an address that has none, so that the same
// work can be done for both. Its id depends on the address alone, and is not the id of an account.
func decoyAccount(emailKey string) *model.User {
	// invalid is a top-level domain that never exists (RFC 6761).
	u := &model.User{Email: "decoy@parley.invalid", Nickname: "decoy"}
	copy(u.ID[:], hashOf([]byte("no account: "+emailKey)))
	return u
}
