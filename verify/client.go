package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// answerTimeout is how long a request may take before its outcome counts as unknown.
const answerTimeout = 5 * time.Second

// client speaks to the API over HTTP, as anybody may.
type client struct {
	nodes *nodes
	http  *http.Client

	internal atomic.Int64 // answers that were INTERNAL_SERVER_ERROR
	errorID  atomic.Pointer[string]
}

func newClient(n *nodes) *client {
	return &client{nodes: n, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Minute}}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refusal is an answer that says no, by its code: of a GraphQL error, or of a userErrors entry.
type refusal struct {
	code, message string
	retryAfter    time.Duration
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %s", r.code, r.message) }

// codeOf is the code of a refusal, or nothing.
func codeOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code
	}
	return ""
}

// errUnknown says that there is no answer, or none that tells what has become of the request: it
// may have been executed.
var errUnknown = errors.New("the outcome is unknown")

func unknown(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUnknown}, args...)...)
}

// apiError is an error of a GraphQL answer.
type apiError struct {
	Message    string
	Extensions struct {
		Code         string
		RetryAfterMs int64
		ErrorID      string
	}
}

// judge turns GraphQL's errors into a refusal, or into an outcome that is unknown.
func (c *client) judge(list []apiError) error {
	if len(list) == 0 {
		return nil
	}
	e := list[0]
	switch e.Extensions.Code {
	case "INTERNAL_SERVER_ERROR":
		c.internal.Add(1)
		c.errorID.CompareAndSwap(nil, &e.Extensions.ErrorID)
		return unknown("%s: %s (%s)", e.Extensions.Code, e.Message, e.Extensions.ErrorID)
	case "UNAVAILABLE":
		return unknown("%s: %s", e.Extensions.Code, e.Message)
	}
	return &refusal{code: e.Extensions.Code, message: e.Message, retryAfter: time.Duration(e.Extensions.RetryAfterMs) * time.Millisecond}
}

// ask has a node execute one operation, whose only field is read into data. Its userErrors are a
// refusal too.
func (c *client) ask(ctx context.Context, node int, token, query string, variables map[string]any, data any) error {
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.nodes.url(node), bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return unknown("%v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return unknown("%v", err)
	}
	var answer struct {
		Data   map[string]json.RawMessage
		Errors []apiError
	}
	if err := json.Unmarshal(said, &answer); err != nil {
		return unknown("%s, and no GraphQL: %s", resp.Status, quoted(string(said)))
	}
	if err := c.judge(answer.Errors); err != nil {
		return err
	}
	for _, field := range answer.Data {
		return readField(field, data)
	}
	return unknown("%s, and neither data nor errors", resp.Status)
}

func readField(field json.RawMessage, data any) error {
	var mistakes struct {
		UserErrors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(field, &mistakes); err == nil && len(mistakes.UserErrors) > 0 {
		return &refusal{code: mistakes.UserErrors[0].Code, message: mistakes.UserErrors[0].Message}
	}
	if data == nil {
		return nil
	}
	return json.Unmarshal(field, data)
}

// pauses between tries of what has to succeed in the end.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// insist tries on one node after another until the outcome is known. again hears of each try after
// one that may have been executed. One that came too fast was not: it is made again on the same
// node after as long as the node says.
func (c *client) insist(ctx context.Context, node int, try func(node int) error, again func(why error)) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := try(node)
		r, limited := errors.AsType[*refusal](err)
		switch {
		case limited && r.code == "RATE_LIMITED":
			pause = max(pause, r.retryAfter)
		case !errors.Is(err, errUnknown):
			return err
		}
		if ctx.Err() != nil || !wait(ctx, pause) {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		if limited {
			continue
		}
		if again != nil {
			again(err)
		}
		node++
	}
}

// person is somebody with an account.
type person struct {
	client   *client
	id       string
	name     string
	email    string
	password string
	main     *device
}

// device is where a person is signed in. When its session is over, it signs in again.
type device struct {
	person *person

	mu      sync.Mutex // guards what follows, and makes the uses of a refresh token take turns
	session *session
}

// session is one that has been, and its tokens.
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

func (s *session) take(t tokens) {
	s.access, s.refresh, s.begun, s.expires = t.AccessToken, t.RefreshToken, time.Now(), t.ExpiresAt
}

// fresh reports whether the access token has a fifth of its time left.
func (s *session) fresh() bool { return time.Until(s.expires) > s.expires.Sub(s.begun)/5 }

const tokenFields = `tokens { accessToken refreshToken expiresAt } viewer { user { id } sessions { id current } } userErrors { code message }`

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
	s.take(*a.Tokens)
	for _, one := range a.Viewer.Sessions {
		if one.Current {
			s.id = one.ID
		}
	}
	return s
}

// errClosed says what a server has to allow, so that it can be verified.
var errClosed = errors.New("to verify a server, registration has to be open on it (PARLEY_REGISTRATION=open, without " +
	"PARLEY_CONCEAL_EMAILS and PARLEY_REQUIRE_VERIFIED_EMAIL), and rate limits off or generous (PARLEY_RATE_LIMITS=false)")

// register makes the account.
func (p *person) register(ctx context.Context, node int) error {
	in := map[string]any{"email": p.email, "nickname": p.name, "password": p.password}
	var answer signedIn
	var unsure bool
	err := p.client.insist(ctx, node, func(node int) error {
		err := p.client.ask(ctx, node, "", `mutation ($in: RegisterInput!) { register(input: $in) { `+tokenFields+` } }`,
			map[string]any{"in": in}, &answer)
		if codeOf(err) == "RATE_LIMITED" {
			return fmt.Errorf("register: %w: %s", errClosed, err.Error())
		}
		return err
	}, func(error) { unsure = true })
	if unsure && codeOf(err) == "TAKEN" { // by the try whose answer was lost
		answer, err = p.login(ctx, node)
	}
	if err != nil {
		return fmt.Errorf("register: %w: %w", errClosed, err)
	}
	if answer.Tokens == nil || answer.Viewer == nil {
		return fmt.Errorf("register: %w: nobody was signed in", errClosed)
	}
	p.id, p.main.session = answer.Viewer.User.ID, answer.session()
	return nil
}

func (p *person) login(ctx context.Context, node int) (answer signedIn, err error) {
	err = p.client.insist(ctx, node, func(node int) error {
		return p.client.ask(ctx, node, "", `mutation ($in: LoginInput!) { login(input: $in) { `+tokenFields+` } }`,
			map[string]any{"in": map[string]any{"email": p.email, "password": p.password}}, &answer)
	}, nil)
	if err != nil {
		return answer, fmt.Errorf("login: %w", err)
	}
	if answer.Tokens == nil || answer.Viewer == nil {
		return answer, fmt.Errorf("login: %w: nobody was signed in", errClosed)
	}
	return answer, nil
}

// signIn is a session that is alive, as far as can be told, and its access token.
func (d *device) signIn(ctx context.Context, node int) (id, token string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil && !d.session.fresh() {
		err = d.refresh(ctx, node)
	}
	if codeOf(err) == "TOKEN_EXPIRED" || d.session == nil {
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

const refreshQuery = `mutation ($in: RefreshSessionInput!) { refreshSession(input: $in) {
	tokens { accessToken refreshToken expiresAt } userErrors { code message } } }`

func (d *device) refresh(ctx context.Context, node int) error {
	var answer struct{ Tokens *tokens }
	err := d.person.client.insist(ctx, node, func(node int) error {
		return d.person.client.ask(ctx, node, "", refreshQuery,
			map[string]any{"in": map[string]any{"refreshToken": d.session.refresh}}, &answer)
	}, nil)
	if err != nil {
		return err
	}
	d.session.take(*answer.Tokens)
	return nil
}

// doubt has the next signIn ask for other tokens, because a server has not taken this one.
func (d *device) doubt(token string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil && d.session.access == token {
		d.session.expires = time.Time{}
	}
}

// do asks as this person until the outcome is known.
func (p *person) do(ctx context.Context, node int, query string, in, data any, again func(why error)) error {
	return p.client.insist(ctx, node, func(node int) error {
		_, token, err := p.main.signIn(ctx, node)
		if err != nil {
			return err
		}
		err = p.client.ask(ctx, node, token, query, map[string]any{"in": in}, data)
		if codeOf(err) == "UNAUTHENTICATED" {
			p.main.doubt(token)
			return unknown("%v", err)
		}
		return err
	}, again)
}
