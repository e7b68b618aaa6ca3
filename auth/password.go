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

// The 10,000 most common of those that are long enough, one a line, most common first; counted by zxcvbn
// (https://github.com/dropbox/zxcvbn) over leaked passwords.
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
		problems.Add(errs.Invalid, path, "This is one of the passwords that are tried first. Choose another.")
	}
}

func (s *Service) hashPassword(ctx context.Context, password string, from Client) (hash string, err error) {
	err = s.withSlot(ctx, from, func() error {
		hash, err = argon2id.CreateHash(password, s.opts.Argon2)
		return err
	})
	return hash, err
}

// passwordMatches takes as long for an empty hash, which stands for no account, as for any other.
func (s *Service) passwordMatches(ctx context.Context, password, hash string, from Client) (matches bool, err error) {
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

// How many callers may wait for a slot to hash a password in. maxHashWaiters is about a second's work of two cores, so a
// client is told to try again rather than kept waiting. One address has half of them at most: many people may share it, and
// others still find places without pushing anyone out.
const (
	maxHashWaiters           = 100
	maxHashWaitersPerAddress = 50
)

// withSlot runs fn in one of the slots of the semaphore, in the turn of the client's address.
func (s *Service) withSlot(ctx context.Context, from Client, fn func() error) error {
	if err := s.hashing.acquire(ctx, from.Network()); err != nil {
		return err
	}
	defer s.hashing.release()
	return fn()
}
