package auth

import (
	"context"
	_ "embed"
	"strings"
	"sync"

	"github.com/alexedwards/argon2id"

	"parley/errs"
	"parley/text"
)

const (
	minPassword = 8
	maxPassword = 256
)

// The 10,000 most common passwords of at least minPassword characters, one on each line, most
// common first. The counts are those of zxcvbn (https://github.com/dropbox/zxcvbn), over leaked
// passwords.
//
//go:embed common_passwords.txt
var commonPasswords string

var isCommon = sync.OnceValue(func() map[string]bool { //nolint:gochecknoglobals // a constant table
	common := map[string]bool{}
	for line := range strings.Lines(commonPasswords) {
		common[strings.TrimSuffix(line, "\n")] = true
	}
	return common
})

func checkPassword(problems *errs.List, path, password string) {
	switch n := text.Len(password); {
	case n < minPassword:
		problems.Add(errs.TooShort, path, "A password has at least %d characters.", minPassword)
	case n > maxPassword:
		problems.Add(errs.TooLong, path, "A password has at most %d characters.", maxPassword)
	case isCommon()[strings.ToLower(password)]:
		problems.Add(errs.Invalid, path,
			"This password is too common: attackers try it first. Choose another.")
	}
}

func (s *Service) hashPassword(
	ctx context.Context, password string, from Client,
) (hash string, err error) {
	err = s.withSlot(ctx, from, func() error {
		hash, err = argon2id.CreateHash(password, s.opts.Argon2)
		return err
	})
	return hash, err
}

// passwordMatches compares a password with a hash. An empty hash, for an account that does not
// exist, never matches, after the same work.
func (s *Service) passwordMatches(
	ctx context.Context, password, hash string, from Client,
) (matches bool, err error) {
	known := hash != ""
	if !known {
		hash = s.decoy
	}
	err = s.withSlot(ctx, from, func() error {
		matches, err = argon2id.ComparePasswordAndHash(password, hash)
		return err
	})
	return matches && known, err
}
