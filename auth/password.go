package auth

import (
	"context"

	"github.com/alexedwards/argon2id"

	"parley/errs"
	"parley/text"
)

const (
	minPassword = 8
	maxPassword = 256
)

func checkPassword(problems *errs.List, path, password string) {
	switch n := text.Len(password); {
	case n < minPassword:
		problems.Add(errs.TooShort, path, "A password has at least %d characters.", minPassword)
	case n > maxPassword:
		problems.Add(errs.TooLong, path, "A password has at most %d characters.", maxPassword)
	}
}

func (s *Service) hashPassword(ctx context.Context, password string) (hash string, err error) {
	err = s.takingTurns(ctx, func() error {
		hash, err = argon2id.CreateHash(password, s.opts.Argon2)
		return err
	})
	return hash, err
}

// passwordMatches takes as long for an empty hash, which stands for no account, as for any other.
func (s *Service) passwordMatches(ctx context.Context, password, hash string) (matches bool, err error) {
	known := hash != ""
	if !known {
		hash = s.decoy()
	}
	err = s.takingTurns(ctx, func() error {
		matches, err = argon2id.ComparePasswordAndHash(password, hash)
		return err
	})
	return matches && known, err
}

func (s *Service) takingTurns(ctx context.Context, fn func() error) error {
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
		return fn()
	case <-ctx.Done():
		return ctx.Err()
	}
}
