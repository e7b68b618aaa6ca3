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

// issue makes a token that works once, and voids those that were issued before for the same purpose. Only its hash is
// stored; the token itself is in the mail alone.
func issue(ctx context.Context, tx *store.Tx, what purpose, user model.UserID, newEmail *string, ttl time.Duration) (string, error) {
	if err := void(ctx, tx, user, what); err != nil {
		return "", err
	}
	var secret [oneTimeLen]byte
	_, _ = rand.Read(secret[:]) // never fails, see its documentation
	_, err := tx.NewInsert().Model(&model.OneTimeToken{
		Hash: hashOf(secret[:]), Purpose: string(what), UserID: user, Email: newEmail, CreatedAt: tx.Now, ExpiresAt: tx.Now.Add(ttl),
	}).Exec(ctx)
	return base64.RawURLEncoding.EncodeToString(secret[:]), err
}

// void makes unused tokens worthless.
func void(ctx context.Context, tx *store.Tx, user model.UserID, purposes ...purpose) error {
	_, err := tx.NewDelete().Model((*model.OneTimeToken)(nil)).
		Where("user_id = ?", user).Where("purpose IN (?)", bun.List(purposes)).Where("used_at IS NULL").Exec(ctx)
	return err
}

var errOneTime = errs.Input(errs.TokenExpired, "token", "The link is expired, or was used before. Ask for a new one.")

// hashOfToken is what is stored of a token.
func hashOfToken(token string) []byte {
	secret, _ := base64.RawURLEncoding.DecodeString(token) // as issue has made it
	return hashOf(secret)
}

// redeem uses a token up. TOKEN_EXPIRED where it does not work, or not for any of these purposes.
func redeem(ctx context.Context, tx *store.Tx, token string, purposes ...purpose) (*model.OneTimeToken, error) {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(secret) != oneTimeLen || base64.RawURLEncoding.EncodeToString(secret) != token {
		return nil, errOneTime
	}
	row := new(model.OneTimeToken)
	res, err := tx.NewUpdate().Model(row).Set("used_at = ?", tx.Now).
		Where("hash = ?", hashOf(secret)).Where("purpose IN (?)", bun.List(purposes)).
		Where("used_at IS NULL").Where("expires_at > ?", tx.Now).Returning("*").Exec(ctx)
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, cmp.Or[error](err, errOneTime)
	}
	return row, nil
}

// mailLink sends a token to an address; one token is one mail.
func (s *Service) mailLink(
	ctx context.Context, tx *store.Tx, kind mail.Kind, to string, u *model.User, page, token string,
) error {
	return s.opts.Mail.Enqueue(ctx, tx, mail.Message{
		Kind: kind, To: to, Nickname: u.Nickname, Link: s.opts.Link(page, token),
		Key: hex.EncodeToString(hashOfToken(token)),
	})
}

// mailNotice tells an address what has happened.
func (s *Service) mailNotice(ctx context.Context, tx *store.Tx, kind mail.Kind, to string, u *model.User) error {
	return s.opts.Mail.Enqueue(ctx, tx, mail.Message{
		Kind: kind, To: to, Nickname: u.Nickname, Key: model.NewAuditID().String(),
	})
}
