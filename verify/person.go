package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	api "parley/internal/client"
)

// person is a user account.
type person struct {
	client   *client
	id       string
	name     string
	email    string
	password string
	main     *device
}

// device is where a person is signed in. It signs in again when its session has ended.
type device struct {
	person *person

	mu      sync.Mutex // guards session, and serializes the uses of its refresh token
	session *session
}

// session is a session, which may have ended, and its tokens.
type session struct {
	id      string
	access  string
	refresh string
	begun   time.Time
	expires time.Time
}

type tokens struct {
	AccessToken, RefreshToken string
	ExpiresAt                 time.Time
}

func (s *session) setTokens(t tokens) {
	s.access, s.refresh, s.begun, s.expires = t.AccessToken, t.RefreshToken, time.Now(), t.ExpiresAt
}

// fresh reports whether the access token has a fifth of its lifetime left.
func (s *session) fresh() bool { return time.Until(s.expires) > s.expires.Sub(s.begun)/5 }

const tokenFields = `tokens { accessToken refreshToken expiresAt }
	viewer { user { id } sessions { id current } } userErrors { code message }`

type signedIn struct {
	Tokens *tokens
	Viewer *struct {
		User     struct{ ID string }
		Sessions []struct {
			ID      string
			Current bool
		}
	}
}

func (a signedIn) session() *session {
	s := &session{}
	s.setTokens(*a.Tokens)
	for _, one := range a.Viewer.Sessions {
		if one.Current {
			s.id = one.ID
		}
	}
	return s
}

// errClosed says which settings of a server allow it to be verified.
var errClosed = errors.New("to verify a server, registration has to be open on it " +
	"(PARLEY_REGISTRATION=open, without PARLEY_CONCEAL_EMAILS and " +
	"PARLEY_REQUIRE_VERIFIED_EMAIL), " +
	"and rate limits off or generous (PARLEY_RATE_LIMITS=false)")

const (
	registerQuery = `mutation ($in: RegisterInput!) { register(input: $in) { ` + tokenFields +
		` } }`
	loginQuery   = `mutation ($in: LoginInput!) { login(input: $in) { ` + tokenFields + ` } }`
	refreshQuery = `mutation ($in: RefreshSessionInput!) { refreshSession(input: $in) {
	tokens { accessToken refreshToken expiresAt } userErrors { code message } } }`

	codeTaken = "TAKEN" // the name or the address has an account
)

// register creates the account.
func (p *person) register(ctx context.Context, node int) error {
	in := map[string]any{
		"in": map[string]any{"email": p.email, "nickname": p.name, "password": p.password},
	}
	var answer signedIn
	var unsure bool
	err := p.client.retry(ctx, node, func(node int) error {
		err := p.client.execute(ctx, node, "", registerQuery, in, &answer)
		if codeOf(err) == api.RateLimited {
			return fmt.Errorf("register: %w: %s", errClosed, err.Error())
		}
		return err
	}, func(error) { unsure = true })
	if unsure && codeOf(err) == codeTaken { // by an attempt whose answer was lost
		answer, err = p.login(ctx, node)
	}
	if err != nil {
		return fmt.Errorf("register: %w: %w", errClosed, err)
	}
	if answer.Tokens == nil || answer.Viewer == nil {
		return fmt.Errorf("register: %w: the answer has no tokens", errClosed)
	}
	p.id, p.main.session = answer.Viewer.User.ID, answer.session()
	return nil
}

func (p *person) login(ctx context.Context, node int) (answer signedIn, err error) {
	in := map[string]any{"in": map[string]any{"email": p.email, "password": p.password}}
	err = p.client.retry(ctx, node, func(node int) error {
		return p.client.execute(ctx, node, "", loginQuery, in, &answer)
	}, nil)
	if err != nil {
		return answer, fmt.Errorf("login: %w", err)
	}
	if answer.Tokens == nil || answer.Viewer == nil {
		return answer, fmt.Errorf("login: %w: the answer has no tokens", errClosed)
	}
	return answer, nil
}

// signIn returns the device's session and an access token, which are valid as far as is known. It
// refreshes the token or signs in if necessary.
func (d *device) signIn(ctx context.Context, node int) (id, token string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil && !d.session.fresh() {
		err = d.refresh(ctx, node)
	}
	if codeOf(err) == api.TokenExpired || d.session == nil {
		var answer signedIn
		if answer, err = d.person.login(ctx, node); err == nil {
			d.session = answer.session()
		}
	}
	if err != nil {
		return "", "", err
	}
	return d.session.id, d.session.access, nil
}

// refresh trades the refresh token for new tokens. Must be called with d.mu held.
func (d *device) refresh(ctx context.Context, node int) error {
	in := map[string]any{"in": map[string]any{"refreshToken": d.session.refresh}}
	var answer struct{ Tokens *tokens }
	err := d.person.client.retry(ctx, node, func(node int) error {
		return d.person.client.execute(ctx, node, "", refreshQuery, in, &answer)
	}, nil)
	if err != nil {
		return err
	}
	d.session.setTokens(*answer.Tokens)
	return nil
}

// invalidate makes the next signIn get other tokens, because a server has refused this one.
func (d *device) invalidate(token string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil && d.session.access == token {
		d.session.expires = time.Time{}
	}
}

// do runs an operation as this person until the outcome is known.
func (p *person) do(
	ctx context.Context, node int, query string, in, data any, onRetry func(why error),
) error {
	return p.client.retry(ctx, node, func(node int) error {
		_, token, err := p.main.signIn(ctx, node)
		if err != nil {
			return err
		}
		err = p.client.execute(ctx, node, token, query, map[string]any{"in": in}, data)
		if codeOf(err) == api.Unauthenticated {
			p.main.invalidate(token)
			return unknown("%v", err)
		}
		return err
	}, onRetry)
}
