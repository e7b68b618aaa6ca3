package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	api "parley/internal/client"
)

// answerTimeout is how long a request may take before its outcome counts as unknown.
const answerTimeout = 5 * time.Second

// client sends requests to the API over HTTP.
type client struct {
	nodes *nodes
	http  *http.Client

	internal atomic.Int64           // answers with INTERNAL_SERVER_ERROR
	errorID  atomic.Pointer[string] // of the first of them
}

func newClient(n *nodes) *client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Minute}
	return &client{nodes: n, http: &http.Client{Transport: transport}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refusal is an answer that refuses a request: with a GraphQL error, or with userErrors.
type refusal struct {
	code, message string
	retryAfter    time.Duration
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %s", r.code, r.message) }

// codeOf returns the code of a refusal, and "" for any other error.
func codeOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code
	}
	return ""
}

// errUnknown means that a request may have been executed or not: there is no answer, or one that
// does not say.
var errUnknown = errors.New("the outcome is unknown")

func unknown(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUnknown}, args...)...)
}

// classify turns GraphQL's errors into a refusal or an unknown outcome: nil if there are none.
func (c *client) classify(list []api.Error) error {
	if len(list) == 0 {
		return nil
	}
	e, extensions := list[0], list[0].Extensions
	switch extensions.Code {
	case api.Internal:
		c.internal.Add(1)
		c.errorID.CompareAndSwap(nil, &extensions.ErrorID)
		return unknown("%s: %s (%s)", extensions.Code, e.Message, extensions.ErrorID)
	case api.Unavailable:
		return unknown("%s: %s", extensions.Code, e.Message)
	}
	return &refusal{
		code: extensions.Code, message: e.Message,
		retryAfter: time.Duration(extensions.RetryAfterMs) * time.Millisecond,
	}
}

// execute runs one operation on a node, and reads its only field into data. userErrors are a
// refusal too.
func (c *client) execute(
	ctx context.Context, node int, token, query string, variables map[string]any, data any,
) error {
	body, err := json.Marshal(api.Operation{Query: query, Variables: variables})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	status, text, err := api.Post(ctx, c.http, c.nodes.url(node), token, body)
	if err != nil {
		return unknown("%v", err)
	}
	var answer struct {
		Data   map[string]json.RawMessage
		Errors []api.Error
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return unknown("status %d, not GraphQL: %s", status, quoted(string(text)))
	}
	if err := c.classify(answer.Errors); err != nil {
		return err
	}
	for _, field := range answer.Data {
		return readField(field, data)
	}
	return unknown("status %d, neither data nor errors", status)
}

func readField(field json.RawMessage, data any) error {
	var payload struct {
		UserErrors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(field, &payload); err == nil && len(payload.UserErrors) > 0 {
		return &refusal{code: payload.UserErrors[0].Code, message: payload.UserErrors[0].Message}
	}
	if data == nil {
		return nil
	}
	return json.Unmarshal(field, data)
}

// Backoff between attempts.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second
)

// retry calls attempt on one node after another until the outcome is known. It calls onRetry before
// it repeats a request that may have been executed. A rate-limited request was not executed: retry
// repeats it on the same node, after the time that the node demands.
func (c *client) retry(
	ctx context.Context, node int, attempt func(node int) error, onRetry func(why error),
) error {
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		err := attempt(node)
		r, limited := errors.AsType[*refusal](err)
		limited = limited && r.code == api.RateLimited
		switch {
		case limited:
			backoff = max(backoff, r.retryAfter)
		case !errors.Is(err, errUnknown):
			return err
		}
		if ctx.Err() != nil || !wait(ctx, backoff) {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		if limited {
			continue
		}
		if onRetry != nil {
			onRetry(err)
		}
		node++
	}
}
